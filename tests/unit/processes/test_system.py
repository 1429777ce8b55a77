"""fastlb/processes/_system.pyx: each call changes what /proc says of the process."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

# In a process of its own, whose argument area is known: set the title, say what /proc shows.
TITLED = """
import json, os, sys
from pathlib import Path
from fastlb.processes import _system
os.environ["CANARY"] = "alive"
_system.set_process_title(sys.argv[1])
if len(sys.argv) > 2: _system.set_process_title(sys.argv[2])
print(json.dumps([Path("/proc/self/cmdline").read_text(), Path("/proc/self/comm").read_text(), sys.argv[1:],
                  Path("/proc/self/environ").read_text().split("=")[0]]))
"""


def run_titled(*titles: str) -> Any:
    environment = {
        "FIRST": "1",
        **{name: value for name, value in os.environ.items() if name.startswith(("ASAN", "UBSAN", "LD_", "PYTHON"))},
    }
    done = subprocess.run([sys.executable, "-c", TITLED, *titles], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.parametrize("title", ["fastlb: worker 1", "x", "Ünïcödé " * 3, ""])
def test_a_title_replaces_the_command_line(title: str) -> None:
    command_line, name, arguments, _ = run_titled(title)
    assert command_line.rstrip("\0") == title
    assert name.rstrip("\n").encode(errors="surrogateescape") == title.encode()[:15]
    assert arguments == [title]


def test_a_long_title_is_cut_and_the_environment_stays() -> None:
    command_line, _, _, variable = run_titled("short", "x" * 5000)
    room = len(f"{sys.executable}\0-c\0{TITLED}\0short\0{'x' * 5000}\0".encode()) - 1
    assert command_line.rstrip("\0") == ("x" * 5000)[:room]
    assert variable == "FIRST"


def test_a_later_title_leaves_nothing_of_the_one_before() -> None:
    assert run_titled("a long title of a process", "short")[0].rstrip("\0") == "short"


def run_in_child(code: str) -> str:
    program = f"from pathlib import Path; import os; from fastlb.processes import _system\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_no_new_privileges_is_set_for_good() -> None:
    code = "print(_system.has_no_new_privileges()); _system.set_no_new_privileges(); print(_system.has_no_new_privileges())"
    assert run_in_child(code).split() == ["False", "True"]


def test_a_subreaper_gets_the_children_of_its_children() -> None:
    code = """
_system.set_child_subreaper()
reading, writing = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.write(writing, str(os.getpid()).encode())
        os._exit(7)
    os._exit(0)
os.close(writing)
grandchild = int(os.read(reading, 100))
ended = dict(os.waitpid(-1, 0) for _ in range(2))
print(os.waitstatus_to_exitcode(ended[grandchild]))
"""
    assert run_in_child(code) == "7"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_capabilities_are_cleared_and_the_bounding_set_needs_one() -> None:
    code = """
print(_system.drop_bounding_capabilities())
_system.clear_capabilities()
_system.clear_capabilities()
print(*(line.split()[1].strip("0") or "0" for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")))
"""
    assert run_in_child(code).split() == ["True", "0", "0", "0", "0", "0"]
    assert run_in_child("_system.clear_capabilities(); print(_system.drop_bounding_capabilities())") == "False"
