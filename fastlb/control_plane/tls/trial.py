"""Whether OpenSSL takes certificates, asked as a worker will ask: what it refuses there would keep a whole snapshot from being used."""

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastlb.control_plane.tls.certificate import Certificate

if TYPE_CHECKING:
    from fastlb import _core


def find_refused(certificates: Sequence[Certificate]) -> list[tuple[Certificate, str]]:
    """Those that it does not take, each with what it says. Nothing where the data plane is not there to be asked: `fastlb check` may run on
    another machine."""
    try:
        from fastlb import _core  # noqa: F401
    except ImportError:
        return []
    return _find(certificates) if certificates else []


def _find(certificates: Sequence[Certificate]) -> list[tuple[Certificate, str]]:
    """Halves what is refused until it is one: mostly nothing is."""
    reason = _try(certificates)
    if not reason:
        return []
    if len(certificates) == 1:
        return [(certificates[0], reason)]
    middle = len(certificates) // 2
    return [*_find(certificates[:middle]), *_find(certificates[middle:])]


def find_refused_block(bundle: bytes, authorities: bytes = b"") -> tuple[int, str] | None:
    """The first certificate of a bundle that it cannot read, or list of revoked ones: its number, from 1, and what it says.

    Args:
        authorities: whoever, of whom lists of revoked certificates are read; b"": the bundle is one of authorities.
    """
    try:
        from fastlb import _core  # noqa: F401
    except ImportError:
        return None
    if not _try_bundle(bundle, authorities):
        return None
    blocks = re.findall(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----\n?", bundle, re.DOTALL)
    return next(((number, reason) for number, block in enumerate(blocks, 1) if (reason := _try_bundle(block, authorities))), None)


def _try_bundle(bundle: bytes, authorities: bytes) -> str:
    """What OpenSSL says against one of its blocks, "" if nothing."""
    files = {"client_ca": authorities or bundle, "client_crl": bundle if authorities else b""}
    return _compile(lambda _: {"identities": [], "client_auth": "optional", **files})


def _try(certificates: Sequence[Certificate]) -> str:
    """What OpenSSL says against one of them, "" if nothing."""
    return _compile(lambda writer: {"identities": [[writer.add_certificate(one.chain, one.key)] for one in certificates], "default": 0})


def _compile(describe: Callable[["_core.SnapshotWriter"], dict[str, Any]]) -> str:
    """What OpenSSL says against a listener's TLS, "" if nothing."""
    from fastlb import _core

    writer = _core.SnapshotWriter(1)
    # A listener that nobody will ever connect to.
    listener = writer.add_listener(
        "trial",
        head_timeout_ms=1000,
        body_timeout_ms=1000,
        idle_timeout_ms=1000,
        write_timeout_ms=1000,
        max_head_bytes=8192,
        max_target_bytes=1024,
        max_headers=10,
        max_body_bytes=0,
    )
    writer.set_tls(listener, **{"names": [], "default": None, **describe(writer)})
    writer.set_route_table(_core.RouteTableWriter(1).finish())
    image = writer.finish()
    try:
        _core.Image(image).compile()
    except ValueError as error:
        return str(error).rpartition(":")[2]
    finally:
        os.close(image)
    return ""
