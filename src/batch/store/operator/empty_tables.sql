-- empty_tables: the tables without a page that have all their indexes, and these indexes; no plan says how they are read when they are full
SELECT unnest(array_agg(index) || index_of) AS name
  FROM (VALUES ('make_it_clap', 'make_it_clap_pkey'), ('make_it_clap', 'make_it_clap_pending_idx'),
               ('clap', 'clap_pkey'), ('clap', 'clap_active_idx'), ('clap', 'clap_active_job_key'), ('clap', 'clap_finished_idx'),
               ('clap_attempt', 'clap_attempt_pkey'), ('clap_attempt', 'clap_attempt_job_idx'),
               ('clap_attempt', 'clap_attempt_session_key'), ('clap_attempt', 'clap_attempt_one_success'),
               ('clap_attempt', 'clap_attempt_one_running')) AS needed (index_of, index)
 WHERE pg_relation_size(to_regclass(index_of)) = 0
 GROUP BY index_of
HAVING bool_and((SELECT true
                   FROM pg_index i
                   JOIN pg_class c ON c.oid = i.indexrelid
                  WHERE i.indrelid = to_regclass(index_of) AND i.indisvalid AND c.relname = index) IS TRUE)
