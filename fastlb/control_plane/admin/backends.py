"""Backends: what is known of each, and what the operator wants of one."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb import _core
from fastlb.control_plane.admin.messages import ApiError, answer, read_object
from fastlb.control_plane.backend_states import AdminState
from fastlb.control_plane.config.errors import nearest, quote, quote_all
from fastlb.control_plane.config.schema import MAX_WEIGHT, WITHOUT_WEIGHTS, Pool
from fastlb.control_plane.groups import Row
from fastlb.control_plane.snapshot import list_rows
from fastlb.control_plane.weights import override_weight

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller

# As `drain_timeout` may be at most.
MAX_TIMEOUT_MS = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the configuration in force."""

    pool: Pool
    row: Row  # with the weight that is in force
    configured_weight: int


def routes(controller: "Controller") -> list[Route]:
    async def show_all(request: Request) -> Response:
        return answer({"backends": describe_backends(controller)})

    async def show(request: Request) -> Response:
        wanted = {one.row.identity for one in find_backends(controller, **request.path_params)}
        return answer({"backends": [row for row in describe_backends(controller) if row["identity"] in wanted]})

    async def change(request: Request) -> Response:
        found = find_backends(controller, **request.path_params)
        asked = await read_object(request, admin=str, timeout_ms=int, weight=(int, type(None)))
        _check(asked, found[0].pool)
        if "weight" in asked:
            await controller.set_weight(_weight_key(found, request.path_params["address"]), asked["weight"])
        if "admin" in asked:
            for one in found:
                try:
                    controller.set_admin(one.row.identity, AdminState(asked["admin"]), asked.get("timeout_ms"))
                except KeyError:
                    raise ApiError(409, f"{quote(one.row.display)} is not in use on this node (a subset of the pool is)") from None
        return await show(request)

    return [
        Route("/v1/backends", show_all),
        Route("/v1/backends/{pool}/{address:path}", show),
        Route("/v1/backends/{pool}/{address:path}", change, methods=["POST"]),
    ]


def list_backends(controller: "Controller") -> list[Listed]:
    """All rows of the configuration in force, in its order."""
    endpoints = controller.endpoints
    listed = []
    for pool in controller.config.pools:
        for backend in pool.backends:
            for row in list_rows(pool, backend, endpoints):
                listed.append(Listed(pool, override_weight(row, pool, controller.weights), row.backend.weight))
    return listed


def find_backends(controller: "Controller", pool: str, address: str) -> list[Listed]:
    """The rows that are meant: all of a backend as the configuration writes it, or one address of a name.

    Raises:
        ApiError: there is none; with the nearest one that there is.
    """
    pools = {one.name for one in controller.config.pools}
    if pool not in pools:
        raise ApiError(404, f"there is no pool {quote(pool)}{_suggest(pool, pools)}")
    listed = [one for one in list_backends(controller) if one.pool.name == pool]
    found = [one for one in listed if str(one.row.backend.address) == address] or [one for one in listed if one.row.table_name == address]
    if not found:
        addresses = [str(one.row.backend.address) for one in listed]
        raise ApiError(404, f"pool {quote(pool)} has no backend {quote(address)}{_suggest(address, addresses)}")
    return found


def describe_backends(controller: "Controller") -> list[dict[str, Any]]:
    """A dict for each backend that has a row in shared memory, also for those that the configuration in force lists no more."""
    listed = {one.row.identity: one for one in list_backends(controller)}
    found = {row["identity"]: row["text"] for row in controller.health.describe()["backends"] if row["last"] != "passed"}
    now_ms = time.monotonic_ns() // 1_000_000
    described: list[dict[str, Any]] = []
    for row in controller.shared.backends():
        one = listed.get(str(row["identity"]))
        pool, _, address = str(row["identity"]).partition("|")
        state = int(row["state"])
        drain = controller.drains.get(str(row["identity"]))
        described.append(
            row
            | {
                "pool": pool,
                "address": str(one.row.backend.address) if one is not None else address,
                "listed": one is not None,
                "resolved": one is None or one.row.address is not None,  # a name without an address gets no requests
                "weight": one.row.backend.weight if one is not None else 0,
                "configured_weight": one.configured_weight if one is not None else 0,
                "admin": controller.states.get(str(row["identity"])).admin.value,
                "health": "down" if state & _core.ROW_STATES["down"] else "up",
                "ejected": bool(state & _core.ROW_STATES["ejected"]),
                "health_since_ms": max(now_ms - int(row["changed_ms"]), 0) if row["changed_ms"] else None,
                "last_error": found.get(str(row["identity"]), ""),
                "drain": drain.as_json() if drain is not None else None,
            }
        )
    return described


def _check(asked: dict[str, Any], pool: Pool) -> None:
    """Raises ApiError with everything that is wrong."""
    errors = []
    states = [state.value for state in AdminState]
    if not asked:
        errors.append('nothing is asked for: "admin" or "weight" says what')
    if asked.get("admin", states[0]) not in states:
        errors.append(f'"admin" is {quote_all(states)}, and not {quote(asked["admin"])}{_suggest(asked["admin"], states)}')
    if "timeout_ms" in asked and asked.get("admin") != AdminState.DRAIN:
        errors.append('"timeout_ms" belongs to "admin": "drain"')
    if not 0 <= asked.get("timeout_ms", 0) <= MAX_TIMEOUT_MS:
        errors.append(f'"timeout_ms" is 0 … {MAX_TIMEOUT_MS}')
    weight = asked.get("weight")
    if weight is not None and not 0 <= weight <= MAX_WEIGHT:
        errors.append(f'"weight" is 0 (never picked) … {MAX_WEIGHT}, or null for the configured one')
    elif weight is not None and weight > 1 and pool.algorithm in WITHOUT_WEIGHTS:
        errors.append(f"pool {quote(pool.name)} has the algorithm {quote(pool.algorithm)}, which knows no weights but 0 and 1")
    if errors:
        raise ApiError(400, "\n".join(errors))


def _weight_key(found: list[Listed], address: str) -> str:
    """Of a backend as it is written, or of the one row that was named."""
    if str(found[0].row.backend.address) == address:
        return f"{found[0].pool.name}|{address}"
    return found[0].row.identity


def _suggest(word: str, known: Iterable[str]) -> str:
    meant = nearest(word, known)
    return f"; did you mean {quote(meant)}?" if meant else ""
