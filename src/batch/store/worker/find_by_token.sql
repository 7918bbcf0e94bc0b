-- find_by_token: the claim whose answer was lost; if there is none, its token is voided, so that there never will be
WITH found AS (
    SELECT id, iteration, max_attempts, (SELECT count(*) FROM clap_attempt WHERE job_uid = $2) AS job_attempts
      FROM clap
     WHERE job_uid = $2 AND session_id = $1 AND status = 'RUNNING'
), voided AS (
    INSERT INTO clap_voided_session (session_id)
    SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM clap_attempt WHERE session_id = $1)
        ON CONFLICT (session_id) DO NOTHING
), forgotten AS (
    DELETE FROM clap_voided_session WHERE voided_at < now() - interval '7 days'
)
SELECT * FROM found
