"""The peers that `benchmarks/peers.py` times: a file each, a process each."""
