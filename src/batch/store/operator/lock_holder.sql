-- lock_holder: the session that has held a lock on the tables for longest, as text
SELECT format('pid %s (%s), whose transaction is open since %s', a.pid,
              coalesce(nullif(a.application_name, ''), a.usename::text, 'of another role'),
              coalesce(to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), 'a time that this role may not see')) AS holder
  FROM pg_locks l
  JOIN pg_stat_activity a USING (pid)
 WHERE l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation IN (to_regclass('make_it_clap'), to_regclass('clap'), to_regclass('clap_attempt'))
   AND a.pid <> pg_backend_pid()
 ORDER BY a.xact_start NULLS LAST, a.pid
 LIMIT 1
