-- dead: the dead claps, also those that nobody can work on
SELECT id FROM clap WHERE status = 'DEAD' ORDER BY id
