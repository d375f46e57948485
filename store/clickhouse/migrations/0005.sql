-- What is stored gets the column; the next migration waits for it.
ALTER TABLE {{.Local "updates"}} {{.OnCluster}} MATERIALIZE COLUMN attributes;
