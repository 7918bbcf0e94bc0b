CREATE OR REPLACE FUNCTION clap_succeed(clap_id bigint, session_id bigint) RETURNS TABLE (status text)
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH done AS (
        UPDATE clap
           SET status = 'SUCCESS', finished_at = now(), lease_expires_at = now(), exit_code = 0, last_error = NULL
         WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
        RETURNING session_id, status
    ), closed AS (
        UPDATE clap_attempt a
           SET outcome = 'SUCCESS', ended_at = now(), exit_code = 0
          FROM done
         WHERE a.session_id = done.session_id
    )
    SELECT status FROM done;   -- also if somebody has deleted the attempt's row meanwhile
END $$;
