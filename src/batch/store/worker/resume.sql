-- resume: lets a later pod of the same Job resume the Job's clap, whatever next_attempt_at says
WITH pick AS MATERIALIZED (
    SELECT id
      FROM clap
     WHERE job_uid = $2
       AND status IN ('RUNNING', 'FAILED')
       AND iteration - interruptions < max_attempts
       AND (status = 'FAILED' OR lease_expires_at <= now() OR pod_name = $4)   -- same pod: the kubelet has ended the old container
     ORDER BY id
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
)
