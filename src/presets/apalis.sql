SELECT j.job_type AS queue,
       CASE
         WHEN j.status IN ('Queued', 'Running') AND w.last_seen > now() - {heartbeat_timeout} THEN 'held'
         WHEN j.status IN ('Queued', 'Running') AND w.id IS NOT NULL THEN {rescued}
         WHEN j.status IN ('Queued', 'Running') THEN 'stalled'
         WHEN j.run_at >= now() THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       CASE
         WHEN j.status IN ('Queued', 'Running') THEN
           CASE WHEN w.last_seen > now() - {heartbeat_timeout} THEN w.last_seen + {heartbeat_timeout} END
         WHEN j.run_at >= now() THEN j.run_at
       END AS next_change
FROM {schema}jobs AS j
LEFT JOIN {schema}workers AS w ON w.id = j.lock_by
WHERE (j.status IN ('Pending', 'Queued', 'Running') OR (j.status = 'Failed' AND j.attempts < j.max_attempts))
  AND {is_queue}
UNION ALL
SELECT j.job_type, 'unknown', NULL
FROM (
  -- The distinct states, one step in the index for each.
  WITH RECURSIVE step AS (
    SELECT min(status) AS status FROM {schema}jobs
    UNION ALL
    SELECT (SELECT min(n.status) FROM {schema}jobs AS n WHERE n.status > step.status)
    FROM step
    WHERE step.status IS NOT NULL
  )
  SELECT status
  FROM step
  WHERE status NOT IN ('Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed')
) AS odd
JOIN {schema}jobs AS j ON j.status = odd.status
WHERE {is_queue}
