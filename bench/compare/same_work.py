"""Before anything is timed: does every proxy do the same work? Asks the backend what it was sent."""

import http.client
import ssl

from bench.compare.processes import BenchError
from bench.compare.proxies import ADDRESS, EDITS, RELAYS, Proxy
from bench.compare.works import Work

_HOST = "bench.example"
_AGREED = ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
_CLAIMED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "claimed",
    "X-Forwarded-Host": "claimed.example",
    "X-Request-Id": "claimed",
}


def check_proxy(proxy: Proxy, works: list[Work], *, reads_heads: bool = True) -> None:
    """Raises BenchError where a proxy changes a body, or (where it reads heads) forwards others than fastlb's default does."""
    for work in works:
        size = int(work.path.rpartition("/")[2])
        body = _get(proxy, work.path, {})
        if len(body) != size or body.strip(b"x"):
            raise BenchError(f"{proxy.name}: {work.path} came with a body of {len(body)} bytes")
    if proxy.name in RELAYS or not reads_heads:
        return
    head = _get(proxy, "/head", {"Host": _HOST, **_CLAIMED}).decode("latin-1")
    received = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])}
    wanted = {"host": _HOST, "x-forwarded-for": ADDRESS, "x-forwarded-proto": proxy.scheme, "x-forwarded-host": _HOST}
    wrong = [f"{name} is {received.get(name)!r}, not {value!r}" for name, value in wanted.items() if received.get(name) != value]
    if received.get("x-request-id") in (None, "", _CLAIMED["X-Request-Id"]):
        wrong.append(f"x-request-id is {received.get('x-request-id')!r}, not a new one")
    if wrong:
        raise BenchError(f"{proxy.name} does not do the same work: {'; '.join(wrong)}")


def check_edits(proxy: Proxy) -> None:
    """Raises BenchError where a header edit of the routes is not done."""
    (name, value, removed), (shown, text, hidden) = EDITS["request"], EDITS["response"]
    connection = http.client.HTTPConnection(ADDRESS, proxy.port, timeout=5)
    try:
        connection.request("GET", "/head", headers={"Host": _HOST, name: "claimed", removed: "secret"})
        response = connection.getresponse()
        head = response.read().decode("latin-1")
    finally:
        connection.close()
    received = {field.lower(): content.strip() for field, _, content in (line.partition(":") for line in head.split("\r\n")[1:])}
    if (
        (received.get(name.lower()), received.get(removed.lower())) != (value, None)
        or response.headers.get_all(shown) != [text]
        or hidden in response.headers
    ):
        raise BenchError(f"{proxy.name} does not edit headers as it should: {head!r}, {response.headers.items()}")


def _connect(proxy: Proxy) -> http.client.HTTPConnection:
    if proxy.scheme == "http":
        return http.client.HTTPConnection(ADDRESS, proxy.port, timeout=5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(ADDRESS, proxy.port, timeout=5, context=context)
    connection.connect()
    socket: ssl.SSLSocket = connection.sock
    if (agreed := (socket.version(), (socket.cipher() or ("",))[0])) != _AGREED:
        raise BenchError(f"{proxy.name} agrees on {agreed}, not {_AGREED}")
    return connection


def _get(proxy: Proxy, path: str, headers: dict[str, str]) -> bytes:
    connection = _connect(proxy)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{proxy.name}: {path}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{proxy.name}: {path} was answered {response.status}: {body[:200]!r}")
    return body
