-- is_there: whether a request's row can be read, apart from its payload
SELECT 1 FROM make_it_clap WHERE id = $1
