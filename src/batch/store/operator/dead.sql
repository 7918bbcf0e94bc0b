-- dead: the dead claps that somebody can work on
SELECT id
  FROM clap
 WHERE status = 'DEAD'
   AND iteration < 999999999
   AND (SELECT true FROM make_it_clap m WHERE m.id = clap.id)
 ORDER BY id
