"""The wheel that `./dev wheel` builds, installed in fresh environments under the Pythons of this machine, away from the sources."""

import calendar
import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastlb
from tests.support.loop_backend import LoopBackend
from tests.support.process import ROOT
from tests.support.pythons import SYSTEM, Python, find_pythons
from tests.support.waiting import DEADLINE_SECONDS, SANITIZED

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="a wheel is never built with sanitizers"),
    pytest.mark.timeout(900),  # the first of them builds the wheel, which takes as long as a compiler does
]
PYTHONS = find_pythons()
CONFIGURATION = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.a]\nbackends = ["127.0.0.1:9"]\n'


class Installed:
    """One environment with the wheel and its dependencies. Commands run in an empty folder and know nothing of the sources."""

    def __init__(self, python: Python, wheel: Path, folder: Path) -> None:
        self.python = python
        self.folder = folder / "elsewhere"
        self.folder.mkdir(parents=True)
        self._bin = folder / "environment" / "bin"
        self.environment = {"PATH": f"{self._bin}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)}
        # Debian's Python has no pip for environments without a further package; pip can install into another environment than its own.
        subprocess.run([python.path, "-m", "venv", "--without-pip", folder / "environment"], check=True)
        pip = [sys.executable, "-m", "pip", "--python", self._bin / "python", "--disable-pip-version-check", "install", "-q", wheel]
        subprocess.run(pip, check=True)

    def command(self, *arguments: str) -> list[str]:
        return [str(self._bin / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str) -> str:
        """Standard output of a command that must succeed and say nothing else."""
        done = subprocess.run(self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@contextlib.contextmanager
def started(installed: Installed, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that leaves no other behind, whatever happens."""
    with subprocess.Popen(
        command,
        cwd=installed.folder,
        env=installed.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([ROOT / "dev", "wheel", folder], check=True, env={**os.environ, "PYTHONPATH": ""})
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=PYTHONS, ids=str)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(request.param, wheel, tmp_path_factory.mktemp("python"))


def test_wheel_is_tried_under_the_systems_python_and_another_version() -> None:
    if PYTHONS and PYTHONS[0].path != SYSTEM:
        pytest.skip(f"{SYSTEM} is missing or older than 3.11: the wheel is tried under {', '.join(map(str, PYTHONS))} only")
    if len(PYTHONS) < 2:
        pytest.skip(f"no other version of Python was found: the wheel is tried under {', '.join(map(str, PYTHONS))} only")


def test_it_serves_a_request_and_stops(installed: Installed, keep: Callable[[LoopBackend], LoopBackend]) -> None:
    backend = keep(LoopBackend())
    command = installed.command("fastlb", "serve", "--listen", "127.0.0.1:0", "--backend", backend.address)
    with started(installed, command) as process:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            listening = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            port = int(listening[1]) if listening else port
            if "ready" in line:
                break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        connection.request("GET", "/path")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
        connection.close()
        assert backend.heads[0].startswith(b"GET /path HTTP/1.1\r\n")
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, complaints) == (0, "")


def test_versions_name_the_sources_and_the_python(installed: Installed) -> None:
    lines = installed.run("fastlb", "-V").splitlines()
    # The build id is what processes compare before they share memory: a wheel of the same sources may, of any others it may not.
    assert lines[0] == f"fastlb {fastlb.__version__} (build {fastlb.BUILD_ID})"
    assert any(line.startswith("compiler gcc ") for line in lines)
    assert any(re.match(r"PCRE2 10\.\d+ .*, compiled to machine code", line) for line in lines)
    assert any(line.startswith(f"CPython {installed.python}.") for line in lines)


def test_a_configuration_is_checked(installed: Installed) -> None:
    (installed.folder / "fastlb.toml").write_text(CONFIGURATION)
    assert installed.run("fastlb", "check", "fastlb.toml") == "fastlb.toml: ok (1 listener, 1 route, 1 pool, 1 backend)\n"


def test_nothing_of_it_comes_from_the_sources(installed: Installed) -> None:
    asked = "import fastlb, fastlb._core, fastlb.data_plane.http1 as http1; print(fastlb.__file__, fastlb._core.__file__, http1.__file__)"
    for path in installed.run("python", "-c", asked).split():
        assert Path(path).is_relative_to(installed.folder.parent / "environment"), path


@pytest.mark.long
def test_the_same_sources_give_the_same_file_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "build" / "wheel", tmp_path / "another", ignore=shutil.ignore_patterns("build"))
    with zipfile.ZipFile(wheel) as archive:  # its times are the date that is to be used again
        times = {calendar.timegm((*info.date_time, 0, 0, 0)) for info in archive.infolist()}
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(times.pop())}
    assert not times
    subprocess.run([sys.executable, "-m", "wheels.build", tmp_path / "dist"], cwd=tmp_path / "another", env=environment, check=True)
    assert (tmp_path / "dist" / wheel.name).read_bytes() == wheel.read_bytes()
