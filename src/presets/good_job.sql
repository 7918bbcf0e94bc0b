SELECT j.queue_name AS queue,
       CASE
         WHEN p.updated_at > timezone('UTC', now()) - {heartbeat_timeout} THEN 'held'
         WHEN j.scheduled_at > timezone('UTC', now()) THEN 'waiting'
         WHEN EXISTS (SELECT
                      FROM {schema}good_job_settings AS s
                      WHERE s.key = 'pauses'
                        AND (s.value -> 'queues' ? j.queue_name
                             OR s.value -> 'job_classes' ? j.job_class
                             OR s.value -> 'labels' ?| j.labels)) THEN 'waiting'
         ELSE 'claimable'
       END AS state,
       timezone('UTC', CASE
         WHEN p.updated_at > timezone('UTC', now()) - {heartbeat_timeout} THEN p.updated_at + {heartbeat_timeout}
         WHEN j.scheduled_at > timezone('UTC', now()) THEN j.scheduled_at
       END) AS next_change
FROM {schema}good_jobs AS j
LEFT JOIN {schema}good_job_processes AS p ON p.id = j.locked_by_id
WHERE j.finished_at IS NULL
  AND j.queue_name IS NOT NULL
  AND {is_queue}
