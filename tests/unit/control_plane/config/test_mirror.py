"""[[routes]] mirror: a text or a table, its pool, and what is probably not meant."""

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Mirror
from tests.unit.control_plane.config.test_loader import MINIMAL, errors, warnings

SHADOW = MINIMAL + '[pools.shadow]\nbackends = ["10.0.0.2:80"]\n'


def mirror_of(text: str) -> Mirror:
    return load_text(SHADOW + '[[routes]]\npool = "api"\n' + text, "f").config.routes[0].mirror


def test_a_text_is_short_for_the_pool() -> None:
    assert mirror_of('mirror = "shadow"') == Mirror(pool="shadow", share=1.0) == mirror_of('mirror = { pool = "shadow" }')


def test_a_share_can_be_chosen() -> None:
    assert mirror_of('mirror = { pool = "shadow", share = 0.25 }').share == 0.25


def test_without_a_mirror_there_is_none() -> None:
    assert load_text(MINIMAL, "f").config.routes[0].mirror == Mirror(pool="", share=1.0)


def test_a_pool_that_only_a_mirror_leads_to_gets_requests() -> None:
    assert warnings(SHADOW + '[[routes]]\npool = "api"\nmirror = "shadow"\n') == []


def test_an_unknown_pool_is_reported_where_it_stands() -> None:
    for written, column in (('mirror = "shadwo"', 10), ('mirror = { pool = "shadwo" }', 19)):
        assert errors(SHADOW + f'[[routes]]\npool = "api"\n{written}\n') == [
            f'10:{column}: there is no pool "shadwo"; the pools are "api" or "shadow"; did you mean "shadow"?'
        ]


def test_mirroring_into_the_routes_own_pool_is_a_warning() -> None:
    assert warnings(MINIMAL + '[[routes]]\npool = "api"\nmirror = "api"\n') == [
        '8:1: the route mirrors into its own pool "api"; that gets each of these requests twice'
    ]


def test_a_share_above_one_is_refused() -> None:
    (error,) = errors(SHADOW + '[[routes]]\npool = "api"\nmirror = { pool = "shadow", share = 10 }\n')
    assert error.startswith("10:")
