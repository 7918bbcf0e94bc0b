SELECT j.queue_name AS queue,
       CASE
         WHEN j.status = 'doing' AND w.last_heartbeat >= now() - {heartbeat_timeout} THEN 'held'
         WHEN j.status = 'doing' THEN 'stalled'
         WHEN j.scheduled_at > now() OR (j.lock IS NOT NULL AND (head.id <> j.id OR busy.id IS NOT NULL)) THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       CASE
         WHEN j.status = 'doing' THEN
           CASE WHEN w.last_heartbeat >= now() - {heartbeat_timeout} THEN w.last_heartbeat + {heartbeat_timeout} END
         WHEN j.scheduled_at > now() THEN j.scheduled_at
       END AS next_change
FROM {schema}procrastinate_jobs AS j
LEFT JOIN {schema}procrastinate_workers AS w ON w.id = j.worker_id
LEFT JOIN (
  SELECT DISTINCT ON (o.lock) o.lock, o.id
  FROM {schema}procrastinate_jobs AS o
  WHERE o.status = 'todo' AND o.lock IS NOT NULL
  ORDER BY o.lock, o.priority DESC, o.id
) AS head ON head.lock = j.lock AND j.status = 'todo'
LEFT JOIN {schema}procrastinate_jobs AS busy ON busy.lock = j.lock AND busy.status = 'doing' AND j.status = 'todo'
WHERE j.status IN ('todo', 'doing')
  AND {is_queue}
UNION ALL
SELECT j.queue_name, 'unknown', NULL
FROM pg_enum AS e
JOIN {schema}procrastinate_jobs AS j ON j.status = e.enumlabel::text::{schema}procrastinate_job_status
WHERE e.enumtypid = pg_typeof(NULL::{schema}procrastinate_job_status)
  AND e.enumlabel NOT IN ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted')
  AND {is_queue}
