WITH job AS (
  SELECT j.job_queue_id, j.run_at, j.locked_at, q.locked_at AS queue_locked_at,
         coalesce(j.locked_at >= now() - interval '4 h', false) AS is_held,
         coalesce(q.locked_at >= now() - interval '4 h', false) AS is_queue_held,
         j.attempts < j.max_attempts AND j.run_at <= now() AS is_due,
         j.attempts < j.max_attempts AS has_attempts
  FROM {schema}_private_jobs AS j
  JOIN {schema}_private_tasks AS t ON t.id = j.task_id
  LEFT JOIN {schema}_private_job_queues AS q ON q.id = j.job_queue_id
  WHERE (j.attempts < j.max_attempts OR j.locked_at IS NOT NULL)
    AND {is_task}
)
SELECT CASE
         WHEN is_held THEN 'held'
         WHEN NOT is_due THEN 'waiting'
         WHEN locked_at IS NOT NULL THEN {rescued}
         ELSE 'claimable'
       END AS state,
       CASE
         WHEN is_held THEN locked_at + interval '4 h'
         WHEN has_attempts AND NOT is_due THEN run_at
       END AS next_change
FROM job
WHERE job_queue_id IS NULL OR is_held OR NOT is_due
UNION ALL
SELECT CASE WHEN bool_and(locked_at IS NOT NULL OR queue_locked_at IS NOT NULL) THEN {rescued} ELSE 'claimable' END, NULL
FROM job
WHERE job_queue_id IS NOT NULL AND is_due AND NOT is_held AND NOT is_queue_held
GROUP BY job_queue_id
