-- retry: grants one more attempt, due now, for any Job
UPDATE clap
   SET status = 'FAILED', job_uid = NULL, job_name = NULL, cancel_requested_at = NULL,
       next_attempt_at = now(), lease_expires_at = now(),
       max_attempts = greatest(max_attempts, iteration - interruptions + 1)
 WHERE id = ANY ($1) AND status IN ('DEAD', 'FAILED', 'CANCELLED')
RETURNING id, status AS effect
