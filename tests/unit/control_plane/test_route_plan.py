"""From routes to the calls that write the route table; the table itself is asked in tests/integration/test_routes.py."""

from ipaddress import ip_network
from typing import Any

import pytest

from fastlb.control_plane import route_plan
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.route_plan import build_route_table, choose_host_sets, compile_conditions, list_variants

BASE = """
[[listeners]]
name = "web"
bind = ":80"
[[listeners]]
name = "admin"
bind = ":81"
[[listeners]]
name = "third"
bind = ":82"
[pools.a]
backends = "a:1"
"""


def config(text: str) -> Config:
    return load_text(BASE + text, "f").config


class RecordingWriter:
    """Stands for _core.RouteTableWriter."""

    def __init__(self, n_host_sets: int) -> None:
        self.n_host_sets = n_host_sets
        self.rules: list[dict[str, Any]] = []

    def add_rule(self, route: int, **rule: Any) -> None:
        self.rules.append({"route": route, **rule})

    def finish(self) -> "RecordingWriter":
        return self


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(route_plan._core, "RouteTableWriter", RecordingWriter)

    def build(text: str) -> list[dict[str, Any]]:
        loaded = config(text)
        sets, _ = choose_host_sets(loaded)
        indexes = {variant: index for index, variant in enumerate(list_variants(loaded, sets))}
        written: Any = build_route_table(loaded, sets, indexes)
        return written.rules  # type: ignore[no-any-return]

    return build


def test_each_host_of_a_route_gets_a_rule(rules: Any) -> None:
    assert [(rule["route"], rule["host"], rule["path"], rule["exact"]) for rule in rules(
        '[[routes]]\nhost = ["x", "*.y"]\npath = "/api/"\npool = "a"\n[[routes]]\npath = "=/ü"\npool = "a"'
    )] == [(0, "x", b"/api/", False), (0, "*.y", b"/api/", False), (1, "", "/ü".encode(), True)]  # fmt: skip


def test_a_regular_expression_stands_behind_its_literal_text(rules: Any) -> None:
    (rule,) = rules(r"""
[[routes]]
path = '~^/v(\d+)'
pool = "a"
""")
    assert (rule["path"], rule["exact"], rule["regex"]) == (b"/v", False, (rb"^/v(\d+)", False))


def test_conditions_are_written_with_their_exceptions() -> None:
    (route,) = config("""
[[routes]]
method = ["GET", "!PUT", "GET"]
clients = ["10.0.0.0/8", "!10.1.0.0/16"]
headers = { X-A = ["1*", "!=*", "~^a", "~*b"], X-B = "*", X-C = "!", X-D = "*ü*" }
cookies = { c = "*1" }
query = { q = "" }
pool = "a"
""").routes
    assert list(compile_conditions(route)) == [
        ("method", False, "", ["GET"]),
        ("method", True, "", ["PUT"]),
        ("client", False, "", [ip_network("10.0.0.0/8")]),
        ("client", True, "", [ip_network("10.1.0.0/16")]),
        ("header", False, "X-A", [("prefix", b"1"), ("regex", b"^a"), ("regex_caseless", b"b")]),
        ("header", True, "X-A", [("exact", b"*")]),
        ("header", False, "X-B", []),
        ("header", True, "X-C", []),
        ("header", False, "X-D", [("part", "ü".encode())]),
        ("cookie", False, "c", [("suffix", b"1")]),
        ("query", False, "q", [("exact", b"")]),
    ]


def test_listeners_share_one_set_of_hosts_where_no_route_names_one(rules: Any) -> None:
    text = '[[routes]]\npool = "a"'
    assert choose_host_sets(config(text))[1] == [0, 0, 0]
    assert [list(rule["host_sets"]) for rule in rules(text)] == [[0]]


def test_listeners_that_know_other_routes_have_other_sets(rules: Any) -> None:
    text = (
        '[[routes]]\nlistener = "admin"\npool = "a"\npath = "/x"\n[[routes]]\npool = "a"\n'
        '[[routes]]\nlistener = ["web", "admin"]\npool = "a"\npath = "/y"'
    )
    assert choose_host_sets(config(text))[1] == [1, 2, 0]
    assert [list(rule["host_sets"]) for rule in rules(text)] == [[2], [0, 1, 2], [1, 2]]
