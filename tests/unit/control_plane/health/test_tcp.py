"""fastlb/control_plane/health/tcp.py on uvloop, with real sockets."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from asyncio import AbstractEventLoop
from dataclasses import replace
from pathlib import Path

import pytest

from fastlb.control_plane.health.result import Outcome, Result
from fastlb.control_plane.health.tcp import Place, TcpProbe, Tls
from tests.support.certificates import make_certificates
from tests.support.descriptors import descriptors
from tests.support.probing import Backend, full_place, result_of, run, silent, unused_place
from tests.support.proxy_header import local

PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN


async def probe(loop: AbstractEventLoop, place: Place, timeout_ms: int = 10_000, tls: Tls | None = None) -> Result:
    before = descriptors()
    result = await result_of(lambda done: TcpProbe(loop, place, timeout_ms, tls, done))
    while descriptors() > before:  # the backend's end of it, which sees the end
        await asyncio.sleep(0)
    return result


def test_a_connection_passes_and_is_reset() -> None:
    ends: list[BaseException | bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ends.append(await reader.read())
        except ConnectionResetError as error:
            ends.append(error)

    async def test(loop: AbstractEventLoop) -> None:
        async with Backend(serve) as backend:
            result = await probe(loop, backend.place)
            assert (result.outcome, result.text) == (PASSED, "connected")
            assert result.latency_us > 0
            while not ends:
                await asyncio.sleep(0)
            assert isinstance(ends[0], ConnectionResetError)

    run(test)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_header_comes_before_everything_else(encrypted: bool) -> None:
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readexactly(16))
        with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
            came.append(await reader.readexactly(1))
        writer.close()

    async def test(loop: AbstractEventLoop) -> Result:
        async with Backend(serve) as backend:
            place = replace(backend.place, header=local())
            result = await probe(loop, place, tls=Tls(client(), "a.example") if encrypted else None)
            while not came:
                await asyncio.sleep(0)
            return result

    result = run(test)
    assert result.outcome is (FAILED if encrypted else PASSED)
    assert came == ([local(), b"\x16"] if encrypted else [local()]), "a ClientHello follows"


def test_a_probe_comes_from_the_address_that_is_said_and_says_nothing_of_the_backend_where_that_is_not_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = Place(socket.AF_INET, listening.getsockname())
        for source, expected in (("127.0.0.9", "127.0.0.9"), ("::1", "127.0.0.1")):  # the latter is of no use for this family
            wanted = replace(place, source=source)
            assert run(lambda loop, wanted=wanted: probe(loop, wanted)).outcome is PASSED  # type: ignore[misc]
            assert listening.accept()[1][0] == expected
        assert run(lambda loop: probe(loop, replace(place, source="192.0.2.1"))).outcome is Outcome.UNKNOWN


def test_a_port_that_nobody_listens_at_fails() -> None:
    result = run(lambda loop: probe(loop, unused_place()))
    assert (result.outcome, result.text) == (FAILED, "connection refused")


def test_a_backend_that_does_not_take_the_connection_fails_at_the_time_out() -> None:
    listening, fill, place = full_place()
    result = run(lambda loop: probe(loop, place, 50))
    assert (result.outcome, result.text) == (FAILED, "timed out after 50ms connecting")
    for one in (listening, *fill):
        one.close()


def test_unix_sockets_pass_are_missing_and_are_full(tmp_path: Path) -> None:
    path = tmp_path / "s"
    place = Place(socket.AF_UNIX, str(path))
    assert run(lambda loop: probe(loop, place)).text == "no such file or directory"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert run(lambda loop: probe(loop, place)).text == "connection refused"
        listening.listen(0)
        assert run(lambda loop: probe(loop, place)).outcome is PASSED
        fill = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(str(path))
        result = run(lambda loop: probe(loop, place))
        assert (result.outcome, result.text) == (FAILED, "its accept queue is full")
        for one in fill:
            one.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_socket_that_this_machine_cannot_make_says_nothing_of_the_backend(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    async def test(loop: AbstractEventLoop) -> Result:
        monkeypatch.setattr(socket, "socket", fail)
        try:
            return await probe(loop, Place(socket.AF_INET, ("127.0.0.1", 1)))
        finally:
            monkeypatch.undo()

    result = run(test)
    assert (result.outcome, result.text) == (UNKNOWN, os.strerror(number).lower())


def test_a_cancelled_probe_gives_no_result_and_holds_nothing() -> None:
    async def test(loop: AbstractEventLoop) -> None:
        async with Backend(silent) as backend:
            before = descriptors()

            def fail(result: Result) -> None:
                pytest.fail(str(result))

            for turns in range(4):
                one = TcpProbe(loop, backend.place, 20, None, fail)
                if turns:
                    one.start()
                if turns == 1:
                    await asyncio.sleep(0)
                one.cancel()
                one.cancel()
            refused = TcpProbe(loop, Place(socket.AF_UNIX, "/nowhere"), 20, None, fail)
            refused.start()
            refused.cancel()
            await asyncio.sleep(0.05)  # past the time-outs, which are off
            assert descriptors() <= before + 1  # the server's side of one that was connected

    run(test)


def client(authority: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def test_tls_passes_where_the_certificate_is_the_right_one(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "shop.example.com", "127.0.0.1")

    async def test(loop: AbstractEventLoop) -> None:
        async with Backend(silent, certificates.server_context()) as backend:
            for name in ("shop.example.com", "127.0.0.1"):
                result = await probe(loop, backend.place, tls=Tls(client(certificates.authority), name))
                assert (result.outcome, result.text) == (PASSED, "TLS established")

    run(test)


def test_tls_fails_with_another_name_another_authority_and_after_its_end(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    certificates = make_certificates(tmp_path, "shop.example.com")
    expired = make_certificates(tmp_path / "old", "shop.example.com", days=-1)

    async def test(loop: AbstractEventLoop) -> None:
        async with Backend(silent, certificates.server_context()) as backend, Backend(silent, expired.server_context()) as old:
            trusting = client(certificates.authority)
            result = await probe(loop, backend.place, tls=Tls(trusting, "other.example.com"))
            assert result.outcome is FAILED
            assert "its certificate is not accepted: Hostname mismatch" in result.text
            result = await probe(loop, backend.place, tls=Tls(ssl.create_default_context(), "shop.example.com"))
            assert "its certificate is not accepted: unable to get local issuer certificate" in result.text
            result = await probe(loop, old.place, tls=Tls(client(expired.authority), "shop.example.com"))
            assert result.text == "its certificate is not accepted: certificate has expired"
            for place in (backend.place, old.place):
                assert (await probe(loop, place, tls=Tls(client(), ""))).outcome is PASSED

    run(test)


def test_what_is_no_tls_fails() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def test(loop: AbstractEventLoop) -> None:
        async with Backend(garbage) as one, Backend(closing) as two, Backend(silent) as three:
            result = await probe(loop, one.place, tls=Tls(client(), ""))
            assert (result.outcome, result.text.startswith("no TLS: ")) == (FAILED, True)
            result = await probe(loop, two.place, tls=Tls(client(), ""))
            assert result.outcome is FAILED
            assert "in the TLS handshake" in result.text
            result = await probe(loop, three.place, 500, Tls(client(), ""))
            assert result.text == "timed out after 500ms in the TLS handshake"

    run(test)
