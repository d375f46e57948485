-- Each statement may be run again: what stops half-way is begun anew. Times are UTC, to the microsecond.

-- Who may write. A claim has first_position 0; the second row of an epoch says where in history it begins: what an
-- earlier epoch has at or after that position is void.
CREATE TABLE IF NOT EXISTS epochs {{.OnCluster}} (
  epoch UInt64,
  owner String,
  first_position UInt64,
  at DateTime64(6, 'UTC')
) ENGINE = {{.Engine "MergeTree"}} ORDER BY (epoch, first_position) SETTINGS {{.Durable}};

-- The log: one row a batch. Of several at one position the one with the highest epoch counts. Partitions are dropped
-- once the updates are in the table of updates and a checkpoint covers them.
CREATE TABLE IF NOT EXISTS batches {{.OnCluster}} (
  position UInt64,
  epoch UInt64,
  received_at DateTime64(6, 'UTC'),
  watermark Int64,               -- event times are microseconds since 1970, as feeds may say anything
  backfilled Bool,
  updates UInt32,
  rows UInt32,
  min_time Int64,
  max_time Int64,
  gap_id UInt64,                 -- 0, or a gap that this batch changes
  gap_version UInt64,
  gap String,                    -- as in the table of gaps
  body String CODEC(NONE)        -- compressed already, as package store/batch does
) ENGINE = {{.Engine "MergeTree"}} PARTITION BY intDiv(position, {{.LogPartition}}) ORDER BY position SETTINGS {{.Durable}};

-- Named numbers that only grow: expanded is the position up to which batches are in the table of updates.
CREATE TABLE IF NOT EXISTS marks {{.OnCluster}} (
  name String,
  value UInt64
) ENGINE = {{.Engine "ReplacingMergeTree" "value"}} ORDER BY name SETTINGS {{.Durable}};

-- Who said what; a small number in each row of updates stands for it. The highest epoch counts.
CREATE TABLE IF NOT EXISTS peers {{.OnCluster}} (
  id UInt32,
  epoch UInt64,
  collector String,
  address String,
  asn UInt32,
  view UInt8
) ENGINE = {{.Engine "ReplacingMergeTree" "epoch"}} ORDER BY id SETTINGS {{.Durable}};

-- History, one row for each prefix of each update, in the order of prefixes. IPv4 addresses are mapped into IPv6.
-- Expanding a batch again gives the same rows, which merges fold into one.
CREATE TABLE IF NOT EXISTS {{.Local "updates"}} {{.OnCluster}} (
  afi UInt8 CODEC(ZSTD(1)), -- 4 or 6; 0 for what concerns a session and not a prefix
  address IPv6 CODEC(ZSTD(1)),
  length UInt8 CODEC(ZSTD(1)),
  position UInt64 CODEC(Delta(4), ZSTD(1)),
  row UInt32 CODEC(ZSTD(1)),
  received Date CODEC(ZSTD(1)),
  time Int64 CODEC(Delta(8), ZSTD(1)),
  action UInt8 CODEC(ZSTD(1)), -- 1 announce, 2 withdraw, 3 rib, 4 peer_up, 5 peer_down
  peer UInt32 CODEC(ZSTD(1)), -- in the table of peers
  path_id UInt32 CODEC(ZSTD(1)),
  origin_asn UInt32 CODEC(ZSTD(1)),
  as_path String CODEC(ZSTD(3)),
  next_hop String CODEC(ZSTD(1)), -- '=' is the address of the peer
  communities String CODEC(ZSTD(3)), -- separated by spaces
  otc UInt32 CODEC(ZSTD(1)),
  backfilled Bool CODEC(ZSTD(1)),
  INDEX by_position position TYPE minmax GRANULARITY 1,
  INDEX by_time time TYPE minmax GRANULARITY 1,
  INDEX by_origin origin_asn TYPE bloom_filter(0.01) GRANULARITY 1,
  PROJECTION totals (SELECT count(), min(time), max(time))
) ENGINE = {{.ShardedEngine "ReplacingMergeTree"}} PARTITION BY received ORDER BY (afi, address, length, position, row)
SETTINGS {{.Durable}}, deduplicate_merge_projection_mode = 'rebuild'{{.DeduplicationWindow}};

{{.Distributed "updates" "sipHash64(afi, address)"}}

