-- Whether a batch is history of another store: no input of detection either, and backfilled says what it was there.
ALTER TABLE batches {{.OnCluster}} ADD COLUMN IF NOT EXISTS imported Bool;
