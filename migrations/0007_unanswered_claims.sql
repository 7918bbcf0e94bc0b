-- 0007_unanswered_claims: a claim whose answer was lost is found or made impossible, and an attempt costs nothing until
-- its worker has confirmed that it starts the program.

-- The sessions whose claim must never be committed. A worker that got no answer to its claim, and does not find it,
-- puts its session here: the claim's messages may still wait in a buffer, and reach the server later.
CREATE TABLE clap_voided_session (
    session_id bigint      PRIMARY KEY,
    voided_at  timestamptz NOT NULL DEFAULT now()
);

-- Whoever may book attempts may void sessions.
DO $$
DECLARE
    named record;
BEGIN
    FOR named IN SELECT grantee, is_grantable
                   FROM pg_class c, aclexplode(c.relacl)
                  WHERE c.oid = 'clap_attempt'::regclass AND privilege_type = 'INSERT' AND grantee <> c.relowner LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON clap_voided_session TO %s%s',
                       CASE WHEN named.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(named.grantee)) END,
                       CASE WHEN named.is_grantable THEN ' WITH GRANT OPTION' END);
    END LOOP;
END $$;

-- True from a claim to its worker's first heartbeat, which comes before the program is started. A worker of an earlier
-- version leaves it false: all its attempts count.
ALTER TABLE clap ADD COLUMN unconfirmed boolean NOT NULL DEFAULT false;

ALTER FUNCTION clap_take RENAME TO clap_take_before;

CREATE FUNCTION clap_take(session_id bigint, job_uid text, job_name text, pod_name text, node_name text,
                          lease_seconds double precision, unless_due boolean, unconfirmed boolean DEFAULT false,
                          lock bigint DEFAULT NULL)
RETURNS TABLE (id bigint, iteration integer, max_attempts smallint, cancel_requested boolean, duration_seconds integer,
               payload text, job_attempts bigint, request_key text, requested_at text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- The worker's own lock, which keeps it from overtaking an earlier transaction of its own. Here it costs a tenth of
    -- what it costs as a statement of the worker, and the statement below sees what that transaction has left.
    IF $9 IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock($9);
    END IF;
    RETURN QUERY
    WITH pick AS MATERIALIZED (
        SELECT id, max_attempts, duration_seconds, payload, request_key, requested_at
          FROM make_it_clap
         WHERE pending
           AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
           AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
           AND NOT ($7 AND EXISTS (SELECT 1 FROM clap WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()))
         ORDER BY id
         LIMIT 1
           FOR NO KEY UPDATE SKIP LOCKED
    ), taken AS (
        INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at,
                          unconfirmed)
        SELECT id, 'RUNNING', $1, 1, max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6), $8
          FROM pick
            ON CONFLICT (id) DO NOTHING
        RETURNING id, iteration, max_attempts
    ), opened AS (
        INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
        SELECT id, iteration, $1, $2, $3, $4, $5 FROM taken
    )
    SELECT t.id, t.iteration, t.max_attempts, false, p.duration_seconds, p.payload::text, 1::bigint, p.request_key,
           coalesce(to_char(p.requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p.requested_at::text)
      FROM taken t
      JOIN pick p USING (id);
END $$;

-- Whoever may call the old one may call the new one. Where nobody was ever named, everybody may.
DO $$
DECLARE
    held aclitem[] := (SELECT proacl FROM pg_proc WHERE oid = to_regproc('clap_take_before'));
    named record;
BEGIN
    IF held IS NOT NULL THEN
        REVOKE ALL ON FUNCTION clap_take FROM PUBLIC;
        FOR named IN SELECT grantee, is_grantable FROM aclexplode(held) LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION clap_take TO %s%s',
                           CASE WHEN named.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(named.grantee)) END,
                           CASE WHEN named.is_grantable THEN ' WITH GRANT OPTION' END);
        END LOOP;
    END IF;
END $$;

DROP FUNCTION clap_take_before;
