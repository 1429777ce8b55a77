"""Weights that the operator has put in the place of configured ones, until they are taken back.

Kept by the controller and left to the next one. A key is a backend as the configuration writes it, "POOL|ADDRESS", or the identity of one
row of it where a name has several; an identity goes before what it belongs to. A reload keeps those whose backend stays.
"""

from collections.abc import Mapping
from dataclasses import replace

from fastlb.control_plane.config.schema import Config, Pool
from fastlb.control_plane.groups import Row

Weights = Mapping[str, int]
NO_WEIGHTS: Weights = {}


def override_weight(row: Row, pool: Pool, weights: Weights) -> Row:
    """The row with the weight that the operator wants, if there is one."""
    weight = weights.get(row.identity, weights.get(f"{pool.name}|{row.backend.address}"))
    return row if weight is None else replace(row, backend=replace(row.backend, weight=weight))


def keep_weights(weights: Weights, config: Config) -> dict[str, int]:
    """Those of backends that this configuration has, too."""
    if not weights:
        return {}
    listed = {f"{pool.name}|{backend.address}" for pool in config.pools for backend in pool.backends}
    return {key: weight for key, weight in weights.items() if key in listed or key.rpartition("|")[0] in listed}
