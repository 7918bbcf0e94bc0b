-- 0011_stray_rows: a clap whose request is missing, or whose attempts have no higher number left, stops no other row; one
-- that somebody made due again after its success can succeed again; a success is recorded also without its attempt's row.

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

    -- What is due goes first. A clap whose attempts are spent, or that nobody can work on, is left to mark_dead.
    IF picked IS NULL AND $7 THEN
        RETURN QUERY
        WITH head AS MATERIALIZED (
            SELECT id, iteration - interruptions >= max_attempts AS is_spent,
                   status = 'RUNNING' AND unconfirmed AND interruptions < 10 AS is_free,
                   greatest(iteration, (SELECT max(a.iteration) FROM clap_attempt a WHERE a.clap_id = clap.id)) AS last
              FROM clap
             WHERE status IN ('RUNNING', 'FAILED')
               AND next_attempt_at <= now()
               AND lease_expires_at <= now()
               AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
               AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
             ORDER BY next_attempt_at
             LIMIT 1
               FOR NO KEY UPDATE SKIP LOCKED
        ), pick AS (
            SELECT id, is_free, last
              FROM head
             WHERE (is_free OR NOT is_spent)
               AND last < 999999999
               AND (SELECT true FROM make_it_clap m WHERE m.id = head.id)   -- a restore may have left it without its request
        ), lost AS (
            UPDATE clap_attempt a
               SET outcome = 'LOST', ended_at = coalesce(ended_at, now()),
                   error = CASE WHEN a.outcome = 'SUCCESS' THEN 'succeeded, and somebody made its clap due again'
                                WHEN pick.is_free THEN 'lease expired before the program was started'
                                ELSE 'lease expired' END
              FROM pick
             WHERE a.clap_id = pick.id AND a.outcome IN ('RUNNING', 'SUCCESS')   -- one attempt is open, and one at most succeeds
            RETURNING a.clap_id
        ), taken AS (
            UPDATE clap c
               SET status = 'RUNNING', iteration = pick.last + 1,
                   interruptions = c.interruptions + (pick.last - c.iteration) + pick.is_free::integer,
                   session_id = $1, job_uid = $2, job_name = $3, pod_name = $4,
                   started_at = clock_timestamp(),   -- this transaction may have waited before the last attempt's end was booked
                   lease_expires_at = now() + make_interval(secs => $6), next_attempt_at = now(),
                   exit_code = NULL, last_error = NULL, unconfirmed = $8
              FROM pick, (SELECT count(*) FROM lost) AS closed_first   -- siblings have no order: this closes the old attempt first
             WHERE c.id = pick.id
            RETURNING c.id, c.iteration, c.max_attempts, c.started_at, c.cancel_requested_at IS NOT NULL AS cancel_requested
        ), opened AS (
            INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name, started_at)
            SELECT id, iteration, $1, $2, $3, $4, $5, started_at FROM taken
        )
        SELECT t.id, t.iteration, t.max_attempts, t.cancel_requested, m.duration_seconds, m.payload::text, 1::bigint, m.request_key,
               coalesce(to_char(m.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), m.requested_at::text)
          FROM taken t
          JOIN make_it_clap m USING (id);
    END IF;
    IF picked IS NULL THEN
        RETURN;
    END IF;

    INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at,
                      unconfirmed)
    VALUES (picked.id, 'RUNNING', $1, 1, picked.max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6), $8)
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
    VALUES (picked.id, 1, $1, $2, $3, $4, $5)
    RETURNING picked.id, 1, picked.max_attempts, false, picked.duration_seconds, picked.payload::text, 1::bigint, picked.request_key,
              coalesce(to_char(picked.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), picked.requested_at::text);
END $$;

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
