"""The picks of nginx, recorded from it (record_nginx.py), are ours: weights, backends that are down and rehashing included."""

import json
from typing import Any

import pytest

from tests.support._probe import Pool
from tests.unit.data_plane.select.record_nginx import CLIENTS, KEYS, PICKS, name_backend

RECORDED: dict[str, Any] = json.loads(PICKS.read_text())
CASES = pytest.mark.parametrize("case", range(4))


def make_pool(algorithm: str, recorded: dict[str, Any]) -> Pool:
    weights = recorded["weights"]
    pool = Pool(algorithm, weights, names=[name_backend(number) for number in range(len(weights))])
    for number in recorded["down"]:
        pool.set_state(number, 1)
    return pool


@CASES
@pytest.mark.parametrize("algorithm", ["ip_hash", "hash", "consistent_hash"])
def test_keys_go_where_nginx_sends_them(algorithm: str, case: int) -> None:
    recorded = RECORDED[algorithm][case]
    pool = make_pool(algorithm, recorded)
    keys = pool.keys(text.encode() for text in (CLIENTS if algorithm == "ip_hash" else KEYS))
    assert "".join(map(str, pool.pick_each(keys))) == recorded["picks"]


@CASES
def test_turns_are_those_of_nginx(case: int) -> None:
    recorded = RECORDED["round_robin"][case]
    pool = make_pool("weighted_round_robin", recorded)
    assert "".join(str(pool.pick()) for _ in recorded["picks"]) == recorded["picks"]
