"""What a fastlb is doing: its processes, listeners, pools and counters."""

import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb import BUILD_ID, __version__
from fastlb.control_plane.admin.backends import describe_backends, list_backends
from fastlb.control_plane.admin.messages import ApiError, answer, read_object
from fastlb.control_plane.tls.certificate import format_time

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

    async def show_status(request: Request) -> Response:
        return answer(describe(controller))

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
        Route("/v1/status", show_status),
        Route("/v1/counters", show_counters),
        Route("/v1/queues", show_queues),
        Route("/v1/processes", show_processes),
        Route("/v1/verify", verify),
        Route("/v1/apply", apply, methods=["POST"]),
        Route("/v1/drain", drain, methods=["POST"]),
    ]


def list_processes(controller: "Controller") -> list[dict[str, Any]]:
    """A dict for each process; a worker has the generation that it uses."""
    return [
        {"role": one.role, "slot": one.slot, "pid": one.pid, "state": one.state, "restarts": one.restarts}
        | (_describe_worker(controller, one.slot) if one.role == "worker" else {})
        for one in controller.processes
    ]


def _describe_worker(controller: "Controller", slot: int) -> dict[str, int]:
    shared = controller.shared
    return {"generation": shared.worker_generation(slot), "connections": shared.worker_connections(slot)}


def describe_certificates(controller: "Controller") -> list[dict[str, Any]]:
    """Those that are served; `error` says why the files cannot be used as they are now, null if they can."""
    now = time.time()
    used: dict[tuple[str, str], list[str]] = {}
    for listener in controller.config.listeners:
        for files in listener.tls.certificates:
            used.setdefault(files.pair, []).append(listener.name)
    return [
        {
            "file": one.certificate.cert,
            "names": list(one.certificate.names),
            "listeners": used.get((one.certificate.cert, one.certificate.key_file), []),
            "key_type": one.certificate.key_type,
            "issuer": one.certificate.issuer,
            "fingerprint": one.certificate.fingerprint,
            "expires": format_time(one.certificate.not_after),
            "expires_in_s": one.certificate.seconds_left(now),
            "error": None if one.failure is None else str(one.failure),
        }
        for one in controller.tls.list_kept()
    ]


def describe(controller: "Controller") -> dict[str, Any]:
    """All of it at a glance."""
    config = controller.config
    queues = {queue["pool"]: queue for queue in controller.shared.queues()}
    order = {one.row.identity: index for index, one in enumerate(list_backends(controller))}
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(describe_backends(controller), key=lambda row: order.get(row["identity"], len(order))):
        rows.setdefault(row["pool"], []).append(row)
    pools = [
        {
            "name": pool.name,
            "algorithm": pool.algorithm,
            "waiting": queues.get(pool.name, {}).get("waiting", 0),
            "backends": rows.get(pool.name, []),
        }
        for pool in config.pools
    ]
    return {
        "version": __version__,
        "build": BUILD_ID,
        "generation": controller.generation,
        "connections": controller.shared.connections(),
        "processes": list_processes(controller),
        "listeners": [
            {"name": one.name, "bind": [str(address) for address in one.bind], "protocol": one.protocol, "tls": one.tls.is_on}
            for one in config.listeners
        ],
        "certificates": describe_certificates(controller),
        "pools": pools,
        **controller.automation.describe(),
    }
