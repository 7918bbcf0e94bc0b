-- dead: every clap that nobody will try again
SELECT id FROM clap WHERE status = 'DEAD' ORDER BY id
