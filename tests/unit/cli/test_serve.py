"""`fastlb serve`: what the command line becomes, and that it serves."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlb.cli import main
from fastlb.cli.arguments import Arguments
from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import read_config


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], prog_name="fastlb")


def test_arguments_become_one_listener_and_one_pool() -> None:
    arguments = Arguments([":8080", "unix:/x"], ["10.0.0.1:80", "10.0.0.2:80,weight=3,max_connections=10", "app.example:80"])
    config = read_config(arguments).config
    (listener,), (pool,), (route,) = config.listeners, config.pools, config.routes
    assert [str(address) for address in listener.bind] == [":8080", "unix:/x"]
    assert [(str(backend.address), backend.weight, backend.max_in_flight) for backend in pool.backends] == [
        ("10.0.0.1:80", 1, 0),
        ("10.0.0.2:80", 3, 10),
        ("app.example:80", 1, 0),
    ]
    assert (route.hosts, str(route.path), route.pool.names()) == (("",), "/", [pool.name])


def test_a_certificate_makes_it_https() -> None:
    (listener,) = read_config(Arguments([":8443"], ["10.0.0.1:80"], cert="a.pem", key="a.key")).config.listeners
    assert [files.pair for files in listener.tls.certificates] == [("a.pem", "a.key")]
    (listener,) = read_config(Arguments([":8443"], ["10.0.0.1:80"], cert="a.pem")).config.listeners
    assert [files.pair for files in listener.tls.certificates] == [("a.pem", "a.pem")]
    result = run("--listen", "127.0.0.1:0", "--backend", "10.0.0.1:80", "--cert", "/nowhere/a.pem")
    assert result.exit_code == 2
    assert result.stderr == "--cert /nowhere/a.pem: cannot be read: no such file or directory; give the path of a PEM file\n"


@pytest.mark.parametrize("arguments", [["--key", "a.key"], ["-c", "f.toml", "--cert", "a.pem"], ["-c", "f.toml", "--key", "a.pem"]])
def test_a_certificate_that_goes_with_nothing_is_a_wrong_command_line(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_wrong_arguments_are_named_all_at_once_in_their_order() -> None:
    backends = ["10.0.0.1", "10.0.0.2:80,wieght=3", "10.0.0.3:80,weight=x", "10.0.0.4:80,weight", "10.0.0.5:80,weight=2"]
    with pytest.raises(ConfigError) as caught:
        read_config(Arguments(["8080"], backends, "round_robin"))
    assert caught.value.lines() == [
        '--listen 8080: "8080" is only a number; a port stands behind a colon; did you mean ":8080"?',
        '--backend 10.0.0.1: "10.0.0.1" has no port; the port stands behind the address, such as "10.0.0.1:8080"',
        '--backend 10.0.0.2:80,wieght=3: unknown key "wieght"; known here: address, weight, max_connections, backup, priority, zone, '
        'server_id; did you mean "weight"?',
        '--backend 10.0.0.3:80,weight=x: found "x"; a number, 0 (never picked) or 1 … 256',
        '--backend 10.0.0.4:80,weight: found ""; a number, 0 (never picked) or 1 … 256',
        '--backend 10.0.0.5:80,weight=2: weight 2 in a pool with algorithm "round_robin", which knows no weights; '
        '"weighted_round_robin" honours weights; or leave the weight out',
    ]


def test_a_wrong_configuration_ends_with_2_and_nothing_else() -> None:
    result = run("--listen", "x", "--backend", "10.0.0.1:80", "--algorithm", "leastconn")
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["--listen x", "--algorithm leastconn"]


def test_wrong_workers_and_a_wrong_user_end_it_like_a_wrong_configuration() -> None:
    result = run("--backend", "10.0.0.1:80", "--workers", "many", "--user", "a b")
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["--workers many", "--user a b"]


def test_a_file_and_arguments_do_not_mix(tmp_path: Path) -> None:
    result = run("-c", str(tmp_path / "x.toml"), "--listen", ":80")
    assert result.exit_code == 2
    assert "leave out --listen" in result.stderr


def test_a_directory_that_is_not_there_is_named_before_anything_starts() -> None:
    result = run("--counters", "/nonexistent/directory/counters")
    assert result.exit_code == 2
    assert "there is no directory /nonexistent/directory" in result.stderr


def test_without_a_data_plane_it_says_how_to_build_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastlb.processes.launch", None)
    result = run("--backend", "10.0.0.1:80")
    assert result.exit_code == 1
    assert "the compiled data plane is missing" in result.stderr
    assert "./dev build" in result.stderr


Started = tuple["subprocess.Popen[str]", list[str]]

# Directories of tests are their owner's alone.
OWN_ACCOUNT = ("--user", "root") if os.geteuid() == 0 else ()


def url_of(lines: list[str]) -> str:
    """Where it listens."""
    (line,) = (line for line in lines if "listening on" in line)
    return line.split()[3]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `fastlb serve` and reads its lines up to the one that says it is ready."""
    processes: list[subprocess.Popen[str]] = []

    def run_it(*arguments: str) -> Started:
        command = [sys.executable, "-m", "fastlb", "serve", *OWN_ACCOUNT, *arguments]
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / f"run{len(processes)}")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "ready (pid" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        return process, lines

    yield run_it
    for process in processes:
        process.terminate()  # workers would outlive SIGKILL
        process.communicate()


