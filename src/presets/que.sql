SELECT j.queue,
       CASE
         WHEN held.id IS NOT NULL THEN 'held'
         WHEN j.run_at > now() THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       CASE WHEN held.id IS NULL AND j.run_at > now() THEN j.run_at END AS next_change
FROM {schema}que_jobs AS j
LEFT JOIN (
  SELECT DISTINCT (l.classid::bigint << 32) + l.objid::bigint AS id
  FROM pg_locks AS l
  WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
) AS held ON held.id = j.id
WHERE j.job_schema_version = 2
  AND j.finished_at IS NULL
  AND j.expired_at IS NULL
  AND {is_queue}
