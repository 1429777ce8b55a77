"""The application of the admin API: the routes of its modules, and what holds for all of them.

Errors are JSON, {"errors": ["..."]}, with a fitting status. Requests that a browser was
made to send by somebody else's page are refused: there is no authentication that would tell them from the operator's.
"""

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fastlb import FastlbError
from fastlb.control_plane.admin import backends, health, metrics, reload, status, upgrade
from fastlb.control_plane.admin.messages import ApiError, answer
from fastlb.control_plane.config.errors import ConfigError, nearest, quote
from fastlb.processes.output import report

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller

# Each gives its routes for a controller.
MODULES = (status.routes, backends.routes, reload.routes, health.routes, metrics.routes, upgrade.routes)


def make_app(controller: "Controller") -> Any:
    """The ASGI application."""
    routes = [route for module in MODULES for route in module(controller)]
    return Guard(
        Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: _answer_http_exception,
                FastlbError: _answer_error,
                ClientDisconnect: _answer_gone,
                Exception: _answer_mistake,
            },
        ),
        [route.path for route in routes],
    )


class Guard:
    """Stands before the routes: refuses what must not come in, and tells of mistakes of ours."""

    def __init__(self, app: Any, paths: list[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").casefold()
        scope["state"]["paths"] = self._paths
        answered = False

        async def send_and_note(message: Any) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        if b"origin" in headers or not _is_local(host):
            text = "requests of web pages are refused, and Host has to be localhost or an address of this machine's loopback"
            await answer({"errors": [text]}, 403)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            report(f"a mistake in fastlb's admin API: {scope['method']} {quote(scope['path'])}: {type(error).__name__}: {error}")
            if not answered:
                raise  # which cuts the connection


def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = error.detail
    if error.status_code == 404:
        paths = request.scope["state"]["paths"]
        meant = nearest(request.url.path, paths)
        text = f"there is nothing at {quote(request.url.path)}" + (f"; did you mean {quote(meant)}?" if meant else "")
    elif error.status_code == 405:
        text = f"{request.method} is not for {quote(request.url.path)}"
    response = answer({"errors": [text]}, error.status_code)
    response.headers.update(error.headers or {})
    return response


def _answer_error(request: Request, error: Exception) -> Response:
    """Something that was asked for and cannot be done."""
    status = error.status if isinstance(error, ApiError) else 422
    return answer({"errors": error.lines() if isinstance(error, ConfigError) else str(error).splitlines()}, status)


def _answer_mistake(request: Request, error: Exception) -> Response:
    return answer({"errors": [f"a mistake in fastlb: {type(error).__name__}"]}, 500)


def _answer_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _is_local(host: str) -> bool:
    """Whether a `Host` can be meant for this API: a page of somebody else's whose name leads to this machine has its own name there (DNS
    rebinding)."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
