-- scaling: the numbers that the scaler asks for
SELECT claimable + held AS outstanding, claimable FROM clap_backlog
