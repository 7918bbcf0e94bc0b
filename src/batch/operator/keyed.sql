-- keyed: the request of a key
SELECT id FROM make_it_clap WHERE request_key = $1
