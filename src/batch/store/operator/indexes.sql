-- indexes: the names of the tables' indexes
SELECT c.relname::text AS name
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid IN ('make_it_clap'::regclass, 'clap'::regclass, 'clap_attempt'::regclass)
