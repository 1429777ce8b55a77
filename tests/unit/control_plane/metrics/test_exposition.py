"""The page at /metrics, read back by prometheus-client's parsers."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fastlb import BUILD_ID, _core
from fastlb.control_plane.metrics.exposition import BOUNDS, CertificateReading, Node, escape_label, label_backends, render
from fastlb.control_plane.metrics.families import FAMILIES, Family
from fastlb.control_plane.metrics.meters import OTHER
from fastlb.control_plane.metrics.readings import BackendReading, read_backends
from tests.unit.data_plane.test_meters import LISTENER, POOL, ROUTE, Metered

METERS = {LISTENER: ("l", "web"), ROUTE: ("r", 'shop"\\\n'), POOL: ("p", "api"), 2: ("r", OTHER)}
DOCS = Path(__file__).parents[4] / "docs" / "metrics.md"


@pytest.fixture
def world() -> Iterator[Metered]:
    with Metered() as world:
        world.begin()
        client = world.client()
        _, peer = world.exchange(client)
        world.rest()
        world.exchange(client, peer)
        world.rest()
        yield world
    world.memory.close()


def read(page: bytes, openmetrics: bool) -> dict[str, Any]:
    """The families of a page by name, as prometheus-client understands them."""
    found = list((parse_openmetrics if openmetrics else parse_text)(page.decode()))
    families = {family.name: family for family in found}
    assert len(families) == len(found), "a family comes once"
    return families


def value_of(families: dict[str, Any], sample: str, **labels: str) -> float:
    values = [one.value for family in families.values() for one in family.samples if one.name == sample and one.labels == labels]
    assert len(values) == 1, (sample, labels, values)
    return float(values[0])


def test_certificates_are_told_once_each(world: Metered) -> None:
    shop = CertificateReading("shop.pem", ["shop.example", "*.shop.example"], 86400, False)
    certificates = [shop, shop, CertificateReading('o"ld.pem', [], -5, True)]
    families = read(render(world.memory, Node(7, METERS, certificates), True), True)
    labels = {"file": "shop.pem", "names": "shop.example *.shop.example"}
    assert value_of(families, "fastlb_certificate_expires_seconds", **labels) == 86400
    assert value_of(families, "fastlb_certificate_stale", **labels) == 0
    assert value_of(families, "fastlb_certificate_expires_seconds", file='o"ld.pem', names="") == -5
    assert value_of(families, "fastlb_certificate_stale", file='o"ld.pem', names="") == 1


@pytest.mark.parametrize("openmetrics", [False, True])
def test_page_says_what_was_counted(world: Metered, openmetrics: bool) -> None:
    families = read(render(world.memory, Node(7, METERS), openmetrics), openmetrics)
    assert value_of(families, "fastlb_snapshot_generation") == 7
    assert value_of(families, "fastlb_listener_requests_total", listener="web", status_class="2xx") == 2
    assert value_of(families, "fastlb_route_requests_total", route='shop"\\\n', status_class="2xx") == 2
    assert value_of(families, "fastlb_pool_requests_total", pool="api", status_class="5xx") == 0
    assert value_of(families, "fastlb_pool_backend_connections_total", pool="api", reused="true") == 1
    backend = {"pool": "0", "backend": f"127.0.0.1:{world.backend.getsockname()[1]}"}
    assert value_of(families, "fastlb_requests_total", **backend, status_class="2xx") == 2
    assert value_of(families, "fastlb_backend_up", **backend) == 1
    assert value_of(families, "fastlb_backend_admin_state", **backend, state="ready") == 1
    assert value_of(families, "fastlb_worker_accepted_total", worker="0") == 1
    assert value_of(families, "fastlb_connections") == 1
    assert families["fastlb_build" if openmetrics else "fastlb_build_info"].samples[0].labels["build"] == BUILD_ID


@pytest.mark.parametrize("openmetrics", [False, True])
def test_histograms_are_cumulative_and_end_with_all(world: Metered, openmetrics: bool) -> None:
    families = read(render(world.memory, Node(1, METERS), openmetrics), openmetrics)
    name = "fastlb_pool_duration_seconds"
    samples = families[name].samples
    buckets = [one.value for one in samples if one.name == f"{name}_bucket"]
    assert [one.labels["le"] for one in samples if one.name == f"{name}_bucket"] == [*BOUNDS, "+Inf"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == value_of(families, f"{name}_count", pool="api") == 2
    times = world.meter(POOL).times
    assert times is not None
    assert value_of(families, f"{name}_sum", pool="api") == pytest.approx(times[0][0] / 1e6)


def test_told_bounds_are_the_powers_of_two() -> None:
    assert [float(bound) for bound in BOUNDS] == [64e-6 * 2**power for power in range(22)]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_family_is_declared_once_with_its_kind_and_meaning(world: Metered, openmetrics: bool) -> None:
    families = read(render(world.memory, Node(1, METERS), openmetrics), openmetrics)
    for family in FAMILIES:
        found = families[family.name if openmetrics or family.kind == "counter" else family.sample_name]
        assert found.documentation == family.help
        assert found.type == ("gauge" if family.kind == "info" and not openmetrics else family.kind)
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels), sample
    assert len(families) == len(FAMILIES)


def test_names_follow_the_conventions() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"fastlb(_[a-z0-9]+)+", family.name)
        assert not family.name.endswith("_total")
        assert family.name.endswith("_seconds") or family.kind != "histogram"
        assert family.help.endswith(".")


def test_all_others_are_told_once_something_is_counted_there(world: Metered) -> None:
    assert OTHER not in render(world.memory, Node(1, METERS), False).decode()
    assert f'route="{OTHER}"' in render(world.memory, Node(1, {ROUTE: ("r", OTHER)}), False).decode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_label_comes_back_as_it_was(value: str) -> None:
    line = f'# TYPE a gauge\na{{b="{escape_label(value)}"}} 1\n'
    assert next(iter(parse_openmetrics(line + "# EOF\n"))).samples[0].labels == {"b": value}
    if "\r" not in value and not re.search("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", value):  # its own text parser splits lines there
        assert next(iter(parse_text(line))).samples[0].labels == {"b": value}


# ---------------------------------------------------------------------------------------------------------- backends
def test_state_of_a_backend_is_told(world: Metered) -> None:
    (row,) = read_backends(world.memory)
    pool, _, address = row.identity.partition("|")
    labels = {"pool": pool, "backend": address}
    for state, up, admin in (("down", 0, "ready"), ("drain", 1, "drain"), ("maintenance", 1, "maint")):
        world.memory.set_state(row.identity, _core.ROW_STATES[state])
        families = read(render(world.memory, Node(1, METERS), False), False)
        assert value_of(families, "fastlb_backend_up", **labels) == up
        for name in ("ready", "drain", "maint"):
            assert value_of(families, "fastlb_backend_admin_state", **labels, state=name) == (name == admin)


def test_more_backends_than_are_told_apart_share_a_series() -> None:
    readings = [
        BackendReading(f"p|{n}", 0, 1, 2, 3, 4, (0, 0, n, 0, 0, 0), 5, 6, 7, 8, 9, (1,) * len(_core.BACKEND_REASONS), 3, 2, 1)
        for n in range(5)
    ]
    series = label_backends(readings, 3)
    assert [labels for labels, _ in series] == [f'pool="p",backend="{n}"' for n in range(3)] + [f'pool="{OTHER}",backend="{OTHER}"']
    rest = series[-1][1]
    assert rest[2:6] == (2, 4, 6, 8)
    assert rest.statuses == (0, 0, 7, 0, 0, 0)
    assert rest[7:12] == (10, 12, 14, 16, 18)
    assert set(rest.reasons) == {2}
    assert (rest.ups, rest.downs, rest.ejections) == (6, 4, 2)


def test_page_does_not_give_memory_to_meters_that_nobody_uses(world: Metered) -> None:
    names = {number: ("r", f"r{number}") for number in range(100, 1100)}
    for number in names:
        world.memory.set_meter(number, b"rx")
    before = os.fstat(world.memory.fileno()).st_blocks
    render(world.memory, Node(1, names), False)
    assert (os.fstat(world.memory.fileno()).st_blocks - before) * 512 < 300_000


# ---------------------------------------------------------------------------------------------------------- the documentation
def describe(family: Family) -> str:
    labels = ", ".join(f"`{name}`" for name in family.labels) or "-"
    return f"| `{family.sample_name}` | {family.kind} | {labels} | {family.help} |"


def test_page_of_the_documentation_lists_every_metric() -> None:
    listed = [line for line in DOCS.read_text().splitlines() if line.startswith("| `fastlb_")]
    assert sorted(listed) == sorted(describe(family) for family in FAMILIES)
