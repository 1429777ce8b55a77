"""packaging/grafana: the dashboard asks for metrics and labels that exist, and its panels do not cover each other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.metrics.families import FAMILIES

DASHBOARD = json.loads((Path(__file__).parents[2] / "packaging" / "grafana" / "fastlb.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# By the name of a sample, the labels that it has; a server that scrapes adds the instance.
LABELS = {
    family.sample_name + suffix: {*family.labels, "instance", *(["le"] if suffix == "_bucket" else [])}
    for family in FAMILIES
    for suffix in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}


def queries() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


@pytest.mark.parametrize("query", list(dict.fromkeys(queries())))
def test_query_asks_for_what_there_is(query: str) -> None:
    names = re.findall(r"\bfastlb_\w+", query)
    assert names
    asked = set(re.findall(r"(\w+)=~?\"", query))
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        asked |= {label.strip() for label in group.split(",")}
    asked |= set(re.findall(r"label_values\(.*, (\w+)\)$", query))
    for name in names:
        assert asked <= LABELS[name], name
    assert query.count("(") == query.count(")")


def test_variables_that_are_used_are_defined() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__range"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used <= defined


def test_panels_have_numbers_of_their_own_and_do_not_cover_each_other() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [panel["gridPos"] for panel in PANELS]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
