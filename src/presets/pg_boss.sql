WITH job AS (
  SELECT o.*,
         o.state < 'active' AND NOT o.blocked AND o.start_after <= now() AS is_ready,
         o.state = 'active' AND o.ends_at < now()                        AS is_expired,
         o.policy IN ('singleton', 'stately', 'key_strict_fifo')         AS is_keyed
  FROM (SELECT false AS blocked, NULL::integer AS expire_seconds, NULL::interval AS expire_in,
               NULL::integer AS heartbeat_seconds, NULL::timestamptz AS heartbeat_on) AS absent
  CROSS JOIN LATERAL (
    SELECT j.name, j.state, coalesce(j.policy, '') AS policy, coalesce(j.singleton_key, '') AS key,
           j.start_after, j.retry_count, j.retry_limit, blocked,
           least(j.started_on + coalesce(expire_seconds * interval '1 s', expire_in),
                 heartbeat_on + heartbeat_seconds * interval '1 s') AS ends_at
    FROM {schema}job AS j
    WHERE j.state <= 'active'
      AND {is_queue}
  ) AS o
)
SELECT name AS queue,
       CASE
         WHEN is_ready THEN 'claimable'
         WHEN is_expired AND retry_count < retry_limit THEN {rescued}
         WHEN is_expired THEN 'stalled'
         WHEN state = 'active' THEN 'held'
         ELSE 'waiting'
       END AS state,
       CASE
         WHEN state = 'active' AND NOT is_expired THEN ends_at
         WHEN state < 'active' AND NOT blocked AND NOT is_ready THEN start_after
       END AS next_change
FROM job
WHERE NOT (is_ready AND is_keyed)
UNION ALL
SELECT name, CASE WHEN bool_or(state = 'active') THEN {rescued} ELSE 'claimable' END, NULL
FROM job
WHERE is_keyed
GROUP BY name, policy, key
HAVING bool_or(is_ready)
   -- One that will be failed frees its key, but for key_strict_fifo, where it blocks it.
   AND NOT bool_or(state = 'active'
                   AND (is_expired AND retry_count >= retry_limit AND policy <> 'key_strict_fifo') IS NOT TRUE)
   AND (policy <> 'key_strict_fifo'
        OR (coalesce(bool_and(is_ready) FILTER (WHERE state = 'retry'), true)
            AND NOT EXISTS (SELECT FROM {schema}job AS f
                            WHERE f.name = job.name AND f.singleton_key = job.key
                              AND f.state = 'failed' AND f.policy = 'key_strict_fifo')))
UNION ALL
-- A running client releases blocked jobs every 5 s. Where none has for 30 s, one of each queue counts.
SELECT waiting.name,
       CASE WHEN done.completed_on < now() - interval '30 s' THEN {rescued} ELSE 'waiting' END,
       CASE WHEN done.completed_on >= now() - interval '30 s' THEN done.completed_on + interval '30 s' END
FROM (SELECT DISTINCT name FROM job WHERE blocked AND start_after <= now()) AS waiting
CROSS JOIN (SELECT false AS blocking) AS absent
CROSS JOIN LATERAL (SELECT min(p.completed_on) AS completed_on
                    FROM {schema}job AS p
                    WHERE blocking AND p.state = 'completed') AS done
WHERE done.completed_on IS NOT NULL
UNION ALL
SELECT j.name, 'unknown', NULL
FROM pg_enum AS e
JOIN {schema}job AS j ON j.state = e.enumlabel::text::{schema}job_state
WHERE e.enumtypid = pg_typeof(NULL::{schema}job_state)
  AND e.enumlabel NOT IN ('created', 'retry', 'active', 'completed', 'cancelled', 'failed')
  AND {is_queue}
