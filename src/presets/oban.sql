SELECT j.queue,
       CASE
         WHEN j.state = 'executing' AND j.attempted_at >= timezone('UTC', now()) - {rescue_after} THEN 'held'
         WHEN j.attempt >= j.max_attempts THEN 'stalled'
         WHEN j.state = 'executing' THEN {rescued}
         WHEN j.state <> 'available' AND j.scheduled_at > timezone('UTC', now()) THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       timezone('UTC', CASE
         WHEN j.state = 'executing' AND j.attempted_at >= timezone('UTC', now()) - {rescue_after}
           THEN j.attempted_at + {rescue_after}
         WHEN j.state IN ('scheduled', 'retryable') AND j.scheduled_at > timezone('UTC', now()) THEN j.scheduled_at
       END) AS next_change
FROM {schema}oban_jobs AS j
WHERE j.state IN ('available', 'retryable', 'scheduled', 'executing')
  AND {is_queue}
UNION ALL
SELECT j.queue, 'unknown', NULL
FROM pg_enum AS e
JOIN {schema}oban_jobs AS j ON j.state = e.enumlabel::text::{schema}oban_job_state
WHERE e.enumtypid = pg_typeof(NULL::{schema}oban_job_state)
  AND e.enumlabel NOT IN ('available', 'retryable', 'scheduled', 'executing',
                          'suspended', 'completed', 'discarded', 'cancelled')
  AND {is_queue}
