, taken AS (
    INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at)
    SELECT id, 'RUNNING', $1, 1, max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6)
      FROM pick
        ON CONFLICT (id) DO NOTHING
    RETURNING id, iteration, max_attempts
), opened AS (
    INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
    SELECT id, iteration, $1, $2, $3, $4, $5 FROM taken
)
SELECT t.id, t.iteration, t.max_attempts, false AS cancel_requested, p.duration_seconds, p.payload::text AS payload, 1::bigint AS job_attempts
  FROM taken t
  JOIN pick p USING (id)
