"""Has the configuration file read again."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb.control_plane.admin.messages import answer, read_object

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    async def reload(request: Request) -> Response:
        await read_object(request)
        outcome = await controller.reload()
        return answer(outcome.as_json(), 422 if outcome.errors else 200)

    return [Route("/v1/reload", reload, methods=["POST"])]
