"""Engines on a Triton server: what is packaged for it, and the client that has frames segmented."""
