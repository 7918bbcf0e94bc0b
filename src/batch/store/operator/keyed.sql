-- keyed: the request with this key
SELECT id FROM make_it_clap WHERE request_key = $1
