"""Weights in the place of configured ones: whose they are, and which a configuration keeps."""

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config, Pool
from fastlb.control_plane.resolver import Endpoint
from fastlb.control_plane.snapshot import list_rows
from fastlb.control_plane.weights import NO_WEIGHTS, Weights, keep_weights, override_weight


def config(*backends: str, pool: str = "p") -> Config:
    listed = ", ".join(f'"{backend}"' for backend in backends)
    return load_text(f'[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.{pool}]\nbackends = [{listed}]\n', "f").config


def weights_of(pool: Pool, weights: Weights, **names: tuple[Endpoint, ...]) -> dict[str, int]:
    endpoints = {name.replace("_", "."): found for name, found in names.items()}
    rows = [override_weight(row, pool, weights) for backend in pool.backends for row in list_rows(pool, backend, endpoints)]
    return {row.identity: row.backend.weight for row in rows}


def test_a_weight_is_that_of_the_backend_it_was_given_to() -> None:
    (pool,) = config("10.0.0.1:80", "10.0.0.2:80").pools
    assert weights_of(pool, NO_WEIGHTS) == {"p|10.0.0.1:80": 1, "p|10.0.0.2:80": 1}
    assert weights_of(pool, {"p|10.0.0.1:80": 0, "q|10.0.0.2:80": 5}) == {"p|10.0.0.1:80": 0, "p|10.0.0.2:80": 1}


def test_a_name_has_one_for_all_its_addresses_and_each_of_them_its_own() -> None:
    (pool,) = config("app.example:80").pools
    found = tuple(Endpoint(f"10.0.0.{n}", 80) for n in (1, 2))
    question = next(iter(pool.backends)).address.question
    rows = weights_of(pool, {"p|app.example:80": 7, "p|app.example:80|10.0.0.2": 0}, **{question.replace(".", "_"): found})
    assert rows == {"p|app.example:80|10.0.0.1": 7, "p|app.example:80|10.0.0.2": 0}


def test_those_of_backends_that_stay_are_kept() -> None:
    weights = {"p|10.0.0.1:80": 2, "p|10.0.0.2:80": 3, "p|app.example:80|10.0.0.9": 4, "q|10.0.0.1:80": 5}
    assert keep_weights(weights, config("10.0.0.1:80", "app.example:80")) == {"p|10.0.0.1:80": 2, "p|app.example:80|10.0.0.9": 4}
    assert keep_weights(weights, config("10.0.0.1:80", pool="q")) == {"q|10.0.0.1:80": 5}
    assert keep_weights(NO_WEIGHTS, config("10.0.0.1:80")) == {}
