-- partial_indexes: the indexes of the tables that hold only some rows
SELECT c.relname::text AS name
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indpred IS NOT NULL AND i.indrelid IN ('make_it_clap'::regclass, 'clap'::regclass, 'clap_attempt'::regclass)
