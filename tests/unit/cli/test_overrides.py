"""`--workers` and `--user`: they replace what the file says, and have to be as right as that."""

import pytest

from fastlb.cli.overrides import override
from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text

LOADED = load_text(
    """\
[global]
workers = 3
user = "www-data"
group = "adm"
max_connections = 7
[[listeners]]
name = "web"
bind = "127.0.0.1:8080"
[pools.api]
backends = "10.0.0.1:80"
[pools.unused]
backends = "10.0.0.2:80"
[[routes]]
pool = "api"
""",
    "f",
)
ACCOUNT = "a user or group is its name or its number in /etc/passwd or /etc/group; the group has a key of its own"


def settings(workers: str = "", user: str = "") -> tuple[int, str, str]:
    result = override(LOADED, workers, user)
    assert result.warnings == LOADED.warnings != ()
    assert (result.config.listeners, result.config.pools) == (LOADED.config.listeners, LOADED.config.pools)
    assert result.config.settings.max_connections == 7
    return result.config.settings.workers, result.config.settings.user, result.config.settings.group


def test_without_arguments_nothing_changes() -> None:
    assert override(LOADED) == LOADED


def test_workers_replace_those_of_the_file() -> None:
    assert settings("2") == (2, "www-data", "adm")
    assert settings("auto") == (0, "www-data", "adm")


def test_a_user_replaces_user_and_group_of_the_file() -> None:
    assert settings(user="lb") == (3, "lb", "")
    assert settings(user="lb:proxy") == (3, "lb", "proxy")
    assert settings(user=":proxy") == (3, "", "proxy")
    assert settings("1", "1000:1000") == (1, "1000", "1000")


@pytest.mark.parametrize(
    ("workers", "user", "lines"),
    [
        ("0", "", ['--workers 0: 0 is out of range; "auto" or 1 … 128; did you mean "auto"?']),
        ("129", "", ['--workers 129: 129 is out of range; "auto" or 1 … 128']),
        ("many", "", ['--workers many: found "many"; "auto" or 1 … 128']),
        ("-1", "", ['--workers -1: found "-1"; "auto" or 1 … 128']),
        (
            "x",
            "a b:c:d",
            [
                '--workers x: found "x"; "auto" or 1 … 128',
                f'--user a b:c:d: "a b" is not the name of an account; {ACCOUNT}; did you mean "a"?',
                f'--user a b:c:d: "c:d" is not the name of an account; {ACCOUNT}; did you mean "c"?',
            ],
        ),
    ],
)
def test_what_would_be_wrong_in_a_file_is_wrong_here(workers: str, user: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        override(LOADED, workers, user)
    assert caught.value.lines() == lines
