"""UDP: 100 clients with one datagram of 128 bytes under way each, echoed by the backend; nginx (stream) and fastlb take turns."""

import contextlib
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.compare import native
from bench.compare.processes import CLIENT_CPU, PROXY_CPU, START_SECONDS, BenchError, Program, child_setup, free_port, running
from bench.compare.proxies import ADDRESS, CONFIGS, FASTLB, NGINX, executable

CLIENTS, BYTES = 100, 128
WARM_UP_SECONDS = 0.3
IDLE_SESSIONS = 5_000  # whose memory is measured
_MODULES = "/usr/lib/nginx/modules"  # where Debian has them


def measure_udp(
    names: Sequence[str], directory: Path, *, rounds: int, passes: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Turns of both proxies, after one round that is not kept."""
    directory = directory / "udp"
    directory.mkdir(exist_ok=True)
    slots: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        backend = free_port()
        echo = [native.program("udpecho"), "serve", ADDRESS, str(backend)]
        stack.enter_context(running("udpecho", echo, cpus=(CLIENT_CPU,), directory=directory))
        wait_until_echoing(backend, "udpecho")
        proxies = [stack.enter_context(_running_proxy(name, backend, directory)) for name in (NGINX, FASTLB) if name in names]
        for number in range(rounds + 1):
            for _ in range(passes if number else 1):
                for program, port in proxies:
                    slot = _measure_slot(program, port, number, seconds)
                    if number:
                        slots.append(slot)
            say(f"udp: {f'round {number} of {rounds}' if number else 'warm-up'}")
    return slots


def measure_sessions(directory: Path) -> float:
    """Bytes of memory of our own (not the kernel's) that a session of fastlb takes."""
    directory = directory / "udp-sessions"
    directory.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        backend = free_port()
        stack.enter_context(
            running("udpecho", [native.program("udpecho"), "serve", ADDRESS, str(backend)], cpus=(CLIENT_CPU,), directory=directory)
        )
        wait_until_echoing(backend, "udpecho")
        program, port = stack.enter_context(_running_proxy(FASTLB, backend, directory))
        before = program.pss_bytes()
        for _ in range(IDLE_SESSIONS):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(START_SECONDS)
                client.sendto(b"x", (ADDRESS, port))
                client.recv(10)
        return (program.pss_bytes() - before) / IDLE_SESSIONS


@contextlib.contextmanager
def _running_proxy(name: str, backend: int, directory: Path) -> Iterator[tuple[Program, int]]:
    home = directory / name
    home.mkdir(exist_ok=True)
    port = free_port(backend + 1 if name == NGINX else backend + 50)
    template = "udp.toml" if name == FASTLB else "udp.nginx.conf"
    text = (CONFIGS / template).read_text()
    values = {
        "LISTEN": f"{ADDRESS}:{port}",
        "BACKEND": f"{ADDRESS}:{backend}",
        "DIRECTORY": home,
        "MODULES": _MODULES,
        "USER": pwd.getpwuid(os.getuid()).pw_name,
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    config = home / template
    config.write_text(text)
    if name == FASTLB:
        command = [sys.executable, "-m", "fastlb", "serve", "-c", str(config)]
    else:
        path = executable("nginx")
        if path is None:
            raise BenchError("nginx is not installed")
        command = [path, "-p", str(home), "-e", "stderr", "-c", str(config)]
    with running(name, command, cpus=(PROXY_CPU,), directory=home, cwd=native.ROOT) as program:
        wait_until_echoing(port, name, program)
        program.refresh()
        yield program, port


def wait_until_echoing(port: int, name: str, program: Program | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.05)
        client.connect((ADDRESS, port))
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                client.send(b"?")
                if client.recv(10) == b"?":
                    return
            time.sleep(0.01)
    raise BenchError(f"{name} does not echo{program.log_tail() if program is not None else ''}")


def _measure_slot(program: Program, port: int, number: int, seconds: float) -> dict[str, object]:
    """CPU and answers of a window; one datagram that is lost voids the run."""
    program.refresh()
    command = [native.program("udpecho"), "ask", ADDRESS, str(port), str(CLIENTS), str(BYTES), str(WARM_UP_SECONDS), str(seconds)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=child_setup(CLIENT_CPU))
    assert client.stdout is not None
    try:
        began = client.stdout.readline()
        started, cpu = time.monotonic(), program.cpu_ns()
        ended = client.stdout.readline()
        cpu_after, window = program.cpu_ns(), time.monotonic() - started
    finally:
        client.kill()
        client.communicate()
    words = ended.split()
    if began != "begin\n" or len(words) != 3 or not int(words[1]) or int(words[2]):
        raise BenchError(f"udp through {program.name}: {began}{ended}{program.log_tail()}")
    return {
        "proxy": program.name,
        "round": number,
        "window_seconds": window,
        "requests": int(words[1]),
        "cpu_us": (cpu_after - cpu) / 1e3,
        "requests_per_second": int(words[1]) / window,
    }
