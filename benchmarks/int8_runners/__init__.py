"""What `benchmarks/int8_peers.py` is made of, and the scripts that run the other tools."""
