"""What `fastlb serve --listen … --backend …` says, as a source that the loader reads like a file.

Errors then name the argument instead of a line, and every rule of the file holds here too.
"""

from collections.abc import Sequence
from typing import Any

from fastlb.control_plane.config.errors import Place
from fastlb.control_plane.config.toml import KeyPath

LISTENER = "web"
POOL = "default"


class Arguments:
    """A configuration of one listener and one pool.

    Args:
        listen: addresses as in a listener's `bind`.
        backends: "ADDRESS" or "ADDRESS,weight=3,max_connections=10".
        algorithm: of the pool; "" for the default.
        cert, key: files of the listener's certificate; "" for none.
    """

    complete = True

    def __init__(self, listen: Sequence[str], backends: Sequence[str], algorithm: str = "", cert: str = "", key: str = "") -> None:
        self._shown: dict[KeyPath, str] = {}
        for index, text in enumerate(listen):
            self._shown["listeners", 0, "bind", index] = f"--listen {text}"
        for index, text in enumerate(backends):
            self._shown["pools", POOL, "backends", index] = f"--backend {text}"
        pool: dict[str, Any] = {"backends": [_read_backend(text) for text in backends]}
        if algorithm:
            self._shown["pools", POOL, "algorithm"] = f"--algorithm {algorithm}"
            pool["algorithm"] = algorithm
        listener: dict[str, Any] = {"name": LISTENER, "bind": list(listen)}
        if cert:
            self._shown["listeners", 0, "tls"] = f"--cert {cert}"
            self._shown["listeners", 0, "tls", "certificates", "key"] = f"--key {key}"
            listener["tls"] = {"certificates": {"cert": cert, "key": key}}
        self.values: dict[str, Any] = {"listeners": [listener], "pools": {POOL: pool}}

    def value_place(self, path: KeyPath) -> Place:
        """The argument that this path comes from."""
        order = list(self._shown)
        for length in range(len(path), 0, -1):
            if path[:length] in self._shown:
                return Place(0, order.index(path[:length]) + 1, self._shown[path[:length]])
        return Place(0, 0, "--listen" if path[:1] == ("listeners",) else "--backend")

    key_place = value_place


def _read_backend(text: str) -> dict[str, Any]:
    """A table as a file would have it; what is not KEY=NUMBER stays text, and the loader says what is wrong with it."""
    address, *settings = text.split(",")
    table: dict[str, Any] = {"address": address}
    for setting in settings:
        key, _, value = setting.partition("=")
        table[key.strip()] = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    return table
