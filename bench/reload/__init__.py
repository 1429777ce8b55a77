"""How long a reload takes: `python -m bench.reload`."""
