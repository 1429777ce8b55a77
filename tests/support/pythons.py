"""Which CPythons of this machine a wheel can be tried under: the system's, and one of each other version.

`python -m tests.support.pythons` lists them, and gets another one where there is a single version.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/usr/bin/python3")
ROOT = Path(__file__).resolve().parents[2]
# Where versions beside the system's are usually found: pyenv, uv (and what `get_another` got), the images that wheels are built in.
FOLDERS = (
    Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions",
    Path("~/.local/share/uv/python").expanduser(),
    ROOT / "build" / "pythons",
    Path("/opt/python"),
)
OLDEST = (3, 11)
ASKED = """
import json, sys, sysconfig
print(json.dumps([sys.implementation.name, list(sys.version_info[:2]), bool(sysconfig.get_config_var("Py_GIL_DISABLED"))]))
"""


@dataclass(frozen=True)
class Python:
    path: Path
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


def find_pythons() -> list[Python]:
    """One per version, the system's first; none that is too old, without a GIL (no wheel for the limited API fits those) or no CPython."""
    found: dict[tuple[int, int], Python] = {}
    for path in _candidates():
        python = _ask(path)
        if python is not None:
            found.setdefault(python.version, python)
    return list(found.values())


def get_another() -> str:
    """Lets uv install one more. "" if that worked, else why not."""
    environment = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(ROOT / "build" / "pythons"), "UV_NO_PROGRESS": "1"}
    version = "3.13" if "3.13" not in map(str, find_pythons()) else "3.12"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "uv"]
    for command in (pip, [sys.executable, "-m", "uv", "python", "install", "--no-bin", version]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return done.stderr.strip()
    return ""


def _candidates() -> Iterator[Path]:
    yield SYSTEM
    for minor in range(OLDEST[1], OLDEST[1] + 10):
        for folder in os.get_exec_path():
            yield Path(folder) / f"python3.{minor}"
    for folder in FOLDERS:
        yield from sorted(folder.glob("*/bin/python3"))


def _ask(path: Path) -> Python | None:
    """Running it is the only way to know: a shim of pyenv exists for versions that are not selected."""
    if not path.exists():
        return None
    done = subprocess.run([path, "-I", "-c", ASKED], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    name, version, without_gil = json.loads(done.stdout)
    if name != "cpython" or without_gil or tuple(version) < OLDEST:
        return None
    return Python(path, tuple(version))


def main() -> None:
    why = get_another() if len(find_pythons()) < 2 else ""
    for python in find_pythons():
        print(f"{python}  {python.path}")
    if why:
        print(f"no other version could be had, so wheels are tried under one only:\n{why}")


if __name__ == "__main__":
    main()
