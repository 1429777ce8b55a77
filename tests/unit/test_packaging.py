"""packaging/: what its files name is there, and their times fit the defaults of the options."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastlb.control_plane.config.quantity import parse_duration_ms
from fastlb.control_plane.config.schema import GlobalSettings

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
SERVICE = (PACKAGING / "systemd" / "fastlb.service").read_text()
CONTAINERFILE = (PACKAGING / "container" / "Containerfile").read_text()


def setting(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE)
    assert isinstance(value, str)
    return value


def test_systemd_waits_longer_than_a_drain_takes() -> None:
    assert setting("KillSignal") == "SIGQUIT"
    assert int(setting("TimeoutStopSec")) * 1000 > GlobalSettings().drain_timeout_ms


def test_the_container_is_told_to_wait_longer_than_a_drain_takes() -> None:
    assert "STOPSIGNAL SIGQUIT\n" in CONTAINERFILE
    readme = (PACKAGING / "README.md").read_text()
    times = re.findall(r"--stop-timeout (\d+)|terminationGracePeriodSeconds: (\d+)", readme)
    assert len(times) == 3
    assert all(parse_duration_ms(f"{one or other}s") > GlobalSettings().drain_timeout_ms for one, other in times)


def test_the_supervisor_may_do_what_it_has_to() -> None:
    """Capabilities that privileges.py and descriptors.py use as root."""
    bounding = set(setting("CapabilityBoundingSet").split())
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_SYS_RESOURCE", "CAP_NET_BIND_SERVICE"} == bounding


def test_what_the_container_recipe_copies_is_there() -> None:
    copied = [words for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE, re.MULTILINE) for words in line.split()[:-1]]
    assert "pyproject.toml" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_links_between_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^):]+)\)", (PACKAGING / "README.md").read_text()):
        assert (PACKAGING / target).exists(), target


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("without_root", [False, True])
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path, without_root: bool) -> None:
    text = SERVICE.replace("/usr/local/bin/fastlb", "/bin/true")
    if without_root:
        text = re.sub(r"^#(User|AmbientCapabilities|CapabilityBoundingSet)=", r"\1=", text, flags=re.MULTILINE).replace(
            "=fastlb\nAmb", "=daemon\nAmb"
        )
    (tmp_path / "fastlb.service").write_text(text)
    shutil.copy(PACKAGING / "systemd" / "fastlb.socket", tmp_path)
    units = [str(tmp_path / "fastlb.service"), str(tmp_path / "fastlb.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fastlb" in line]) == (0, [])
