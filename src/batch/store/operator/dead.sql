-- dead: the dead claps
SELECT id FROM clap WHERE status = 'DEAD' ORDER BY id
