"""Reloading, and the configuration in force as a file would say it."""

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb.control_plane.admin.messages import answer, read_object
from fastlb.control_plane.config.writer import write_config

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    async def reload(request: Request) -> Response:
        await read_object(request)
        outcome = await controller.reload()
        return answer(outcome.as_json(), 422 if outcome.errors else 200)

    async def show_config(request: Request) -> Response:
        generation, config = controller.generation, controller.config
        written = await asyncio.to_thread(write_config, config)  # thousands of routes take a while
        return answer({"generation": generation, "overridden": controller.overridden, "config": written})

    return [
        Route("/v1/reload", reload, methods=["POST"]),
        Route("/v1/config", show_config),
    ]
