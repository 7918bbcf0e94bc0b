-- list_table: the columns that a person sees of each row of `list`
SELECT q.id, q.status, q.iteration, q.interruptions, q.max_attempts::int AS max_attempts, q.duration_seconds,
       q.payload::text AS payload, q.request_key, q.job_uid, q.job_name, q.pod_name, q.last_error,
       q.cancel_requested_at IS NOT NULL AS cancel_requested,
       extract(epoch FROM now() - q.requested_at)::float8 AS requested,
       extract(epoch FROM now() - q.started_at)::float8 AS started,
       extract(epoch FROM coalesce(q.finished_at, now()) - q.started_at)::float8 AS took,
       extract(epoch FROM q.lease_expires_at - now())::float8 AS lease,
       extract(epoch FROM greatest(q.next_attempt_at, q.lease_expires_at) - now())::float8 AS next
