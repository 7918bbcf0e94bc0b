-- retry: grants one more attempt, due now, for any Job
UPDATE clap
   SET status = 'FAILED', job_uid = NULL, job_name = NULL, cancel_requested_at = NULL,
       next_attempt_at = clock_timestamp(), lease_expires_at = now(),   -- times that differ keep the search of many short
       max_attempts = greatest(max_attempts, iteration - interruptions + 1)
 WHERE id = ANY ($1) AND status IN ('DEAD', 'FAILED', 'CANCELLED')
RETURNING id, status AS effect
