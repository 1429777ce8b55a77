"""Certificates from a CA: Pebble, which refuses half of all good nonces here, and looks at challenges that this test answers."""

import asyncio
import http.server
import json
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from fastlb import FastlbError
from fastlb.control_plane.config.acme import HTTP_01, TLS_ALPN_01
from fastlb.control_plane.tls import acme as acme_module
from fastlb.control_plane.tls.account import Account
from fastlb.control_plane.tls.acme import Acme, Issued, Wanted, names_of, read_issued
from fastlb.control_plane.tls.challenge import WELL_KNOWN, Challenge
from fastlb.control_plane.tls.self_signed import make_key, make_placeholder, write_key
from fastlb.control_plane.tls.state_files import StateFiles
from tests.support.pebble import Pebble

NAMES = ["shop.example.com", "www.example.com"]
DAY = 86400.0


class Front:
    """What a load balancer is to the CA: answers the challenges that it was told, over HTTP and over TLS."""

    def __init__(self) -> None:
        self.challenges: tuple[Challenge, ...] = ()
        self.asked: list[str] = []
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                front.asked.append(self.path)
                host = self.headers["Host"].partition(":")[0]
                answers = [one.answer for one in front.challenges if (one.domain, WELL_KNOWN + one.token) == (host, self.path)]
                self.send_response(200 if answers else 404)
                self.end_headers()
                self.wfile.write("".join(answers).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.tls = socket.create_server(("127.0.0.1", 0))
        for work in (self.http.serve_forever, self._serve_tls):
            threading.Thread(target=work, daemon=True).start()

    @property
    def tls_port(self) -> int:
        return int(self.tls.getsockname()[1])

    def _serve_tls(self) -> None:
        while True:
            try:
                connection, _ = self.tls.accept()
            except OSError:
                return
            threading.Thread(target=self._shake_hands, args=(connection,), daemon=True).start()

    def _shake_hands(self, connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["acme-tls/1"])
        context.sni_callback = lambda wrapped, name, _: setattr(wrapped, "context", self._context_for(name))
        try:
            with connection, context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            pass

    def _context_for(self, name: str) -> ssl.SSLContext:
        (challenge,) = [one for one in self.challenges if one.domain == name]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["acme-tls/1"])
        descriptor = os.memfd_create("pem")  # the module reads nothing but files
        os.write(descriptor, challenge.chain + challenge.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        return context

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.tls.shutdown(socket.SHUT_RDWR)
        self.tls.close()


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    front = Front()
    yield front
    front.close()


@pytest.fixture(scope="module")
def pebble(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    pebble = Pebble(
        tmp_path_factory.mktemp("pebble"),
        NAMES,
        http_port=front.http.server_port,
        tls_port=front.tls_port,
        bad_nonces=50,
        external_accounts={"our-account": "c2VjcmV0LW9mLW91cnMtd2hpY2gtaXMtbG9uZy1lbm91Z2g"},
    )
    yield pebble
    pebble.close()


class Scene:
    """A keeper of certificates, its disk, its clock, and what it publishes.

    Args:
        offset: of its clock to that of everybody else.
    """

    def __init__(self, front: Front, directory: Path) -> None:
        self.front = front
        self.files = StateFiles(directory)
        self.lines: list[str] = []
        self.published: list[tuple[Challenge, ...]] = []
        self.offset = 0.0
        self.refuse: FastlbError | None = None
        self.acme: Acme

    def open(self) -> Acme:
        self.acme = Acme(asyncio.get_running_loop(), self._publish, self.lines.append, self.now)
        self.acme.use(self.files)
        return self.acme

    def now(self) -> float:
        return acme_module.time.time() + self.offset

    async def _publish(self) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.front.challenges = self.acme.challenges()
        self.published.append(self.front.challenges)

    async def follow(self, wanted: Wanted) -> Issued:
        """What is served at once."""
        issued = await self.acme.load([wanted])
        self.acme.follow(issued)
        return issued[wanted]

    async def lines_are(self, n: int) -> None:
        async with asyncio.timeout(60):
            while len(self.lines) < n:
                await asyncio.sleep(0.01)

    async def served(self, wanted: Wanted) -> Issued:
        return (await self.acme.load([wanted]))[wanted]


@pytest.fixture
def scene(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(acme_module, "LOOK_SECONDS", 0.02)
    front.challenges = ()
    front.asked.clear()
    return Scene(front, tmp_path / "state")


@pytest.fixture
def wanted(pebble: Pebble) -> Wanted:
    return want(pebble)


def want(pebble: Pebble, *domains: str, challenge: str = HTTP_01, key_type: str = "ecdsa-p256") -> Wanted:
    account = Account(pebble.directory, "ops@example.com", str(pebble.ca), "our-account", "c2VjcmV0LW9mLW91cnMtd2hpY2gtaXMtbG9uZy1lbm91Z2g")
    return Wanted(account, domains or tuple(NAMES), challenge, key_type)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 100))  # type: ignore[arg-type]


def test_a_certificate_is_ordered_kept_and_renewed(scene: Scene, wanted: Wanted, pebble: Pebble) -> None:
    async def test() -> None:
        scene.open()
        placeholder = await scene.follow(wanted)
        assert placeholder.is_placeholder
        assert names_of(placeholder.chain) == set(NAMES)
        await scene.lines_are(1)
        first = await scene.served(wanted)
        assert "ACME certificate for shop.example.com and 1 more: there is a new one, until" in scene.lines[0]
        assert names_of(first.chain) == set(NAMES)
        assert len(x509.load_pem_x509_certificates(first.chain)) == 2  # with the intermediate one
        assert [sorted(one.domain for one in challenges) for challenges in scene.published] == [NAMES, []]
        assert {path.rpartition("/")[0] + "/" for path in scene.front.asked} == {WELL_KNOWN}
        scene.acme.close()

        scene.open()  # the next start
        assert await scene.follow(wanted) == first
        life = first.not_after - first.not_before
        scene.offset = 2 / 3 * life - DAY
        await asyncio.sleep(0.1)
        assert len(scene.lines) == 1
        scene.offset = (2 / 3 + 1 / 30) * life + DAY
        await scene.lines_are(2)
        second = await scene.served(wanted)
        assert second.chain != first.chain and second.key != first.key
        scene.acme.close()
        for path in scene.files.directory.rglob("*"):  # type: ignore[union-attr]
            assert path.stat().st_mode & 0o077 == 0, path
        assert pebble.said("There are now 2 accounts") == 0  # the same one, also after the restart

    run(test)


def test_tls_alpn_01_and_an_rsa_key(scene: Scene, pebble: Pebble) -> None:
    wanted = want(pebble, "www.example.com", challenge=TLS_ALPN_01, key_type="rsa-2048")

    async def test() -> None:
        scene.open()
        await scene.follow(wanted)
        await scene.lines_are(1)
        found = await scene.served(wanted)
        assert "there is a new one" in scene.lines[0]
        assert x509.load_pem_x509_certificates(found.chain)[0].public_key().key_size == 2048  # type: ignore[union-attr]
        scene.acme.close()

    run(test)


def test_a_failure_says_what_the_ca_said_and_waits_also_after_a_restart(scene: Scene, wanted: Wanted, pebble: Pebble) -> None:
    async def test() -> None:
        scene.open()

        async def publish_nothing() -> None:
            scene.published.append(scene.acme.challenges())

        scene.acme._publish = publish_nothing
        await scene.follow(wanted)
        await scene.lines_are(1)
        (line,) = scene.lines
        assert line.startswith("warning: ACME certificate for shop.example.com and 1 more: ")
        assert "example.com: it says " in line and "(unauthorized): does the name lead to this machine" in line
        assert "a self-signed placeholder is served. It is tried again after " in line
        assert (await scene.served(wanted)).is_placeholder
        (told,) = scene.acme.describe()
        assert told["failures"] == 1 and 250 < told["next_try"] - scene.now() < 350
        scene.acme.close()

        scene.open()  # a crash loop is no way around it
        await scene.follow(wanted)
        while not (told := scene.acme.describe()[0])["next_try"]:
            await asyncio.sleep(0.01)
        assert len(scene.lines) == 1 and 200 < told["next_try"] - scene.now() < 350
        scene.offset = 400.0
        await scene.lines_are(2)
        assert "there is a new one" in scene.lines[1]
        assert scene.files.read(f"{wanted.file}.wait") == b""
        scene.acme.close()

    run(test)


def test_a_snapshot_that_cannot_be_put_in_force_means_that_the_ca_is_not_told(scene: Scene, wanted: Wanted, pebble: Pebble) -> None:
    async def test() -> None:
        scene.open()
        scene.refuse = FastlbError("a worker has refused it")
        before = pebble.said("POST /chalZ/")
        await scene.follow(wanted)
        await scene.lines_are(1)
        assert "a worker has refused it" in scene.lines[0]
        assert pebble.said("POST /chalZ/") == before
        assert scene.acme.challenges() == ()
        scene.acme.close()

    run(test)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"directory": "https://localhost:1/dir"}, "the CA cannot be asked: "),
        ({"ca": "/nowhere/ca.pem"}, "tls.acme.ca: /nowhere/ca.pem cannot be read by the account of the controller"),
        ({"ca": ""}, "is its certificate one that this system trusts? tls.acme.ca names a file of others"),
        ({"eab_key_id": "", "eab_hmac": ""}, "(externalAccountRequired): the CA wants eab_key_id and eab_hmac"),
        ({"eab_key_id": "somebody"}, "the CA gives no account: it says "),
        ({"directory": "/nonsense"}, "/nonsense the URL of an ACME directory?"),
    ],
)
def test_a_ca_that_does_not_take_us(scene: Scene, wanted: Wanted, pebble: Pebble, change: dict[str, str], said: str) -> None:
    if change.get("directory", "").startswith("/"):
        change = {"directory": pebble.directory.removesuffix("/dir") + change["directory"]}
    other = replace(wanted, account=replace(wanted.account, **change))

    async def test() -> None:
        scene.open()
        await scene.follow(other)
        await scene.lines_are(1)
        assert said in scene.lines[0]
        assert "\n" not in scene.lines[0]
        assert len(scene.lines[0]) < 1500
        scene.acme.close()

    run(test)


