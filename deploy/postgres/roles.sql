-- The roles of clapometer and of postgres-batch, with no more than they use.
--
-- Run it with psql in the database of the queue, after `postgres-batch migrate up`, as the owner of the tables with CREATEROLE,
-- or as a superuser. It can be run again, by the same role: after an upgrade, or with another schema.
--
--     psql -d postgres -f roles.sql                       creates the roles without passwords
--     psql -d postgres -v schema=queue -f roles.sql       tables in the schema `queue` instead of `public`
--     psql -d postgres -v clapometer_password="$A" -v postgres_batch_password="$B" -f roles.sql
--                                                         sets the passwords, too (they pass through psql's process list
--                                                         and the server's log; `\password clapometer` does not)
--
-- A table of your own instead of postgres-batch's: see own-table.sql beside this file.

\set ON_ERROR_STOP on
\if :{?schema}
\else
    \set schema public
\endif

SELECT to_regclass(format('%I.clap_backlog', :'schema')) IS NULL AS has_no_tables
\gset
\if :has_no_tables
DO $$
BEGIN
    RAISE EXCEPTION 'the tables of postgres-batch are not in this schema of this database'
        USING HINT = 'Run postgres-batch migrate up first; for another schema than public, psql -v schema=NAME.';
END $$;
\endif

BEGIN;

SELECT 'CREATE ROLE clapometer'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'clapometer')
\gexec
SELECT 'CREATE ROLE postgres_batch'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postgres_batch')
\gexec
SELECT 'CREATE ROLE postgres_batch_operator'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postgres_batch_operator')
\gexec

-- A new role has none of these attributes. From one that was there already they are not taken away: before PostgreSQL 16 only a
-- superuser may name them, even to say no, and a managed service gives none.
DO $$
DECLARE
    existing record;
BEGIN
    FOR existing IN
        SELECT rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
                                  CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
                                  CASE WHEN rolbypassrls THEN 'BYPASSRLS' END) AS attributes
          FROM pg_roles
         WHERE rolname IN ('clapometer', 'postgres_batch', 'postgres_batch_operator')
    LOOP
        IF existing.attributes <> '' THEN
            RAISE EXCEPTION 'the role % is there already, with %', existing.rolname, existing.attributes
                USING HINT = format('Let a superuser take it away: ALTER ROLE %I NO%s;',
                                    existing.rolname, replace(existing.attributes, ' ', ' NO'));
        END IF;
    END LOOP;
END $$;

-- The scaler. 20 connections: two pods of pool_size 4, one LISTEN and one cancel each, and a third pod during an update.
ALTER ROLE clapometer WITH LOGIN CONNECTION LIMIT 20;
-- Belts beside its own: every reading is a read-only transaction with its own limits, but the role is the boundary.
ALTER ROLE clapometer SET default_transaction_read_only = on;
ALTER ROLE clapometer SET statement_timeout = '10s';
ALTER ROLE clapometer SET lock_timeout = '1s';
ALTER ROLE clapometer SET idle_in_transaction_session_timeout = '10s';

-- The Jobs. One connection each, two for a moment; set it above maxReplicaCount.
ALTER ROLE postgres_batch WITH LOGIN CONNECTION LIMIT 200;
ALTER ROLE postgres_batch SET statement_timeout = '30s';
ALTER ROLE postgres_batch SET lock_timeout = '5s';
ALTER ROLE postgres_batch SET idle_in_transaction_session_timeout = '30s';

-- People: `postgres-batch add | retry | cancel | prune`. Grant it to them: GRANT postgres_batch_operator TO alice;
ALTER ROLE postgres_batch_operator WITH NOLOGIN;

\if :{?clapometer_password}
    ALTER ROLE clapometer PASSWORD :'clapometer_password';
\endif
\if :{?postgres_batch_password}
    ALTER ROLE postgres_batch PASSWORD :'postgres_batch_password';
\endif

GRANT USAGE ON SCHEMA :"schema" TO clapometer, postgres_batch, postgres_batch_operator;
SET LOCAL search_path = :"schema";

-- What the scaler counts: outstanding-claps and clap-workers read the view and nothing else.
GRANT SELECT ON clap_backlog TO clapometer;
-- The seed's query (pending-claps) and dead-claps read these columns; payload and errors stay unseen.
GRANT SELECT (id) ON make_it_clap TO clapometer;
GRANT SELECT (id, status, finished_at) ON clap TO clapometer;

-- What a Job does: claim, renew, settle.
GRANT SELECT ON make_it_clap, clap_backlog TO postgres_batch;
GRANT UPDATE (pending) ON make_it_clap TO postgres_batch;
GRANT SELECT, INSERT, UPDATE ON clap, clap_attempt TO postgres_batch;
GRANT SELECT, INSERT, DELETE ON clap_voided_session TO postgres_batch;
GRANT EXECUTE ON FUNCTION clap_take, clap_succeed TO postgres_batch;

-- What people do.
GRANT SELECT, INSERT, DELETE ON make_it_clap TO postgres_batch_operator;
GRANT UPDATE (pending) ON make_it_clap TO postgres_batch_operator;
GRANT SELECT ON clap_backlog TO postgres_batch_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON clap, clap_attempt TO postgres_batch_operator;

-- Which migrations have been applied; written by their owner only.
GRANT SELECT ON postgres_batch_migrations TO postgres_batch, postgres_batch_operator;

-- Before PostgreSQL 15 every role may create tables in the schema public. Applications may rely on it, so that it is yours to change.
SELECT set_config('roles.schema', :'schema', true) AS unused
\gset
DO $$
BEGIN
    IF has_schema_privilege('clapometer', current_setting('roles.schema'), 'CREATE') THEN
        RAISE WARNING 'the role clapometer may create tables in the schema %', current_setting('roles.schema')
            USING HINT = format('Let the owner of the schema take it away: REVOKE CREATE ON SCHEMA %I FROM PUBLIC;',
                                current_setting('roles.schema'));
    END IF;
END $$;

COMMIT;