def kill_and_wait(pid: int) -> None:
    """Until its sockets are closed: somebody else's child stays a zombie, which has none. Whoever is in the queue of one that is just dying
    gets an error that is not ours."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it does not die"
        time.sleep(0.001)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
        return text


def test_the_demo_serves_survives_the_loss_of_a_backend_and_stops(start: Callable[..., Started]) -> None:
    process, lines = start("--listen", "127.0.0.1:0")
    url = url_of(lines)
    answers = [fetch(f"{url}/hello?a=b") for _ in range(6)]
    assert {answer.split()[2] for answer in answers} == {"b1", "b2", "b3"}
    for line in ("GET /hello?a=b HTTP/1.1", "X-Forwarded-For: 127.0.0.1", "X-Request-Id: "):
        assert line in answers[0]
    pid = re.search(r"demo backend b1 \(pid (\d+)\)", "".join(answers))
    assert pid is not None
    kill_and_wait(int(pid[1]))
    assert {fetch(url).split()[2] for _ in range(10)} == {"b2", "b3"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout is not None
    assert process.stderr is not None
    out, error = process.stdout.read(), process.stderr.read()  # not communicate(): some of it is in the buffer already
    assert [line for line in error.splitlines() if "workers run as root" not in line] == []
    assert "To try next" in out
    assert f"curl -i {url}/hello" in out


def test_backends_of_the_command_line_are_served(start: Callable[..., Started], tmp_path: Path) -> None:
    _, demo = start("--listen", f"unix:{tmp_path}/b")
    assert demo[1] == f'fastlb: listening on unix:{tmp_path}/b (listener "web")\n'
    process, lines = start("--listen", "127.0.0.1:0", "--backend", f"unix:{tmp_path}/b,weight=2")
    assert "demo backend" in fetch(url_of(lines))
    process.send_signal(signal.SIGQUIT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "fastlb: drained\n" in error


def connect_when_it_listens(path: str) -> socket.socket:
    """The file of a unix socket is there before anybody accepts."""
    deadline = time.monotonic() + 60
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def test_it_serves_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fastlb serve --listen unix:{tmp_path}/s --counters {tmp_path}/counters"
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    process = subprocess.Popen(["sh", "-c", f"exec {command} 2>&1 >/dev/full"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        with connect_when_it_listens(f"{tmp_path}/s") as client:
            client.settimeout(60)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == ""
        assert process.returncode == 0
    finally:
        process.terminate()
        process.communicate()


def test_an_address_in_use_ends_with_1_and_says_what_to_do(start: Callable[..., Started], tmp_path: Path) -> None:
    _, lines = start("--listen", "127.0.0.1:0")
    address = url_of(lines).removeprefix("http://")
    command = [sys.executable, "-m", "fastlb", "serve", *OWN_ACCOUNT, "--admin", "off", "--listen", address]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "second")}  # else it warns where another fastlb has the usual one
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ready" not in done.stdout
    errors = [line for line in done.stderr.splitlines() if "workers run as root" not in line]
    assert len(errors) == 1, errors
    assert errors[0].startswith(f'fastlb: cannot bind {address} (listener "web"): address already in use; stop the process')


def test_a_configuration_that_no_worker_can_use_ends_with_1_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_text(
        'listeners = [{ name = "db", bind = "127.0.0.1:0", protocol = "tcp", pool = "db" }]\n'
        'pools = { db = { backends = ["127.0.0.1:9"], source_address = "client" } }\n'  # which takes root, and workers are nobody
    )
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    command = [sys.executable, "-m", "fastlb", "serve", "--admin", "off", "-c", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ready" not in done.stdout
    (error,) = done.stderr.splitlines()
    assert 'the configuration: source_address = "client"' in error
