-- 1 where the batch is history of another store: no input of detection either, and backfilled says what it was there.
ALTER TABLE batches ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
