"""Processes: the worker with its sockets, and the backends of the demo. The data plane runs inside a worker."""
