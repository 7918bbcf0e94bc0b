-- attempts_table: the columns that a person sees of each attempt; a time without an end has no distance from another
SELECT q.iteration, q.outcome, q.exit_code, q.error, q.job_name, q.job_uid, q.pod_name, q.node_name,
       to_char(q.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') AS started,
       CASE WHEN q.outcome = 'LOST'
              OR q.outcome = 'RUNNING' AND (SELECT lease_expires_at <= now() FROM clap WHERE id = $1)
            THEN NULL   -- nobody knows when its work ended
            WHEN isfinite(q.started_at) AND isfinite(coalesce(q.ended_at, now()))
            THEN extract(epoch FROM coalesce(q.ended_at, now()) - q.started_at)::float8 END AS took
