"""The keeper of OCSP responses, on a clock of the test's own and with a responder that answers what the test says."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from fastlb.control_plane.tls import stapling as stapling_module
from fastlb.control_plane.tls.fetch import FetchError
from fastlb.control_plane.tls.stapling import Stapling, Wish
from fastlb.control_plane.tls.state_files import StateFiles
from tests.support.ocsp_authority import Authority, Issued, Responder

START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("shop.example.com", responder="http://ocsp.example.com/")


class Scene:
    """A keeper, its clock, its responder, its disk.

    Args:
        answers: what the responder says next; the last one again and again. An exception is raised.
    """

    def __init__(self, authority: Authority, issued: Issued, directory: Path) -> None:
        self.now = START
        self.authority = authority
        self.issued = issued
        self.answers: list[bytes | Exception] = []
        self.asked: list[tuple[str, datetime.datetime]] = []
        self.lines: list[str] = []
        self.changes = 0
        self.files = StateFiles(directory)
        self.wish = Wish("shop.pem", issued.chain)

    def open(self, loop: asyncio.AbstractEventLoop) -> Stapling:
        keeper = Stapling(loop, self._changed, self.lines.append, self._ask, lambda: self.now)
        keeper.use(self.files)
        return keeper

    def _changed(self) -> None:
        self.changes += 1

    async def _ask(self, url: str, **_: Any) -> bytes:
        self.asked.append((url, self.now))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def response(self, *, hours: float = 10, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD) -> bytes:
        """What holds from now on."""
        revoked = self.now if status is ocsp.OCSPCertStatus.REVOKED else None
        builder = ocsp.OCSPResponseBuilder().add_response(
            self.issued.certificate,
            self.authority.certificate,
            hashes.SHA1(),
            status,
            self.now,
            self.now + hours * HOUR,
            revoked,
            None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, self.authority.certificate)
        return builder.sign(self.authority.key, hashes.SHA256()).public_bytes(Encoding.DER)

    async def go(self, until: datetime.datetime) -> None:
        """Lets time pass, a minute at a time, and everybody do what is due."""
        while self.now < until:
            self.now += datetime.timedelta(minutes=1)
            await settle()


async def settle() -> None:
    """Until everything that is due is done: nothing of it waits for anything but the clock."""
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.fixture
def scene(authority: Authority, issued: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene(authority, issued, tmp_path)

    async def sleep_on_the_clock(seconds: float, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        end = scene.now + datetime.timedelta(seconds=seconds)
        await sleep(0)
        while scene.now < end:
            await sleep(0)

    async def work_here(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    class Clock:
        """asyncio on a clock of the test's own, and without threads."""

        sleep = staticmethod(sleep_on_the_clock)
        to_thread = staticmethod(work_here)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr(stapling_module, "asyncio", Clock())
    monkeypatch.setattr(stapling_module.random, "uniform", lambda low, high: (low + high) / 2)
    return scene


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def test_a_response_is_fetched_and_renewed_half_way(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        first = scene.response()
        scene.answers = [first]
        keeper.follow([scene.wish])
        await settle()
        assert keeper.staples() == {scene.issued.chain: first}
        assert scene.changes == 1
        await scene.go(START + 5 * HOUR)
        assert len(scene.asked) == 1
        second = scene.response()
        scene.answers = [second]
        await scene.go(START + 6 * HOUR)
        assert keeper.staples() == {scene.issued.chain: second}
        assert (len(scene.asked), scene.changes) == (2, 2)
        assert scene.lines == []
        keeper.close()

    run(test)


def test_what_is_on_the_disk_is_used_at_once_if_it_holds(scene: Scene) -> None:
    async def test() -> None:
        first = scene.response()
        scene.answers = [first]
        keeper = scene.open(asyncio.get_running_loop())
        keeper.follow([scene.wish])
        await settle()
        keeper.close()
        (file,) = scene.files.list("ocsp")
        assert scene.files.read(f"ocsp/{file}") == first
        again = scene.open(asyncio.get_running_loop())
        assert await again.load([scene.wish]) == {scene.issued.chain: first}
        scene.now = START + 10 * HOUR
        assert await scene.open(asyncio.get_running_loop()).load([scene.wish]) == {}
        assert len(scene.asked) == 1

    run(test)


def test_a_file_that_somebody_has_changed_is_not_believed(scene: Scene) -> None:
    async def test() -> None:
        scene.files.write(f"ocsp/{stapling_module.make_subject(load(scene.issued.chain)).fingerprint}.der", b"\x30\x03\x0a\x01\x00")
        assert await scene.open(asyncio.get_running_loop()).load([scene.wish]) == {}

    run(test)


def test_a_responder_that_is_away_is_asked_ever_more_rarely_while_the_response_holds(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        first = scene.response(hours=100)
        scene.answers = [first, FetchError("nobody is there")]
        keeper.follow([scene.wish])
        await scene.go(START + 98 * HOUR)
        assert keeper.staples() == {scene.issued.chain: first}
        times = [at for _, at in scene.asked[1:]]
        gaps = [(later - earlier).total_seconds() / 60 for earlier, later in pairwise(times)]
        assert gaps[:6] == pytest.approx([1, 2, 4, 8, 16, 32], abs=2)
        assert set(gaps[8:]) <= {59, 60, 61, 62}
        assert len(scene.lines) == 1
        assert "no new OCSP response: nobody is there; the one at hand holds until" in scene.lines[0]
        (told,) = keeper.describe()
        assert (told["failures"], told["error"], told["stapled"]) == (len(times), "nobody is there", True)
        keeper.close()

    run(test)


def test_a_response_is_dropped_before_it_is_stale(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        scene.answers = [scene.response(), FetchError("nobody is there")]
        keeper.follow([scene.wish])
        await scene.go(START + 9 * HOUR - datetime.timedelta(minutes=1))
        assert keeper.staples() and scene.changes == 1
        await scene.go(START + 9 * HOUR + datetime.timedelta(minutes=1))
        assert keeper.staples() == {}
        assert scene.changes == 2  # which is what takes it out of the snapshot
        assert scene.files.list("ocsp") == []
        scene.answers = [scene.response()]
        await scene.go(scene.now + 2 * HOUR)
        assert keeper.staples() and scene.changes == 3
        assert scene.lines[-1] == "shop.pem: its OCSP response can be had again"
        keeper.close()

    run(test)


def test_a_revoked_certificate_is_said_and_not_stapled(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        scene.answers = [scene.response()]
        keeper.follow([scene.wish])
        await settle()
        scene.answers = [scene.response(status=ocsp.OCSPCertStatus.REVOKED)]
        await scene.go(START + 8 * HOUR)
        assert keeper.staples() == {}
        assert scene.changes == 2
        assert len(scene.lines) == 1 and "is REVOKED since" in scene.lines[0]
        assert keeper.describe()[0]["revoked"]
        keeper.close()

    run(test)


def test_an_answer_that_cannot_be_verified_replaces_nothing(scene: Scene, authority: Authority, tmp_path: Path) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        first = scene.response()
        stranger = Scene(Authority(tmp_path), scene.issued, tmp_path)
        stranger.now = START + HOUR
        scene.answers = [first, stranger.response()]
        keeper.follow([scene.wish])
        await scene.go(START + 8 * HOUR)
        assert keeper.staples() == {scene.issued.chain: first}
        assert "http://ocsp.example.com/ answered, but" in scene.lines[0]
        keeper.close()

    run(test)


def test_a_response_that_we_have_already_is_no_news(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        scene.answers = [scene.response()]
        keeper.follow([scene.wish])
        await scene.go(START + 7 * HOUR)
        assert scene.changes == 1
        assert 3 < len(scene.asked) < 12
        assert scene.lines == []
        keeper.close()

    run(test)


def test_what_a_reload_keeps_is_not_asked_for_again_and_what_goes_is_forgotten(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        scene.answers = [scene.response()]
        keeper.follow([scene.wish])
        await settle()
        keeper.follow([scene.wish])
        await settle()
        assert len(scene.asked) == 1 and keeper.staples()
        keeper.follow([])
        await scene.go(START + 8 * HOUR)
        assert len(scene.asked) == 1 and keeper.staples() == {} and keeper.describe() == []

    run(test)


def test_another_responder_may_be_named(scene: Scene) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        scene.answers = [scene.response()]
        keeper.follow([Wish("shop.pem", scene.issued.chain, responder="http://elsewhere.example.com")])
        await settle()
        assert [url.rpartition("/")[0] for url, _ in scene.asked] == ["http://elsewhere.example.com"]
        keeper.close()

    run(test)


def test_it_is_said_once_where_a_staple_is_needed_and_none_can_be_asked_for(scene: Scene, authority: Authority) -> None:
    async def test() -> None:
        keeper = scene.open(asyncio.get_running_loop())
        plain = authority.issue("shop.example.com")
        strict = authority.issue("shop.example.com", must_staple=True)
        alone = Issued(strict.certificate, strict.key, strict.certificate.public_bytes(Encoding.PEM))
        wishes = [Wish("plain.pem", plain.chain), Wish("asked.pem", plain.chain, is_explicit=True), Wish("alone.pem", alone.chain)]
        for _ in range(3):
            await keeper.load(wishes)
            keeper.follow(wishes)
        assert scene.lines == [
            "warning: asked.pem: no OCSP response can be stapled: it names no responder",
            "warning: alone.pem: no OCSP response can be stapled: the certificate of its issuer is not in the file; the certificate says "
            "that clients refuse it so (must-staple)",
        ]
        assert keeper.staples() == {}

    run(test)


def test_a_real_responder_over_real_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.write_index()
    responder = Responder(authority)

    async def test() -> None:
        issued = authority.issue("shop.example.com", responder=responder.url)
        lines: list[str] = []
        changed = asyncio.Event()
        keeper = Stapling(asyncio.get_running_loop(), changed.set, lines.append)
        keeper.use(StateFiles(tmp_path / "state"))
        keeper.follow([Wish("shop.pem", issued.chain)])
        await asyncio.wait_for(changed.wait(), 15)
        assert list(keeper.staples()) == [issued.chain]
        assert lines == []
        keeper.close()

    try:
        run(test)
    finally:
        responder.close()


def load(chain: bytes) -> Any:
    return x509.load_pem_x509_certificates(chain)
