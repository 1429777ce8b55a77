"""Has the fastlb that is installed by now take over."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb import FastlbError
from fastlb.control_plane.admin.messages import answer, read_object

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    async def upgrade(request: Request) -> Response:
        await read_object(request)
        try:
            pid = await controller.upgrade()
        except FastlbError as error:
            return answer({"errors": str(error).splitlines()}, 409)
        return answer({"pid": pid})

    return [Route("/v1/upgrade", upgrade, methods=["POST"])]
