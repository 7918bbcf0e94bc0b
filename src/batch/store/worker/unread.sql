-- unread: takes a request that nobody has tried, whatever is in it: it is not read before it is taken
WITH pick AS MATERIALIZED (
    SELECT id, max_attempts
      FROM make_it_clap
     WHERE pending
       AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
       AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
     ORDER BY id
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
    INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, job_name, pod_name, started_at, lease_expires_at,
                      unconfirmed)
    SELECT id, 'RUNNING', $1, 1, max_attempts, $2, $3, $4, now(), now() + make_interval(secs => $6), true
      FROM pick
        ON CONFLICT (id) DO NOTHING
    RETURNING id, iteration, max_attempts
), opened AS (
    INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name)
    SELECT id, iteration, $1, $2, $3, $4, $5 FROM taken
)
SELECT id, iteration, max_attempts, 1::bigint AS job_attempts FROM taken
