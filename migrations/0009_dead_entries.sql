-- 0009_dead_entries: claims stay quick while somebody holds an old snapshot, and when a hundred thousand claps are due.
--
-- A claim leaves a dead entry at the head of two indexes. While a snapshot is open that is older than the claim, VACUUM
-- must keep them, and each later claim reads past all of them. So a claim that was slow notes where the next ones begin
-- to search. A note is forgotten after ten seconds, and counts for nothing when a search from it finds nothing: it only
-- says where to look first. Sequences hold it, because a row would leave dead versions itself.

CREATE SEQUENCE clap_search_pending  MINVALUE -9223372036854775808 START 0;
CREATE SEQUENCE clap_search_due      MINVALUE 0 START 0;  -- microseconds since 1970
CREATE SEQUENCE clap_search_noted_at MINVALUE 0 START 0;  -- microseconds since 1970

-- Functions read the sequences: a scan of one is sequential, which clap_take switches off.
CREATE VIEW clap_search AS
SELECT noted_at,
       noted_at > now() - interval '10 seconds' AS is_noted,
       CASE WHEN noted_at > now() - interval '10 seconds' THEN pending_from ELSE '-9223372036854775808'::bigint END AS pending_from,
       CASE WHEN noted_at > now() - interval '10 seconds' THEN due_from ELSE '-infinity' END AS due_from
  FROM (SELECT to_timestamp(coalesce(pg_sequence_last_value('clap_search_noted_at'), 0) / 1e6) AS noted_at,
               pg_sequence_last_value('clap_search_pending') AS pending_from,
               to_timestamp(pg_sequence_last_value('clap_search_due') / 1e6) AS due_from) s;

-- Searches both indexes from their beginnings, and notes where it found the first row, if that took long. It runs as its
-- owner, so that workers need no rights on the sequences.
CREATE FUNCTION clap_note_search() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    started timestamptz := clock_timestamp();
    first_pending bigint := (SELECT id FROM make_it_clap WHERE pending ORDER BY id LIMIT 1);
    first_due timestamptz := (SELECT next_attempt_at
                                FROM clap
                               WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
                               ORDER BY next_attempt_at
                               LIMIT 1);
BEGIN
    IF clock_timestamp() - started < interval '1 millisecond' THEN
        PERFORM setval('clap_search_noted_at', 0) FROM clap_search WHERE is_noted;
        RETURN;
    END IF;
    PERFORM setval('clap_search_pending', coalesce(first_pending, (SELECT max(id) FROM make_it_clap), 0));
    -- A second less, for what was written at that time and is committed only now.
    first_due := greatest(coalesce(first_due, now()) - interval '1 second', 'epoch');
    PERFORM setval('clap_search_due', (extract(epoch FROM first_due) * 1000000)::bigint);
    PERFORM setval('clap_search_noted_at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
END $$;

-- Whoever may book attempts may read and note where to search.
DO $$
DECLARE
    named record;
    thing record;
BEGIN
    FOR named IN SELECT grantee, is_grantable
                   FROM pg_class c, aclexplode(c.relacl)
                  WHERE c.oid = 'clap_attempt'::regclass AND privilege_type = 'INSERT' AND grantee <> c.relowner LOOP
        FOR thing IN SELECT unnest(ARRAY['SELECT ON clap_search, clap_search_pending, clap_search_due, clap_search_noted_at',
                                         'EXECUTE ON FUNCTION clap_note_search']) AS granted LOOP
            EXECUTE format('GRANT %s TO %s%s', thing.granted,
                           CASE WHEN named.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(named.grantee)) END,
                           CASE WHEN named.is_grantable THEN ' WITH GRANT OPTION' END);
        END LOOP;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION clap_take(session_id bigint, job_uid text, job_name text, pod_name text, node_name text,
                          lease_seconds double precision, unless_due boolean, unconfirmed boolean DEFAULT false,
                          lock bigint DEFAULT NULL)
RETURNS TABLE (id bigint, iteration integer, max_attempts smallint, cancel_requested boolean, duration_seconds integer,
               payload text, job_attempts bigint, request_key text, requested_at text)
LANGUAGE plpgsql SET enable_seqscan = off AS $$   -- a plan that is made while the tables are empty is kept when they are full
#variable_conflict use_column
DECLARE
    started timestamptz;
    is_taken boolean;
    is_slow boolean;
    is_due boolean;
    again boolean := false;
BEGIN
    -- The worker's own lock, which keeps it from overtaking an earlier transaction of its own. Here it costs a tenth of
    -- what it costs as a statement of the worker, and the statement below sees what that transaction has left.
    IF $9 IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock($9);
    END IF;
    LOOP
        started := clock_timestamp();
        RETURN QUERY
        WITH pick AS MATERIALIZED (
            SELECT id, max_attempts, duration_seconds, payload, request_key, requested_at
              FROM make_it_clap
             WHERE pending
               AND id >= (SELECT pending_from FROM clap_search)
               AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
               AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
               AND NOT ($7 AND EXISTS (SELECT 1
                                         FROM clap
                                        WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
                                          AND next_attempt_at >= (SELECT due_from FROM clap_search)))
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
        is_taken := FOUND;
        is_slow := clock_timestamp() - started > interval '1 millisecond';
        EXIT WHEN is_taken AND NOT is_slow;

        -- Something is due, and another statement takes it over. Or a search that began where somebody has noted has
        -- found nothing: then the beginning is searched, too.
        is_due := NOT is_taken AND $7 AND EXISTS (SELECT 1
                                                    FROM clap
                                                   WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
                                                     AND next_attempt_at >= (SELECT due_from FROM clap_search));
        again := NOT is_taken AND NOT is_due AND NOT again AND (SELECT is_noted FROM clap_search);
        -- The search of a small index is quick; then it was the machine that was slow. A note a second is enough.
        IF again OR is_slow AND pg_relation_size('clap_active_idx') + pg_relation_size('make_it_clap_pending_idx') > 500000
                            AND (SELECT noted_at FROM clap_search) < now() - interval '1 second' THEN
            PERFORM clap_note_search();
        END IF;
        EXIT WHEN NOT again;
    END LOOP;
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
        RETURNING session_id
    )
    UPDATE clap_attempt a
       SET outcome = 'SUCCESS', ended_at = now(), exit_code = 0
      FROM done
     WHERE a.session_id = done.session_id
    RETURNING 'SUCCESS';
END $$;
