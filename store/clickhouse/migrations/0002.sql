-- What there is by hour of event time and by origin, so that charts need not read the rows. Days that were stored before
-- have none, and are counted row by row.
ALTER TABLE {{.Local "updates"}} {{.OnCluster}} ADD PROJECTION IF NOT EXISTS activity (
  SELECT time - positiveModulo(time, 3600000000) AS hour, origin_asn, action, count() GROUP BY hour, origin_asn, action
);
