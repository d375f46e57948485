-- The unsealed tail of history, one row a batch. The small columns come first, so that a scan over
-- them does not touch the overflow pages that hold the bodies. Times are microseconds since 1970.
CREATE TABLE batches (
  position    INTEGER PRIMARY KEY,
  received_at INTEGER NOT NULL, -- wall clock
  updates     INTEGER NOT NULL,
  rows        INTEGER NOT NULL,
  min_time    INTEGER NOT NULL, -- event time
  max_time    INTEGER NOT NULL,
  body        BLOB NOT NULL
) STRICT;

-- The manifest of sealed history. Parts cover ranges of positions that do not overlap.
CREATE TABLE parts (
  first_position INTEGER PRIMARY KEY,
  last_position  INTEGER NOT NULL,
  file           TEXT NOT NULL UNIQUE,
  rows           INTEGER NOT NULL,
  bytes          INTEGER NOT NULL,
  min_time       INTEGER NOT NULL, -- event time
  max_time       INTEGER NOT NULL,
  received_at    INTEGER NOT NULL, -- wall clock, of the newest batch
  min_key        BLOB NOT NULL,
  max_key        BLOB NOT NULL
) STRICT;

CREATE TABLE checkpoint (
  one      INTEGER PRIMARY KEY CHECK (one = 1),
  position INTEGER NOT NULL,
  serial   INTEGER NOT NULL, -- names the file
  bytes    INTEGER NOT NULL,
  crc32c   INTEGER NOT NULL
) STRICT;

-- What queries filter by. The incident itself is in its last event.
CREATE TABLE incidents (
  id          INTEGER PRIMARY KEY,
  incident_id TEXT NOT NULL UNIQUE,
  sequence    INTEGER NOT NULL, -- of its last event
  status      TEXT NOT NULL,
  kind        TEXT NOT NULL,
  severity    INTEGER NOT NULL, -- rank
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER
) STRICT;
-- Covers every plain filter, in the order of the pages.
CREATE UNIQUE INDEX incidents_by_sequence ON incidents (sequence, status, kind, severity, started_at, ended_at);

CREATE TABLE events (
  sequence INTEGER PRIMARY KEY,
  incident INTEGER NOT NULL REFERENCES incidents (id),
  body     BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_incident ON events (incident, sequence);

-- With the incident's last sequence, so that those of one AS are at hand in the order of the pages.
CREATE TABLE incident_asns (
  asn      INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  incident INTEGER NOT NULL REFERENCES incidents (id),
  PRIMARY KEY (asn, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX incident_asns_by_incident ON incident_asns (incident);

CREATE TABLE incident_prefixes (
  key      BLOB NOT NULL, -- as prefixKey writes it
  incident INTEGER NOT NULL REFERENCES incidents (id),
  PRIMARY KEY (key, incident)
) STRICT, WITHOUT ROWID;
CREATE INDEX incident_prefixes_by_incident ON incident_prefixes (incident);

CREATE TABLE deliveries (
  key          TEXT PRIMARY KEY,
  incident     INTEGER NOT NULL REFERENCES incidents (id),
  sequence     INTEGER NOT NULL,
  receiver     TEXT NOT NULL,
  body         BLOB,
  state        TEXT NOT NULL,
  attempts     INTEGER NOT NULL,
  created_at   INTEGER,
  updated_at   INTEGER,
  next_attempt INTEGER,
  expires_at   INTEGER,
  last_error   TEXT NOT NULL,
  receipt      TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_pending ON deliveries (receiver, sequence, key, next_attempt) WHERE state = 'pending';
CREATE INDEX deliveries_by_incident ON deliveries (incident, sequence);
