"""How commands find a running fastlb, and what they say when they do not."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlb.cli import main
from fastlb.cli.client import Client, NotReached, Refused, find
from fastlb.cli.table import format_age, format_table
from fastlb.control_plane.config.address import BindAddress

Answering = Callable[[bytes], str]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    """Listens on a unix socket and gives one caller this answer; returns the socket's path."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listening: socket.socket, answer: bytes) -> None:
        with listening.accept()[0] as caller:
            caller.recv(65536)
            caller.sendall(answer)

    def start(answer: bytes) -> str:
        listening = socket.socket(socket.AF_UNIX)
        path = str(tmp_path / "lb.sock")
        listening.bind(path)
        listening.listen()
        opened.append(listening)
        threads.append(threading.Thread(target=serve, args=(listening, answer)))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
    for listening in opened:
        listening.close()


def client(path: str) -> Client:
    return Client([BindAddress("", 0, path)])


def answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_an_answer_is_what_its_json_holds(answering: Answering) -> None:
    assert client(answering(answer("200 OK", b'{"a": [1]}'))).get("/v1/x") == {"a": [1]}


def test_an_error_has_the_texts_of_the_answer(answering: Answering) -> None:
    with pytest.raises(Refused) as caught:
        client(answering(answer("422 x", b'{"errors": ["one", "two"]}'))).get("/v1/x")
    assert (caught.value.status, str(caught.value)) == (422, "one\ntwo")


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", answer("200 OK", b"<html>"), answer("200 OK", b"\xff"), b""])
def test_what_is_no_fastlb_is_told(answering: Answering, raw: bytes) -> None:
    with pytest.raises(NotReached):
        client(answering(raw)).get("/v1/x")


def test_without_anybody_it_says_where_it_looked_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("fastlb.processes.admin_socket.SYSTEM_DIRECTORY", tmp_path / "system")
    result = CliRunner().invoke(main, ["status"], prog_name="fastlb")
    assert result.exit_code == 3
    assert result.stderr == (
        f"fastlb: no fastlb was found at unix:{tmp_path}/fastlb.sock and unix:{tmp_path}/system/fastlb.sock; is it running? "
        "--admin ADDRESS or -c FILE say where else\n"
    )


def test_a_socket_that_a_dead_one_left_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "lb.sock"))
    with pytest.raises(NotReached, match=r"nothing answers at unix:.*: that fastlb has ended"):
        client(str(tmp_path / "lb.sock")).get("/v1/x")


def test_the_system_s_fastlb_is_found_where_the_account_has_none(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "none"))
    monkeypatch.setattr("fastlb.processes.admin_socket.SYSTEM_DIRECTORY", tmp_path)
    monkeypatch.setattr("fastlb.processes.admin_socket.FILE_NAME", "lb.sock")
    answering(answer("200 OK", b"{}"))
    assert find("", None).get("/v1/x") == {}


def test_a_wrong_address_is_a_wrong_argument() -> None:
    result = CliRunner().invoke(main, ["status", "--admin", "/run/x"], prog_name="fastlb")
    assert result.exit_code == 2
    assert "did you mean unix:/run/x?" in result.stderr


def test_numbers_stand_to_the_right_and_texts_to_the_left() -> None:
    assert format_table(("NAME", "N", "X"), [("a", 1, "-"), ("longer", 100, "-")]) == ["NAME      N  X", "a         1  -", "longer  100  -"]
    assert format_table(("NAME",), []) == ["NAME"]


@pytest.mark.parametrize(("ms", "text"), [(0, "0s"), (59_999, "59s"), (60_000, "1m"), (7_200_000, "2h"), (200_000_000, "2d")])
def test_ages_are_in_their_largest_unit(ms: int, text: str) -> None:
    assert format_age(ms) == text