-- For people who query by hand.
CREATE OR REPLACE VIEW routes {{.OnCluster}} AS
SELECT fromUnixTimestamp64Micro(u.time) AS time, ['announce', 'withdraw', 'rib', 'peer_up', 'peer_down'][u.action] AS action, p.collector AS collector, p.asn AS peer_asn, p.address AS peer_ip, p.view AS view,
  if(u.afi = 0, '', if(u.afi = 4, replaceOne(toString(u.address), '::ffff:', ''), toString(u.address)) || '/' || toString(u.length)) AS prefix,
  u.path_id AS path_id, u.as_path AS as_path, u.origin_asn AS origin_asn, if(u.next_hop = '=', p.address, u.next_hop) AS next_hop,
  u.communities AS communities, u.otc AS otc, u.backfilled AS backfilled, u.position AS position, u.row AS row
FROM updates AS u LEFT JOIN (SELECT * FROM peers FINAL) AS p ON p.id = u.peer;

-- What detection concluded and who is to be told. One call that commits events is one block, which is stored whole or
-- not at all. Of several rows of one event the one with the highest version counts: it was only written because none
-- was there yet, so that the others came late and were never acknowledged. Of a delivery the highest version says how it
-- stands, the lowest what is sent.
CREATE TABLE IF NOT EXISTS journal {{.OnCluster}} (
  entry Enum8('event' = 1, 'delivery' = 2),
  incident_id String,
  sequence UInt64,
  key String,
  version UInt64,
  status LowCardinality(String),
  kind LowCardinality(String),
  severity UInt8, -- rank
  started_at DateTime64(6, 'UTC'),
  ended_at Nullable(DateTime64(6, 'UTC')),
  asns Array(UInt32),
  first_addresses Array(String), -- of its prefixes, each: a byte 4 or 6, then the address's bytes
  last_addresses Array(String),
  receiver LowCardinality(String),
  state LowCardinality(String),
  attempts UInt32,
  created_at Nullable(DateTime64(6, 'UTC')),
  updated_at Nullable(DateTime64(6, 'UTC')),
  next_attempt Nullable(DateTime64(6, 'UTC')),
  expires_at Nullable(DateTime64(6, 'UTC')),
  last_error String,
  receipt String,
  body String CODEC(ZSTD(3)), -- of an event: JSON; of a delivery: what is sent
  INDEX by_key key TYPE bloom_filter(0.01) GRANULARITY 1,
  INDEX by_sequence sequence TYPE minmax GRANULARITY 1
) ENGINE = {{.Engine "MergeTree"}} ORDER BY (entry, incident_id, sequence, key, version) SETTINGS {{.Durable}};

-- Incidents as they stand.
CREATE OR REPLACE VIEW incidents {{.OnCluster}} AS
SELECT incident_id, max(sequence) AS last_sequence,
  argMax(status, (sequence, version)) AS status,
  argMax(kind, (sequence, version)) AS kind,
  argMax(severity, (sequence, version)) AS severity,
  argMax(started_at, (sequence, version)) AS started_at,
  argMax(tuple(ended_at), (sequence, version)).1 AS ended_at,
  argMax(asns, (sequence, version)) AS asns,
  argMax(first_addresses, (sequence, version)) AS first_addresses,
  argMax(last_addresses, (sequence, version)) AS last_addresses
FROM journal WHERE entry = 'event' GROUP BY incident_id;

-- Gaps of live feeds, as JSON; the highest version counts.
CREATE TABLE IF NOT EXISTS gaps {{.OnCluster}} (
  id UInt64,
  version UInt64,
  gap String
) ENGINE = {{.Engine "ReplacingMergeTree" "version"}} ORDER BY id SETTINGS {{.Durable}};

-- Which collectors live feeds have told of; the highest version counts.
CREATE TABLE IF NOT EXISTS heard {{.OnCluster}} (
  collector String,
  version UInt64,
  feed String,
  time DateTime64(6, 'UTC')
) ENGINE = {{.Engine "ReplacingMergeTree" "version"}} ORDER BY collector SETTINGS {{.Durable}};

-- The detector's saved state: numbered pieces from 1 on and, written after them, a row 0 that makes them count.
CREATE TABLE IF NOT EXISTS checkpoints {{.OnCluster}} (
  serial UInt64,
  piece UInt32,
  position UInt64,
  pieces UInt32,
  checksum UInt32, -- CRC-32C of the whole state
  data String
) ENGINE = {{.Engine "MergeTree"}} PARTITION BY serial ORDER BY piece SETTINGS {{.Durable}};
