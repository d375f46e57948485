-- A gap may be of one peer of a collector alone.
ALTER TABLE gaps ADD COLUMN peer_asn INTEGER NOT NULL DEFAULT 0;
