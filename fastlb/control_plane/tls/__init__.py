"""Certificates, keys and what goes with them: read and checked here, carried to the workers by the snapshot."""
