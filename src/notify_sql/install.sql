-- Tells clapometer that this table has changed. One statement, all or nothing; it may be run again.
-- Made by `clapometer notify-sql`, which also removes it: the same with --drop. What it costs, its
-- limits and how to check it: docs/notify.md.
DO {outer}
DECLARE
    lock_timeout pg_catalog.text := pg_catalog.current_setting('lock_timeout');
    present pg_catalog.name;
BEGIN
    -- Better no trigger than a queue of writers behind us.
    PERFORM pg_catalog.set_config('lock_timeout', '2s', true);

    -- It runs after each statement. Of the transactions that change the table within a tenth of a second and are
    -- open at the same time, one gets the lock and notifies when it commits; the others become visible while
    -- clapometer reads again, 100 ms and 1 s later. However long one stays open, it mutes nobody after that tenth.
    -- Nothing here waits, and no error leaves it. It runs as the writer, whatever the search_path.
    CREATE OR REPLACE FUNCTION {function}()
    RETURNS trigger
    LANGUAGE plpgsql
    AS {inner}
    DECLARE
        query pg_catalog.text;
        unsure pg_catalog.bool;
        tenths pg_catalog.int8;
    BEGIN
        -- Once a transaction, and not before it has changed anything: a statement may have found no row.
        IF pg_catalog.current_setting({setting}, true) OPERATOR(pg_catalog.=) 'on'
           OR pg_catalog.pg_current_xact_id_if_assigned() IS NULL
        THEN
            RETURN NULL;
        END IF;

        -- PREPARE TRANSACTION fails after NOTIFY, and would keep the lock. Where it is possible at all, only
        -- what is certain to be committed notifies: a transaction at its COMMIT, or a statement on its own.
        IF pg_catalog.current_setting('max_prepared_transactions') OPERATOR(pg_catalog.<>) '0' THEN
            query := pg_catalog.lower(pg_catalog.current_query());
            unsure := CASE
                WHEN query IS NULL
                THEN pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica'
                WHEN pg_catalog.strpos(query, 'prepare') OPERATOR(pg_catalog.>) 0
                THEN true
                WHEN pg_catalog.statement_timestamp() OPERATOR(pg_catalog.=) pg_catalog.now()
                THEN false
                ELSE query OPERATOR(pg_catalog.!~) '^[[:space:]]*(commit|end)([^a-z0-9_]|$)'
            END;
            IF unsure THEN
                RETURN NULL;
            END IF;
        END IF;

        tenths := (pg_catalog.date_part('epoch', pg_catalog.statement_timestamp())
                   OPERATOR(pg_catalog.*) 10::pg_catalog.float8)::pg_catalog.int8;
        IF (pg_catalog.pg_try_advisory_xact_lock({key} OPERATOR(pg_catalog.+) tenths)
            OR TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE')
           -- A full queue of notifications would fail the COMMIT, after this function.
           AND pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.<) 0.5::pg_catalog.float8
        THEN
            PERFORM pg_catalog.set_config({setting}, 'on', true);
            PERFORM pg_catalog.pg_notify({channel}, '');
        END IF;
        RETURN NULL;
    EXCEPTION
        WHEN OTHERS THEN
            RETURN NULL;
    END
    {inner};
    COMMENT ON FUNCTION {function}() IS 'Tells clapometer of changes; made by clapometer notify-sql';

    FOR present IN
        SELECT tgname
          FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) {relation}::pg_catalog.regclass
           AND NOT tgisinternal
           AND tgname OPERATOR(pg_catalog.=) ANY (ARRAY['clapometer_notify', 'clapometer_notify_truncate']::pg_catalog.name[])
    LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', present, {table_text});
    END LOOP;
{triggers}
    PERFORM pg_catalog.set_config('lock_timeout', lock_timeout, true);
END
{outer};
