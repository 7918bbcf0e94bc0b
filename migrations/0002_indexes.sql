-- 0002_indexes: each holds only the rows that its statements look for, so history costs them nothing.
CREATE INDEX make_it_clap_pending_idx        ON make_it_clap (id)      WHERE pending;
CREATE INDEX clap_active_idx                 ON clap (next_attempt_at) WHERE status IN ('RUNNING', 'FAILED'); -- the lease is not indexed: heartbeats stay HOT
CREATE UNIQUE INDEX clap_active_job_key      ON clap (job_uid)         WHERE status IN ('RUNNING', 'FAILED'); -- one Job, one clap
CREATE INDEX clap_finished_idx               ON clap (finished_at)     WHERE status IN ('SUCCESS', 'DEAD', 'CANCELLED');
CREATE INDEX clap_attempt_job_idx            ON clap_attempt (job_uid);
CREATE UNIQUE INDEX clap_attempt_session_key ON clap_attempt (session_id);
CREATE UNIQUE INDEX clap_attempt_one_success ON clap_attempt (clap_id) WHERE outcome = 'SUCCESS';
CREATE UNIQUE INDEX clap_attempt_one_running ON clap_attempt (clap_id) WHERE outcome = 'RUNNING';
