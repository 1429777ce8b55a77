"""`fastlb check`, and the command as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import fastlb
from fastlb.cli import COMMANDS, main
from fastlb.control_plane.config.errors import quote_all

GOOD = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.a]\nbackends = ["10.0.0.1:80", "10.0.0.2:80"]\n'


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="fastlb")


def test_a_good_file_is_ok_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    result = run("check", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{path}: ok (1 listener, 1 route, 1 pool, 2 backends)\n"


def test_every_mistake_is_a_line_that_begins_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace("bind", "bnid").replace("10.0.0.2:80", "10.0.0.2") + "attempts = x\n")
    result = run("check", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(";")[0] for line in result.stderr.splitlines()] == [
        f'{path}:3:1: unknown key "bnid"',
        f'{path}:5:28: "10.0.0.2" has no port',
        f"{path}:6:12: found x without quotes",
    ]


def test_a_warning_is_said_and_the_file_is_still_ok(tmp_path: Path) -> None:
    path = tmp_path / "warning.toml"
    path.write_text(GOOD + '[pools.b]\nbackends = "10.0.0.3:80"\n[[routes]]\npool = "a"\n')
    result = run("check", str(path))
    assert result.exit_code == 0
    assert result.stderr == f'fastlb: warning: {path}:6:8: no route leads to the pool "b"; it gets no requests\n'
    assert "ok (1 listener, 1 route, 2 pools, 3 backends)" in result.stdout


@pytest.mark.parametrize(("name", "says"), [("absent.toml", "no such file"), (".", "this is a directory")])
def test_what_is_no_file_says_so(tmp_path: Path, name: str, says: str) -> None:
    result = run("check", str(tmp_path / name))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{tmp_path / name}: {says}; ")


def test_a_misspelt_command_names_the_nearest() -> None:
    result = run("chekc", "x")
    assert result.exit_code == 2
    assert f'there is no command "chekc"; the commands are {quote_all(COMMANDS)}; did you mean "check"?' in result.stderr


def test_help_lists_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "serve" in result.stdout
    assert "check" in result.stdout


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_versions_name_everything_that_a_bug_report_needs(flag: str) -> None:
    result = run(flag)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"fastlb {fastlb.__version__} (build {fastlb.BUILD_ID})"
    first_words = [line.split()[0] for line in lines]
    for part in ("cython", "compiler", "CPython", "uvloop", "click", "h11", "Linux"):
        assert part in first_words, part


def test_checking_needs_no_data_plane_and_no_loop(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    code = (
        "import sys; sys.modules['fastlb._core'] = None\n"
        "from fastlb.cli import main\n"
        f"main(['check', {str(path)!r}], standalone_mode=False)\n"
        "print(sorted({'asyncio', 'uvloop', 'h11', 'ssl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"


def test_another_system_is_told_plainly_that_this_is_for_linux() -> None:
    done = subprocess.run([sys.executable, "-c", "import sys; sys.platform = 'darwin'; import fastlb"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: fastlb runs on Linux only and this is 'darwin'" in done.stderr
