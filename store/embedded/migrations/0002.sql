-- 1 where the batch was read from an archive after a gap of a live feed: history only, no input of detection.
ALTER TABLE batches ADD COLUMN backfilled INTEGER NOT NULL DEFAULT 0;

-- Gaps of live feeds, and how far each has been completed. Times are microseconds since 1970.
CREATE TABLE gaps (
  id           INTEGER PRIMARY KEY,
  feed         TEXT NOT NULL,
  collector    TEXT NOT NULL,
  from_time    INTEGER NOT NULL, -- event time
  until_time   INTEGER,
  state        TEXT NOT NULL,
  updates      INTEGER NOT NULL,
  attempts     INTEGER NOT NULL,
  next_attempt INTEGER, -- wall clock
  error        TEXT NOT NULL,
  file         INTEGER, -- when the file that is being taken begins
  taken        INTEGER NOT NULL
) STRICT;
CREATE INDEX gaps_by_state ON gaps (state, id);

-- Which collectors live feeds have told of, and a time until which they did; history may know of a later one.
CREATE TABLE heard (
  collector TEXT PRIMARY KEY,
  feed      TEXT NOT NULL,
  time      INTEGER NOT NULL -- event time
) STRICT, WITHOUT ROWID;
