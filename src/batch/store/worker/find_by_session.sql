-- find_by_session: the claim whose answer was lost; if there is none, its session is voided, so that there never will be
WITH found AS (
    SELECT c.id, c.iteration, c.max_attempts, c.cancel_requested_at IS NOT NULL AS cancel_requested, m.duration_seconds, m.payload::text AS payload,
           (SELECT count(*) FROM clap_attempt WHERE job_uid = $2) AS job_attempts, m.request_key,
           coalesce(to_char(m.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), m.requested_at::text) AS requested_at
      FROM clap c
      JOIN make_it_clap m USING (id)
     WHERE c.job_uid = $2 AND c.session_id = $1 AND c.status = 'RUNNING'
), voided AS (
    INSERT INTO clap_voided_session (session_id)
    SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM clap_attempt WHERE session_id = $1)
        ON CONFLICT (session_id) DO NOTHING
), forgotten AS (
    DELETE FROM clap_voided_session WHERE voided_at < now() - interval '7 days'
)
SELECT * FROM found
