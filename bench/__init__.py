"""Benchmarks: `compare` measures fastlb against nginx and HAProxy, `micro` one function at a time."""
