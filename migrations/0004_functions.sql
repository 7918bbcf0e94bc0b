-- 0004_functions: what every Job does. A function's plans are kept by PostgreSQL's session, so that behind a pooler
-- they outlive the Job; planning such a statement takes as long as running it. Both run as their caller.

-- Takes a request that nobody has tried, for one Job: a row, or none. $1 session, $2 Job, $3 its name, $4 pod, $5 node,
-- $6 lease in seconds, $7 only if no clap is due; then nobody has to be buried either, and most Jobs need nothing else.
CREATE FUNCTION clap_take(session_id bigint, job_uid text, job_name text, pod_name text, node_name text,
                          lease_seconds double precision, unless_due boolean)
RETURNS TABLE (id bigint, iteration integer, max_attempts smallint, cancel_requested boolean, duration_seconds integer,
               payload text, job_attempts bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH pick AS MATERIALIZED (
        SELECT id, max_attempts, duration_seconds, payload
          FROM make_it_clap
         WHERE pending
           AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
           AND NOT ($7 AND EXISTS (SELECT 1 FROM clap WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()))
         ORDER BY id
         LIMIT 1
           FOR NO KEY UPDATE SKIP LOCKED
    ), taken AS (
        INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at)
        SELECT id, 'RUNNING', $1, 1, max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6)
          FROM pick
            ON CONFLICT (id) DO NOTHING
        RETURNING id, iteration, max_attempts
    ), opened AS (
        INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
        SELECT id, iteration, $1, $2, $3, $4, $5 FROM taken
    )
    SELECT t.id, t.iteration, t.max_attempts, false, p.duration_seconds, p.payload::text, 1::bigint
      FROM taken t
      JOIN pick p USING (id);
END $$;

-- Books the work as done: a row, or none if the clap is no longer this session's. $1 clap, $2 session.
-- search_path is pinned: programs call it, too, in transactions of their own.
CREATE FUNCTION clap_succeed(clap_id bigint, session_id bigint) RETURNS TABLE (status text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH done AS (
        UPDATE clap
           SET status = 'SUCCESS', finished_at = now(), lease_expires_at = now(), exit_code = 0, last_error = NULL
         WHERE id = $1 AND session_id = $2 AND status = 'RUNNING'
        RETURNING session_id
    )
    UPDATE clap_attempt a
       SET outcome = 'SUCCESS', ended_at = now(), exit_code = 0
      FROM done
     WHERE a.session_id = done.session_id
    RETURNING 'SUCCESS';
END $$;
