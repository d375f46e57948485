-- What each part has by hour of event time and by origin, so that charts need not read its rows. Parts of older versions
-- have no summary, nor have those of which it would be too large.
CREATE TABLE activity (
  first_position INTEGER NOT NULL REFERENCES parts ON DELETE CASCADE,
  hour           INTEGER NOT NULL, -- since 1970
  counts         BLOB NOT NULL,
  PRIMARY KEY (first_position, hour)
) STRICT;
