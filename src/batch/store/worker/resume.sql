-- resume: lets a later pod of the same Job resume the Job's clap, whatever next_attempt_at says
WITH head AS MATERIALIZED (
    SELECT id, status = 'RUNNING' AND unconfirmed AND interruptions < 10 AS is_free,
           greatest(iteration, (SELECT max(a.iteration) FROM clap_attempt a WHERE a.clap_id = clap.id)) AS last
      FROM clap
     WHERE job_uid = $2
       AND status IN ('RUNNING', 'FAILED')
       AND (iteration - interruptions < max_attempts OR (status = 'RUNNING' AND unconfirmed AND interruptions < 10))
       AND (status = 'FAILED' OR lease_expires_at <= now() OR pod_name = $4)   -- same pod: the kubelet has ended the old container
       AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
     ORDER BY id
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
), pick AS (   -- those that nobody can work on are left to mark_dead
    SELECT id, is_free, last
      FROM head
     WHERE last < 999999999
       AND (SELECT true FROM make_it_clap m WHERE m.id = head.id)
)
