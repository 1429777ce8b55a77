"""fastlb/data_plane/proxy_codec.pyx: backends whose connections begin with a PROXY header, of an engine that the test pumps."""

import ipaddress
import socket
import ssl
from typing import Any

import pytest

from tests.support import http2
from tests.support._probe import find_common_name, read_proxy_header, write_proxy_header
from tests.support.client_hello import message, records, server_name
from tests.support.images import Writer, find_sections, load, patch
from tests.support.issue import Authority, issue
from tests.support.pair import OK, Pair
from tests.support.proxy_header import AUTHORITY, UNIQUE_ID, binary, line, tls, tlv
from tests.support.sessions import Sessions
from tests.support.tls import TICKET_KEY, TlsClient, client_context, load_chain

REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
ALL = ("alpn", "authority", "unique_id", "tls", "crc32c")
MAPPED = bytes(10) + b"\xff\xff"


def packed(ip: str) -> bytes:
    address = ipaddress.ip_address(ip)
    return address.packed if address.version == 6 else MAPPED + address.packed


class Telling(Pair):
    """A listener of HTTP before one backend that is told who its clients are.

    Args:
        version: of the header.
        facts: what it tells.
        takes: whether clients begin with a header themselves.
        tls: whether clients speak TLS, with a certificate of `authority` if there is one.
    """

    def __init__(
        self, version: int = 2, facts: tuple[str, ...] = (), *, takes: bool = False, tls: bool = False, authority: bytes = b"", **pool: Any
    ) -> None:
        self.version, self.facts, self.takes, self.tls, self.authority = version, facts, takes, tls, authority
        self.to_tls = False
        super().__init__(n=1, **pool)

    def load(self, **pool: Any) -> None:
        self.generation += 1
        self.pool |= pool
        writer = Writer(self.generation)
        listener = writer.listener()
        if self.takes:
            network = ipaddress.ip_network("127.0.0.0/8")
            writer.set_proxy_protocol(listener, senders=[network], from_unix=True, others_plain=False, timeout_ms=60_000)
        if self.tls:
            writer.add_certificate(*issue("a.example"))
            clients = {"client_auth": "optional", "client_ca": self.authority} if self.authority else {}
            writer.set_tls(listener, identities=[[0]], names=[("a.example", 0)], default=0, **clients)
            writer.set_ticket_keys([TICKET_KEY])
        number = writer.pool(**self.pool)
        if self.version:
            writer.set_proxy_header(number, version=self.version, facts=self.facts)
        if self.to_tls:
            writer.set_backend_tls(number, verify=False)
        writer.backend(number, self.backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), self.front)

    def read_header(self, peer: socket.socket) -> tuple[Any, bytes]:
        """What a backend is told, and what has come behind that."""
        data = self.read(peer)
        while isinstance(told := read_proxy_header(data), int):
            data += self.read(peer)
        assert isinstance(told, dict), (told, data)
        return told, data[told["size"] :]

    def told(self, data: bytes = REQUEST, client: socket.socket | None = None) -> dict[str, Any]:
        """What the backend is told of a client that sends this, which is answered."""
        client = client or self.client()
        client.send(data)
        peer = self.accept()
        told, rest = self.read_header(peer)
        while b"\r\n\r\n" not in rest:
            rest += self.read(peer)
        assert rest.startswith(b"GET / HTTP/1.1\r\n")
        peer.send(OK)
        assert self.read_until(client, b"ok")
        assert self.read(peer) == b"", "a connection with a header is for one request"
        return told


@pytest.mark.parametrize("version", [1, 2])
def test_backend_is_told_who_the_client_is_and_whom_it_wanted(version: int) -> None:
    with Telling(version) as world:
        client = world.client()
        told = world.told(client=client)
        assert told["client"] == "internet"
        assert told["source"] == (packed("127.0.0.1"), client.getsockname()[1])
        assert told["destination"] == (packed("127.0.0.1"), world.front.getsockname()[1])
        assert world.counts("backend_connections_opened", "backend_reused") == (1, 0)


def test_header_and_request_leave_in_one_segment() -> None:
    with Telling() as world:
        client = world.client()
        client.send(REQUEST)
        peer = world.accept()
        data = world.read(peer)
        assert data.endswith(b"\r\n\r\n") and read_proxy_header(data)["size"] == 28
        peer.send(OK)
        world.read_until(client, b"ok")


def test_every_request_has_a_connection_of_its_own() -> None:
    with Telling() as world:
        client = world.client()
        for _ in range(3):
            assert world.told(client=client)["source"][1] == client.getsockname()[1]
        assert world.counts("backend_connections_opened", "backend_reused") == (3, 0)


