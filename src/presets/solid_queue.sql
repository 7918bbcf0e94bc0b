SELECT j.queue_name AS queue,
       CASE WHEN p.queue_name IS NULL THEN 'claimable' ELSE 'waiting' END AS state,
       NULL::timestamptz AS next_change
FROM {schema}solid_queue_ready_executions AS j
LEFT JOIN {schema}solid_queue_pauses AS p ON p.queue_name = j.queue_name
WHERE {is_queue}
UNION ALL
SELECT j.queue_name,
       CASE WHEN p.queue_name IS NULL AND j.scheduled_at <= timezone('UTC', now()) THEN {rescued} ELSE 'waiting' END,
       CASE WHEN p.queue_name IS NULL AND j.scheduled_at > timezone('UTC', now()) THEN timezone('UTC', j.scheduled_at) END
FROM {schema}solid_queue_scheduled_executions AS j
LEFT JOIN {schema}solid_queue_pauses AS p ON p.queue_name = j.queue_name
WHERE {is_queue}
UNION ALL
SELECT j.queue_name, CASE WHEN p.queue_name IS NULL THEN {rescued} ELSE 'waiting' END, NULL
FROM (
  SELECT DISTINCT ON (b.concurrency_key) b.queue_name
  FROM {schema}solid_queue_blocked_executions AS b
  LEFT JOIN {schema}solid_queue_semaphores AS s ON s.key = b.concurrency_key
  WHERE b.expires_at < timezone('UTC', now())
    AND (s.key IS NULL OR s.value > 0 OR s.expires_at < timezone('UTC', now()))
  ORDER BY b.concurrency_key, b.priority, b.job_id
) AS j
LEFT JOIN {schema}solid_queue_pauses AS p ON p.queue_name = j.queue_name
WHERE {is_queue}
UNION ALL
SELECT j.queue_name,
       CASE WHEN w.last_heartbeat_at > timezone('UTC', now()) - {heartbeat_timeout} THEN 'held' ELSE 'stalled' END,
       CASE WHEN w.last_heartbeat_at > timezone('UTC', now()) - {heartbeat_timeout}
            THEN timezone('UTC', w.last_heartbeat_at + {heartbeat_timeout}) END
FROM {schema}solid_queue_claimed_executions AS c
JOIN {schema}solid_queue_jobs AS j ON j.id = c.job_id
LEFT JOIN {schema}solid_queue_processes AS w ON w.id = c.process_id
WHERE {is_queue}
