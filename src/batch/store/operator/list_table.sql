-- list_table: the columns that a person sees of each row of `list`, without what may be too big to read; a time without an end has no distance from now
SELECT q.id, q.status, q.iteration, q.interruptions, q.max_attempts::int AS max_attempts, q.duration_seconds,
       q.job_uid, q.job_name, q.pod_name, q.last_error,
       q.cancel_requested_at IS NOT NULL AS cancel_requested,
       CASE WHEN isfinite(q.requested_at) THEN extract(epoch FROM now() - q.requested_at)::float8 END AS requested,
       CASE WHEN isfinite(q.started_at) THEN extract(epoch FROM now() - q.started_at)::float8 END AS started,
       (SELECT CASE WHEN a.outcome = 'LOST' OR a.outcome = 'RUNNING' AND q.lease_expires_at <= now()
                    THEN NULL   -- nobody knows when its work ended
                    WHEN isfinite(a.started_at) AND isfinite(coalesce(a.ended_at, now()))
                    THEN extract(epoch FROM coalesce(a.ended_at, now()) - a.started_at)::float8 END
          FROM clap_attempt a
         WHERE a.session_id = q.session_id) AS took,   -- finished_at may be the time of a cancel
       CASE WHEN isfinite(q.lease_expires_at) THEN extract(epoch FROM q.lease_expires_at - now())::float8 END AS lease,
       CASE WHEN isfinite(greatest(q.next_attempt_at, q.lease_expires_at))
            THEN extract(epoch FROM greatest(q.next_attempt_at, q.lease_expires_at) - now())::float8 END AS next