@pytest.mark.parametrize(
    ("header", "source", "destination"),
    [
        (line(), ("192.0.2.7", 40000), ("203.0.113.9", 443)),
        (binary(("2001:db8::7", 1), ("2001:db8::9", 2)), ("2001:db8::7", 1), ("2001:db8::9", 2)),
        (line(("::ffff:192.0.2.7", 1), ("2001:db8::9", 2)), ("192.0.2.7", 1), ("2001:db8::9", 2)),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_what_we_were_told_we_tell(version: int, header: bytes, source: tuple[str, int], destination: tuple[str, int]) -> None:
    with Telling(version, takes=True) as world:
        told = world.told(header + REQUEST)
        assert told["source"] == (packed(source[0]), source[1])
        assert told["destination"] == (packed(destination[0]), destination[1])


def test_facts_are_passed_on_where_the_pool_tells_them() -> None:
    inner = (tlv(0x21, b"TLSv1.3"), tlv(0x22, b"alice"), tlv(0x23, b"TLS_AES_128_GCM_SHA256"))
    header = binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(AUTHORITY, b"shop.example"), tlv(UNIQUE_ID, b"id-1"), tls(3, 20, *inner))
    with Telling(facts=ALL, takes=True) as world:
        told = world.told(header + REQUEST)
        texts = {"tls_version": b"TLSv1.3", "tls_cipher": b"TLS_AES_128_GCM_SHA256", "name": b"alice"}
        texts |= {"alpn": b"http/1.1", "authority": b"shop.example", "unique_id": b"id-1"}
        assert {name: told[name] for name in texts} == texts
        assert told["verify"] == 20
        world.facts = ()
        world.load()
        assert not world.told(header + REQUEST).keys() & {*texts, "verify"}


def test_unique_id_is_that_of_the_request_where_nobody_gave_one() -> None:
    with Telling(facts=("unique_id",)) as world:
        client = world.request(REQUEST)
        peer = world.accept()
        told, rest = world.read_header(peer)
        assert b"X-Request-Id: " + told["unique_id"] + b"\r\n" in rest
        peer.send(OK)
        world.read_until(client, b"ok")


def test_facts_that_are_too_long_are_left_out_and_addresses_are_not() -> None:
    long = tlv(AUTHORITY, bytes(2000)), tlv(1, b"x"), tls(1, 0, tlv(0x23, bytes(2000)))
    with Telling(facts=("authority", "tls", "crc32c"), takes=True) as world:
        told = world.told(binary(("192.0.2.7", 1), ("203.0.113.9", 2), *long) + REQUEST)
        assert told["source"] == (packed("192.0.2.7"), 1)
        assert {"authority", "tls_cipher"} <= told.keys() or not {"authority", "tls_cipher"} & told.keys()


def test_tls_of_the_client_is_told() -> None:
    authority = Authority()
    with Telling(facts=ALL, tls=True, authority=authority.pem) as world:
        for name, certificate in ((b"ann.example", authority.issue("ann.example")), (None, None)):
            context = client_context()
            if certificate:
                load_chain(context, certificate)
            client = TlsClient(world, world.client(), context, "a.example").shake()
            client.send(REQUEST)
            peer = world.accept()
            told, _ = world.read_header(peer)
            assert (told["tls_version"], told["authority"]) == (b"TLSv1.3", b"a.example")
            assert told.get("name") == name and told["verify"] == (0 if name else None)
            peer.send(OK)
            client.receive_until(b"ok")


@pytest.mark.parametrize("version", [1, 2])
def test_client_of_a_unix_socket_is_not_known(version: int, tmp_path: Any) -> None:
    with Telling(version, facts=ALL if version == 2 else ()) as world:
        listening = world.stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.setblocking(False)
        world.front = listening
        world.load()
        client = world.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(listening.getsockname())
        client.setblocking(False)
        assert world.told(client=client)["client"] == "nobody"


def test_header_comes_before_tls_to_the_backend() -> None:
    with Telling() as world:
        world.to_tls = True
        world.load()
        client = world.request(REQUEST)
        sock = world.accept()
        told, rest = world.read_header(sock)
        assert told["source"][1] == client.getsockname()[1]
        context = load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), issue("a.example"))
        backend = TlsClient(world, sock, context, server_side=True)
        backend.incoming.write(rest)
        backend.shake()
        assert backend.receive_until(b"\r\n\r\n").startswith(b"GET / ")
        backend.send(OK)
        assert world.read_until(client, b"ok")


def test_streams_of_http2_tell_of_their_client() -> None:
    with Telling(facts=("alpn",)) as world:
        client = http2.Client(world, world.front)
        for _ in range(2):
            number = client.request()
            peer = world.accept()
            told, _ = world.read_header(peer)
            assert told["source"] == (packed("127.0.0.1"), client.socket.getsockname()[1])
            assert told["destination"][1] == world.front.getsockname()[1]
            assert told["alpn"] == b"http/1.1"
            peer.send(OK)
            assert client.wait(number).body == b"ok"


