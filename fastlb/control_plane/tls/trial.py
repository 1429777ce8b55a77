"""Whether OpenSSL takes certificates, asked as a worker will ask: what it refuses there would keep a whole snapshot from being used."""

import os
from collections.abc import Sequence

from fastlb.control_plane.tls.certificate import Certificate


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


def _try(certificates: Sequence[Certificate]) -> str:
    """What OpenSSL says against one of them, "" if nothing."""
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
    identities = [[writer.add_certificate(one.chain, one.key)] for one in certificates]
    writer.set_tls(listener, identities=identities, names=[], default=0)
    writer.set_route_table(_core.RouteTableWriter(1).finish())
    image = writer.finish()
    try:
        _core.Image(image).compile()
    except ValueError as error:
        return str(error).rpartition(":")[2]
    finally:
        os.close(image)
    return ""