def test_an_account_that_the_ca_has_forgotten_is_made_anew(scene: Scene, wanted: Wanted) -> None:
    async def test() -> None:
        scene.files.write(
            f"{wanted.account.folder}/account.json",
            json.dumps({"uri": wanted.account.directory.replace("/dir", "/my-account/99")}).encode(),
        )
        scene.open()
        await scene.follow(wanted)
        await scene.lines_are(1)
        assert "(accountDoesNotExist)" in scene.lines[0]
        scene.offset = 400.0
        await scene.lines_are(2)
        assert "there is a new one" in scene.lines[1]
        scene.acme.close()

    run(test)


def test_nodes_that_share_their_state_order_once(scene: Scene, wanted: Wanted, pebble: Pebble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acme_module, "LOCKED_SECONDS", 0.02)

    async def test() -> None:
        lock = scene.files.lock(f"{wanted.account.folder}/lock")
        assert lock is not None
        scene.open()
        before = pebble.said("POST /order-plz")
        await scene.follow(wanted)
        await asyncio.sleep(0.2)
        assert pebble.said("POST /order-plz") == before
        key = make_key("ecdsa-p256")  # what the other one has got meanwhile
        chain = make_placeholder(key, NAMES)
        scene.files.write(f"{wanted.file}.pem", write_key(key) + chain)
        lock.close()
        await scene.lines_are(1)
        assert (await scene.served(wanted)).chain == chain
        assert pebble.said("POST /order-plz") == before
        scene.acme.close()

    run(test)


