-- What an earlier version may have been about to move from the log into updates.
INSERT INTO marks (name, value) SELECT 'expanding', max(position) FROM batches;

-- Path attributes become one column: next hop, path, communities and, where there is one, OTC, a line each. The same ones
-- come again and again as a whole, so that a dictionary holds them once for many rows. A path that begins with the peer's
-- AS, as nearly all do, begins with '=' instead: then it is the same from many peers.
{{.DropDistributed "updates"}}

ALTER TABLE {{.Local "updates"}} {{.OnCluster}} ADD COLUMN IF NOT EXISTS attributes LowCardinality(String)
  DEFAULT if(action IN (1, 3), concat(next_hop, '\n', as_path, '\n', communities, if(otc = 0, '', concat('\n', toString(otc)))), '') CODEC(ZSTD(1)),
  MODIFY COLUMN row UInt32 CODEC(T64),
  MODIFY COLUMN peer UInt32 CODEC(T64('bit'));
