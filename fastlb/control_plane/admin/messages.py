"""What goes in and out of the admin API: JSON objects of bounded size, and errors as {"errors": ["..."]}."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fastlb import FastlbError
from fastlb.control_plane.config.errors import quote, quote_all

# The longest request is a path and a few numbers.
MAX_BODY_BYTES = 64 << 10


class ApiError(FastlbError):
    """An answer with a status of its own; the text has one line for each error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def answer(content: Any, status: int = 200) -> Response:
    """A JSON answer, readable without a tool."""
    return Response(json.dumps(content, indent=1) + "\n", status, media_type="application/json")


async def read_object(request: Request, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """The request's body: a JSON object with no other keys than these, each of its type. No body is an empty object.

    Raises:
        ApiError: it is something else, or too long.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"a request body has at most {MAX_BODY_BYTES} bytes")
    try:
        read = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the request body is not JSON: {str(error) or 'it is nested too deeply'}") from error
    if not isinstance(read, dict):
        raise ApiError(400, "the request body has to be a JSON object")
    errors = []
    for key, value in read.items():
        if key not in kinds:
            hint = f"the keys are {quote_all(kinds)}" if kinds else "no key is expected"
            errors.append(f"unknown key {quote(key)}; {hint}")
        elif type(value) not in (wanted := _each(kinds[key])):
            errors.append(f"{quote(key)} has to be {' or '.join(_KINDS[kind] for kind in wanted)}")
    if errors:
        raise ApiError(400, "\n".join(errors))
    return read


_KINDS = {int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}


def _each(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
