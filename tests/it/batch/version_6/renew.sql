-- beat: extends the lease; no row means that the clap is no longer ours
UPDATE clap
   SET lease_expires_at = now() + make_interval(secs => $3)
 WHERE id = $1 AND session_id = $2 AND status = 'RUNNING'
RETURNING cancel_requested_at IS NOT NULL AS cancel_requested
