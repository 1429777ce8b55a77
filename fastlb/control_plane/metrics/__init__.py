"""What fastlb counts, and how that is told to Prometheus: read from shared memory, without asking a worker."""