def test_backend_of_a_unix_socket_gets_a_header() -> None:
    class Unix(Telling):
        def load(self, **_: Any) -> None:
            self.backend = self.listen_unix()
            self.generation += 1
            writer = Writer(self.generation)
            writer.listener()
            number = writer.pool()
            writer.set_proxy_header(number, version=2)
            path = self.backend.getsockname()
            from fastlb import _core

            writer.add_backend(number, identity=path, display=path, address=_core.pack_unix(path), weight=1, max_in_flight=0)
            writer.add_route(host="", path_prefix="/", pool=number)
            self.apply_image(writer.image(), self.front)

    with Unix() as world:
        assert world.told()["source"][0] == packed("127.0.0.1")


def test_connection_that_is_refused_is_a_failure_to_connect() -> None:
    with Telling() as world:
        world.backend.close()
        client = world.request(REQUEST)
        assert world.read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        assert world.counts("reason.backend:connect_refused") == (1,)


def test_connection_with_a_header_is_not_kept_when_a_reload_wants_none() -> None:
    with Telling() as world:
        client = world.request(REQUEST)
        peer = world.accept()
        world.read_header(peer)
        world.version = 0
        world.load()
        peer.send(OK)
        assert world.read_until(client, b"ok")
        assert world.read(peer) == b""


def test_connection_without_a_header_is_not_used_when_a_reload_wants_one() -> None:
    with Telling(0) as world:
        client = world.request(REQUEST)
        idle = world.accept()
        world.read_until(idle, b"\r\n\r\n")
        idle.send(OK)
        world.read_until(client, b"ok")
        world.version = 2
        world.load()
        assert world.told(client=client)["client"] == "internet"
        assert world.read(idle) == b""


def test_mirrors_tell_of_the_client_and_may_outlive_it() -> None:
    class Mirrored(Telling):
        def load(self, **_: Any) -> None:
            self.generation += 1
            writer = Writer(self.generation)
            network = ipaddress.ip_network("127.0.0.0/8")
            writer.set_proxy_protocol(writer.listener(), senders=[network], from_unix=False, others_plain=False, timeout_ms=60_000)
            main, shadow = writer.pool("main"), writer.pool("shadow")
            self.shadow = self.listen()
            writer.backend(main, self.backend.getsockname()[1])
            writer.backend(shadow, self.shadow.getsockname()[1])
            writer.set_proxy_header(shadow, version=2, facts=("unique_id",))
            writer.set_mirror(writer.add_route(host="", path_prefix="/", pool=main), pool=shadow, share=1.0)
            self.apply_image(writer.image(), self.front)

    with Mirrored() as world:
        client = world.request(binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(UNIQUE_ID, b"id-1")) + REQUEST)
        peer = world.accept()
        world.read_until(peer, b"\r\n\r\n")
        peer.send(OK)
        world.read_until(client, b"ok")
        client.close()
        world.pump_until(lambda: world.counts("clients_closed") == (1,))
        world.backend = world.shadow
        mirrored = world.accept()
        told, _ = world.read_header(mirrored)
        assert (told["source"], told["destination"]) == ((packed("192.0.2.7"), 1), (packed("203.0.113.9"), 2))
        assert told["unique_id"] == b"id-1"
        mirrored.send(OK)


