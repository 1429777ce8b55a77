"""What the active health checks know."""

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    async def show_health(request: Request) -> Response:
        return Response(write_health(controller.health.describe()), media_type="application/json")

    return [Route("/v1/health", show_health)]


def write_health(known: dict[str, Any]) -> str:
    """A line for each backend: the encoder that indents is Python and takes ten times as long, and probes would be late meanwhile."""
    backends = ",\n".join(json.dumps(one) for one in known["backends"])
    return f'{{"backends": [\n{backends}\n],\n"probes": {json.dumps(known["probes"])}}}\n'
