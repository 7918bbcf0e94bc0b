-- attempts: every attempt on one clap, the first one first
SELECT iteration, outcome, started_at, ended_at, exit_code, error, session_id, job_uid, job_name, pod_name, node_name
  FROM clap_attempt
 WHERE clap_id = $1
 ORDER BY iteration
