"""fastlb: a load balancer and reverse proxy for Linux.

Importing this package costs almost nothing: it checks the operating system and names the build. What runs lives in
`fastlb.cli` (commands), `fastlb.control_plane` (configuration), `fastlb.processes` (workers) and `fastlb._core` (the compiled data plane).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlb.balancer import Balancer, Ring

if not sys.platform.startswith("linux"):
    raise ImportError(
        f"fastlb runs on Linux only and this is {sys.platform!r}: its data plane is built on epoll, splice and memfd. "
        "On other systems run it in a Linux container or virtual machine."
    )

__all__ = ["BUILD_ID", "Balancer", "FastlbError", "Ring", "__version__"]


class FastlbError(Exception):
    """Root of every exception that fastlb raises on purpose; its text is written for the person who runs fastlb."""


def _read_build() -> tuple[str, str]:
    """Version and build id as setup.py wrote them down; a tree that was never built says so."""
    try:
        build = import_module("fastlb._build")
    except ModuleNotFoundError:
        return "0+unbuilt", "0+unbuilt"
    return build.VERSION, build.BUILD_ID


__version__, BUILD_ID = _read_build()


def __getattr__(name: str) -> Any:
    """Balancer and Ring are loaded when they are asked for: most who import this package never do."""
    if name in ("Balancer", "Ring"):
        return getattr(import_module("fastlb.balancer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
