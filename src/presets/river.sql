SELECT j.queue,
       CASE
         WHEN j.state = 'running' AND j.attempted_at >= now() - {rescue_after} THEN 'held'
         WHEN p.paused_at IS NOT NULL THEN 'waiting'
         WHEN j.state = 'running' AND j.attempt < j.max_attempts THEN {rescued}
         WHEN j.state = 'running' THEN 'stalled'
         WHEN j.scheduled_at > now() THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       CASE
         WHEN j.state = 'running' AND j.attempted_at >= now() - {rescue_after} THEN j.attempted_at + {rescue_after}
         WHEN j.state <> 'running' AND j.scheduled_at > now() AND p.paused_at IS NULL THEN j.scheduled_at
       END AS next_change
FROM {schema}river_job AS j
LEFT JOIN {schema}river_queue AS p ON p.name = j.queue
WHERE j.state IN ('available', 'retryable', 'scheduled', 'running')
  AND {is_queue}
UNION ALL
SELECT j.queue, 'unknown', NULL
FROM pg_enum AS e
JOIN {schema}river_job AS j ON j.state = e.enumlabel::text::{schema}river_job_state
WHERE e.enumtypid = pg_typeof(NULL::{schema}river_job_state)
  AND e.enumlabel NOT IN ('available', 'retryable', 'scheduled', 'running',
                          'pending', 'completed', 'cancelled', 'discarded')
  AND {is_queue}
