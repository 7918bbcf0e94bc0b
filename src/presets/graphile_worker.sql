WITH job AS (
  SELECT j.job_queue_id, j.run_at, j.locked_at,
         coalesce(j.locked_at >= now() - interval '4 h', false) AS is_held,
         coalesce(q.locked_at >= now() - interval '4 h', false) AS is_queue_held,
         j.attempts < j.max_attempts AS has_attempts
  FROM {schema}_private_jobs AS j
  JOIN {schema}_private_tasks AS t ON t.id = j.task_id
  LEFT JOIN {schema}_private_job_queues AS q ON q.id = j.job_queue_id
  WHERE (j.attempts < j.max_attempts OR j.locked_at IS NOT NULL)
    AND {is_task}
)
SELECT CASE
         WHEN is_held THEN 'held'
         WHEN NOT has_attempts OR run_at > now() THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       CASE
         WHEN is_held THEN locked_at + interval '4 h'
         WHEN has_attempts AND run_at > now() THEN run_at
       END AS next_change
FROM job
WHERE job_queue_id IS NULL OR is_held OR NOT has_attempts OR run_at > now()
UNION ALL
SELECT 'claimable', NULL
FROM job
WHERE job_queue_id IS NOT NULL AND NOT is_queue_held AND NOT is_held AND has_attempts AND run_at <= now()
GROUP BY job_queue_id
