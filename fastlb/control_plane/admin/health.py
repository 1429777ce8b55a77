"""What the active health checks know."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb.control_plane.admin.messages import answer

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    async def show_health(request: Request) -> Response:
        return answer(controller.health.describe())

    return [Route("/v1/health", show_health)]
