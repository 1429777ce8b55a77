"""Active health checks: one prober for the node, in the controller.

verdict decides what results mean, schedule when a probe starts, tcp, http, grpc and script are the probes, checker puts them together.
"""
