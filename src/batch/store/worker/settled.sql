-- settled: how an attempt ended
SELECT a.outcome, c.status
  FROM clap_attempt a
  JOIN clap c ON c.id = a.clap_id
 WHERE a.session_id = $1