class ToldSessions(Sessions):
    """TCP sessions whose backend is told who the client is."""

    def start(self, **_: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        listener = writer.listener(http2_streams=0)
        number = writer.pool()
        writer.set_proxy_header(number, version=2)
        writer.backend(number, self.backend.getsockname()[1])
        writer.set_session(listener, writer.add_route(pool=number), timeout_ms=0)
        self.apply_image(writer.image(), self.listening)


def test_backend_of_a_session_is_told_before_anybody_speaks() -> None:
    with ToldSessions() as world:
        world.start()
        client = world.dial()
        peer = world.accept()
        told = read_proxy_header(world.read(peer))
        assert told["source"] == (packed("127.0.0.1"), client.getsockname()[1])
        peer.send(b"220 ready")
        assert world.read(client) == b"220 ready"
        client.send(b"EHLO")
        assert world.read(peer) == b"EHLO"


def test_name_in_a_hello_that_is_passed_on_is_told() -> None:
    hello = records(message([server_name(b"Shop.Example")]))

    class Passing(ToldSessions):
        def start(self, **_: Any) -> None:
            self.generation += 1
            writer = Writer(self.generation)
            listener = writer.listener(http2_streams=0)
            number = writer.pool()
            writer.set_proxy_header(number, version=2, facts=("authority",))
            writer.backend(number, self.backend.getsockname()[1])
            route = writer.add_route(pool=number)
            writer.set_session(listener, None)
            writer.set_sni(listener, [], [([], route)])
            self.apply_image(writer.image(), self.listening)

    with Passing() as world:
        world.start()
        client = world.dial()
        client.send(hello)
        data = world.read_all(world.accept(), 28 + 15 + len(hello))
        told = read_proxy_header(data)
        assert told["authority"] == b"shop.example"
        assert data[told["size"] :] == hello


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (b"CN=ann", b"ann"),
        (b"CN=ann,O=x", b"ann"),
        (b"O=x,CN=ann", b"ann"),
        (b"O=x+CN=ann,C=y", b"ann"),
        (b"O=a\\,CN=eve,CN=ann", b"ann"),
        (b'CN=a\\, b\\+c\\"d\\\\e', b'a, b+c"d\\e'),
        (b"CN=\\C3\\84rger", b"\xc3\x84rger"),
        (b"CN=a\\", b"a\\"),
        (b"CN=a\\4", b"a4"),
        (b"O=CN=x", b""),
        (b"DCN=x", b""),
        (b"CN=", b""),
        (b"", b""),
        (b"CN=" + b"x" * 300, b"x" * 256),
    ],
)
def test_common_name_is_found_in_a_subject(subject: bytes, name: bytes) -> None:
    assert find_common_name(subject) == name


# ---------------------------------------------------------------------------------------------------- what is written
ENDS = [
    (("192.0.2.7", 1), ("203.0.113.9", 65535)),
    (("2001:db8::7", 0), ("2001:db8::9", 443)),
    (("192.0.2.7", 1), ("2001:db8::9", 2)),
    (("2001:db8::7", 1), ("203.0.113.9", 2)),
]
TEXTS = {"alpn": b"h2", "authority": b"a.example", "unique_id": b"id", "tls_version": b"TLSv1.3", "tls_cipher": b"c", "name": b"ann"}


@pytest.mark.parametrize(("source", "destination"), ENDS)
@pytest.mark.parametrize("check", [False, True])
def test_binary_header_is_read_as_it_was_written(source: tuple[str, int], destination: tuple[str, int], check: bool) -> None:
    said = {"source": (packed(source[0]), source[1]), "destination": (packed(destination[0]), destination[1]), "verify": 7, **TEXTS}
    data = write_proxy_header(2, check=check, **said)
    assert read_proxy_header(data) == {"size": len(data), "client": "internet", **said}
    if check:
        assert read_proxy_header(data[:-1] + bytes([data[-1] ^ 1])) == "malformed"


@pytest.mark.parametrize(("source", "destination"), ENDS)
def test_line_is_read_as_it_was_written(source: tuple[str, int], destination: tuple[str, int]) -> None:
    said = {"source": (packed(source[0]), source[1]), "destination": (packed(destination[0]), destination[1])}
    data = write_proxy_header(1, **said)
    assert read_proxy_header(data) == {"size": len(data), "client": "internet", **said}


def test_what_does_not_fit_is_not_written() -> None:
    said: dict[str, Any] = {"source": (packed("::1"), 1), "destination": (packed("::2"), 2), "verify": 7, **TEXTS}
    for version in (1, 2):
        whole = write_proxy_header(version, check=version == 2, **said)
        for room in range(len(whole)):
            assert write_proxy_header(version, room=room, check=version == 2, **said) == b"", room


# ---------------------------------------------------------------------------------------------------- the image
@pytest.mark.parametrize("flags", [3, 0x82, 5, 4, 0x41])
def test_image_with_a_header_that_there_is_not_is_refused(flags: int) -> None:
    writer = Writer()
    number = writer.pool()
    writer.set_proxy_header(number, version=2, facts=ALL)
    writer.add_route(pool=number)
    image = writer.image()
    load(image)
    offset, _ = find_sections(image)["pools"]
    at = image.index((0x7E).to_bytes(4, "little"), offset)
    with pytest.raises(ValueError, match="damaged"):
        load(patch(image, at, flags))


def test_image_with_a_header_and_idle_connections_is_refused() -> None:
    writer = Writer()
    number = writer.pool(max_idle=31_337)
    writer.add_route(pool=number)
    image = writer.image()
    offset, _ = find_sections(image)["pools"]
    idle = image.index((31_337).to_bytes(4, "little"), offset)
    other = Writer()
    number = other.pool(max_idle=31_337)
    other.set_proxy_header(number, version=1)
    other.add_route(pool=number)
    image = other.image()
    load(image)
    with pytest.raises(ValueError, match="damaged"):
        load(patch(image, idle, 1))
