"""The control plane: configuration, names and snapshots. Python only; it never touches a request."""
