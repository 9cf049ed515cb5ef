"""Engines: one protocol above the libraries that run a network, and the folder that ships one."""
