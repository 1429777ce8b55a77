"""What a fastlb is doing: its processes, listeners, pools and counters."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb.control_plane.admin.messages import ApiError, answer, read_object

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    shared = controller.shared

    async def show_counters(request: Request) -> Response:
        counters = shared.counters()
        return answer({"counters": counters, "connections": counters["clients"], "generation": controller.generation})

    async def show_queues(request: Request) -> Response:
        return answer({"queues": shared.queues()})

    async def show_processes(request: Request) -> Response:
        return answer({"processes": list_processes(controller)})

    async def show_backends(request: Request) -> Response:
        return answer({"backends": shared.backends()})

    async def verify(request: Request) -> Response:
        return answer({"rows": shared.verify()})

    async def apply(request: Request) -> Response:
        asked = await read_object(request, config=str)
        if "config" not in asked:
            raise ApiError(400, '"config" is missing: the path of a file')
        return answer({"generation": await controller.apply_file(asked["config"])})

    async def drain(request: Request) -> Response:
        await read_object(request)
        controller.drain()
        return answer({}, 202)

    return [
        Route("/v1/counters", show_counters),
        Route("/v1/queues", show_queues),
        Route("/v1/processes", show_processes),
        Route("/v1/backends", show_backends),
        Route("/v1/verify", verify),
        Route("/v1/apply", apply, methods=["POST"]),
        Route("/v1/drain", drain, methods=["POST"]),
    ]


def list_processes(controller: "Controller") -> list[dict[str, Any]]:
    """A dict for each process; a worker has the generation that it uses."""
    return [
        {"role": one.role, "slot": one.slot, "pid": one.pid, "state": one.state, "restarts": one.restarts}
        | ({"generation": controller.shared.worker_generation(one.slot)} if one.role == "worker" else {})
        for one in controller.processes
    ]
