-- backlog: the numbers of the queue
SELECT pending, due, claimable, held, reserved, waiting, extract(epoch FROM next_change - now())::float8 AS next_change
  FROM clap_backlog
