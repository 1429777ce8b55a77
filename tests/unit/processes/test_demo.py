"""The backends of the demo: what they answer, and that they never outlive their parent."""

import os
import signal
import socket
import time

import h11

from fastlb.processes.demo import DemoBackend, run_demo_backends


def ask(backend: DemoBackend, request: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one answer."""
    host, _, port = backend.address.rpartition(":")
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=request.split(b" ", 1)[0].decode(), target="/", headers=[("Host", "x")]))
    status, headers, body = 0, {}, b""
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(65536))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return status, headers, body.decode()


def test_each_backend_answers_with_its_name_and_what_it_received() -> None:
    with run_demo_backends() as backends:
        assert [backend.name for backend in backends] == ["b1", "b2", "b3"]
        for backend in backends:
            status, headers, body = ask(backend, b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
            assert status == 200
            assert headers["x-demo-backend"] == backend.name
            assert body == (
                f"demo backend {backend.name} (pid {backend.pid}) received:\n\nGET /a?b=c HTTP/1.1\nHost: x\nX-Forwarded-For: 10.0.0.1\n"
            )


def test_bodies_are_counted_and_head_has_none() -> None:
    with run_demo_backends(1) as (backend,):
        _, _, body = ask(backend, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert body.endswith("and a body of 3 bytes\n")
        status, headers, body = ask(backend, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body) == (200, "")
        assert int(headers["content-length"]) > 0


def test_a_pipelining_client_gets_every_answer_and_a_broken_one_is_hung_up_on() -> None:
    with run_demo_backends(1) as (backend,):
        host, _, port = backend.address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.count(b"HTTP/1.1 200 OK") == 2
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(b"\0\0\r\n\r\n")
            assert connection.recv(65536) == b""


def test_they_end_with_the_block_even_if_one_was_killed() -> None:
    with run_demo_backends() as backends:
        os.kill(backends[1].pid, signal.SIGKILL)
    for backend in backends:
        assert not os.path.exists(f"/proc/{backend.pid}")  # noqa: PTH110


def test_they_end_when_their_parent_is_killed() -> None:
    told, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        with run_demo_backends() as backends:
            os.write(tell, " ".join(str(backend.pid) for backend in backends).encode())
            time.sleep(60)
        os._exit(0)
    pids = os.read(told, 100).decode().split()
    os.close(told)
    os.close(tell)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    running = pids
    while running and time.monotonic() < deadline:
        time.sleep(0.02)
        running = [pid for pid in pids if is_running(pid)]
    assert running == []


def is_running(pid: str) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