def test_several_certificates_of_one_account_are_ordered_one_after_the_other(scene: Scene, pebble: Pebble) -> None:
    orders = [want(pebble, name) for name in NAMES]

    async def test() -> None:
        scene.open()
        scene.acme.follow(await scene.acme.load(orders))
        await scene.lines_are(2)
        assert [names_of((await scene.served(one)).chain) for one in orders] == [{name} for name in NAMES]
        scene.acme.close()

    run(test)


def test_what_is_on_the_disk_is_used_only_if_it_belongs_together(scene: Scene, wanted: Wanted) -> None:
    key, other = make_key("ecdsa-p256"), make_key("ecdsa-p256")
    chain = make_placeholder(key, NAMES)
    assert read_issued(chain, write_key(key)).chain == chain

    async def test() -> None:
        for content in (b"", b"nonsense", write_key(other) + chain, chain, write_key(key), write_key(key) + chain[:-40]):
            scene.files.write(f"{wanted.file}.pem", content)
            scene.open()
            assert (await scene.served(wanted)).is_placeholder, content
            scene.acme.close()
        scene.files.write(f"{wanted.file}.pem", write_key(key) + chain)
        scene.open()
        assert (await scene.served(wanted)).chain == chain
        scene.acme.close()
        scene.offset = 365 * DAY
        scene.open()
        assert (await scene.served(wanted)).is_placeholder  # it has expired
        scene.acme.close()

    run(test)


def test_what_a_reload_does_not_want_any_more_is_not_ordered(scene: Scene, wanted: Wanted) -> None:
    async def test() -> None:
        scene.open()
        await scene.follow(wanted)
        scene.acme.follow({})
        await asyncio.sleep(0.05)
        assert scene.acme.describe() == [] and scene.acme.challenges() == ()
        scene.acme.close()

    run(test)
