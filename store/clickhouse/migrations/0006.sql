ALTER TABLE {{.Local "updates"}} {{.OnCluster}} MODIFY COLUMN attributes LowCardinality(String) DEFAULT '' CODEC(ZSTD(1));

ALTER TABLE {{.Local "updates"}} {{.OnCluster}}
  DROP COLUMN IF EXISTS as_path, DROP COLUMN IF EXISTS next_hop, DROP COLUMN IF EXISTS communities, DROP COLUMN IF EXISTS otc;

{{.DropDistributed "updates"}}

{{.Distributed "updates" "sipHash64(afi, address)"}}

CREATE OR REPLACE VIEW routes {{.OnCluster}} AS
WITH splitByChar('\n', toString(u.attributes)) AS lines
SELECT fromUnixTimestamp64Micro(u.time) AS time, ['announce', 'withdraw', 'rib', 'peer_up', 'peer_down'][u.action] AS action, p.collector AS collector, p.asn AS peer_asn, p.address AS peer_ip, p.view AS view,
  if(u.afi = 0, '', if(u.afi = 4, replaceOne(toString(u.address), '::ffff:', ''), toString(u.address)) || '/' || toString(u.length)) AS prefix,
  u.path_id AS path_id, if(startsWith(lines[2], '='), toString(p.asn) || substring(lines[2], 2), lines[2]) AS as_path, u.origin_asn AS origin_asn,
  if(lines[1] = '=', p.address, lines[1]) AS next_hop, lines[3] AS communities, toUInt32OrZero(lines[4]) AS otc,
  u.backfilled AS backfilled, u.position AS position, u.row AS row
FROM updates AS u LEFT JOIN (SELECT * FROM peers FINAL) AS p ON p.id = u.peer;
