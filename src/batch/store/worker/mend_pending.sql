-- mend_pending: takes the flag from requests that are pending although they have a clap; returns how many there were
WITH odd AS (
    SELECT id
      FROM make_it_clap m
     WHERE pending AND EXISTS (SELECT 1 FROM clap WHERE clap.id = m.id)
     ORDER BY id
     LIMIT 1000
), mended AS (
    UPDATE make_it_clap m SET pending = false FROM odd WHERE m.id = odd.id AND m.pending
)
SELECT count(*) AS odd FROM odd
