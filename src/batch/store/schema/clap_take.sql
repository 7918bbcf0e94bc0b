CREATE OR REPLACE FUNCTION clap_take(session_id bigint, job_uid text, job_name text, pod_name text, node_name text,
                          lease_seconds double precision, unless_due boolean, unconfirmed boolean DEFAULT false,
                          lock bigint DEFAULT NULL)
RETURNS TABLE (id bigint, iteration integer, max_attempts smallint, cancel_requested boolean, duration_seconds integer,
               payload text, job_attempts bigint, request_key text, requested_at text)
LANGUAGE plpgsql SET enable_seqscan = off AS $$   -- a plan made while the tables are empty is kept when they are full
#variable_conflict use_column
DECLARE
    picked record;
BEGIN
    -- The worker's own lock, which keeps it from overtaking an earlier transaction of its own. Here it costs a tenth of
    -- what it costs as a statement of the worker, and the statements below see what that transaction has left.
    IF $9 IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock($9);
    END IF;

    -- Each claim leaves an entry at the head of two indexes, and a held snapshot keeps VACUUM from removing them. A search
    -- from the head reads past all of them, so that of claims that take new requests only one in 32 does it where there
    -- are many: the others look for a request after the newest clap, and from the head only if there is none.
    IF $7 AND $1 % 32 <> 0 AND pg_relation_size(to_regclass('make_it_clap_pending_idx')) > 200000 THEN
        SELECT id, duration_seconds, payload, request_key, requested_at, max_attempts
          INTO picked
          FROM make_it_clap
         WHERE pending
           AND id > (SELECT max(id) FROM clap)
           AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
           AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
           AND ((SELECT pg_relation_size(to_regclass('clap_active_idx')) > 200000
                        AND pg_stat_get_dead_tuples('clap'::regclass) >= 5000) IS TRUE
                OR (SELECT next_attempt_at
                      FROM clap
                     WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
                     ORDER BY next_attempt_at
                     LIMIT 1) IS NULL)
         ORDER BY id
         LIMIT 1
           FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
    IF picked IS NULL THEN
        SELECT id, duration_seconds, payload, request_key, requested_at, max_attempts
          INTO picked
          FROM make_it_clap
         WHERE pending
           AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
           AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
           AND NOT ($7 AND (SELECT next_attempt_at
                              FROM clap
                             WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
                             ORDER BY next_attempt_at
                             LIMIT 1) IS NOT NULL)
         ORDER BY id
         LIMIT 1
           FOR NO KEY UPDATE SKIP LOCKED;
    END IF;

    RETURN QUERY
    WITH taken AS (
        INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at,
                          unconfirmed)
        SELECT picked.id, 'RUNNING', $1, 1, picked.max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6), $8
         WHERE picked.id IS NOT NULL
            ON CONFLICT (id) DO NOTHING
        RETURNING id, iteration, max_attempts
    ), opened AS (
        INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
        SELECT id, iteration, $1, $2, $3, $4, $5 FROM taken
    )
    SELECT id, iteration, max_attempts, false, picked.duration_seconds, picked.payload::text, 1::bigint, picked.request_key,
           coalesce(to_char(picked.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), picked.requested_at::text)
      FROM taken;
END $$;
