"""From the routes of a configuration to the route table of a snapshot: which request takes which of them."""

from collections.abc import Sequence

from fastlb import _core
from fastlb.control_plane.config.schema import Route


def build_route_table(routes: Sequence[Route], indexes: Sequence[int]) -> bytes:
    """Compiles what routes match.

    Args:
        indexes: of each route what SnapshotWriter.add_route returned.
    """
    writer = _core.RouteTableWriter()
    for route, index in zip(routes, indexes, strict=True):
        for host in route.hosts:
            writer.add_rule(index, host=host, path=route.path)
    return writer.finish()
