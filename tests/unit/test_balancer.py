"""fastlb/balancer.pyx: Balancer. Its picks are those of a pool, and what is counted, and health, stay with the names."""

import contextlib
import gc
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import Balancer, _core
from fastlb.balancer import Acquired
from tests.property.examples import examples
from tests.support._probe import Pool
from tests.unit.data_plane.select.record_nginx import CLIENTS, KEYS, PICKS, name_backend

ALGORITHMS = tuple(_core.ALGORITHMS)
RECORDED: dict[str, Any] = json.loads(PICKS.read_text())
WEIGHTS = (5, 1, 3, 1)


def picks(balancer: Balancer, n: int) -> str:
    return "".join(balancer.pick() or "-" for _ in range(n))


# ---------------------------------------------------------------------------------------------------------------- picks
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_picks_are_those_of_a_pool_of_the_engine(algorithm: str) -> None:
    """With claims between them, so that the least_ algorithms have something to look at."""
    names = [name_backend(number) for number in range(len(WEIGHTS))]
    texts = CLIENTS if algorithm == "ip_hash" else KEYS
    pool = Pool(algorithm, WEIGHTS, names=names)  # which has the seed 1
    balancer = Balancer(dict(zip(names, WEIGHTS, strict=True)), algorithm, seed=1, clock=lambda: 1.0)
    for turn, text in enumerate(texts[:200]):
        index = pool.pick(key=pool.key(text.encode()))
        name = balancer.pick(text)
        assert index is not None
        assert name == names[index], turn
        assert balancer.claim(name)
        if turn % 3 == 0:
            balancer.release(name)
        pool.configure(index, in_flight=balancer.in_flight(name))


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("algorithm", ["ip_hash", "hash", "consistent_hash"])
def test_keys_go_where_nginx_sends_them(algorithm: str, case: int) -> None:
    recorded = RECORDED[algorithm][case]
    names = [name_backend(number) for number in range(len(recorded["weights"]))]
    balancer = Balancer(dict(zip(names, recorded["weights"], strict=True)), algorithm)
    for number in recorded["down"]:
        balancer.set_health(names[number], False)
    picked = [balancer.pick(text) for text in (CLIENTS if algorithm == "ip_hash" else KEYS)]
    assert "".join(str(names.index(name or "")) for name in picked) == recorded["picks"]


def test_weighted_round_robin_interleaves() -> None:
    assert picks(Balancer({"a": 5, "b": 1, "c": 1}, "weighted_round_robin"), 14) == "aabacaa" * 2


def test_the_same_seed_gives_the_same_random_picks() -> None:
    first, same, other = (Balancer(list("abcdefgh12345678"), "random_two_choices", seed=seed) for seed in (1, 1, 2))
    assert picks(first, 50) == picks(same, 50) != picks(other, 50)


def test_keys_may_be_text_or_bytes() -> None:
    balancer = Balancer(["a", "b", "c", "d"], "maglev")
    for key in ("\u00e9", "user-7"):
        assert balancer.pick(key) == balancer.pick(key.encode()) == balancer.pick(bytearray(key.encode()))


def test_without_a_key_an_algorithm_that_hashes_takes_turns() -> None:
    assert sorted(picks(Balancer(["a", "b", "c"], "consistent_hash"), 3)) == ["a", "b", "c"]


def test_a_backend_that_is_down_excluded_or_weightless_is_not_picked() -> None:
    balancer = Balancer({"a": 1, "b": 1, "c": 1, "d": 0}, "round_robin")
    balancer.set_health("a", False)
    assert {balancer.pick(exclude=["b", "unknown"]) for _ in range(10)} == {"c"}
    balancer.set_health("a", True)
    assert {balancer.pick(exclude=("b",)) for _ in range(10)} == {"a", "c"}
    assert balancer.pick(exclude={"a", "b", "c"}) is None


def test_any_number_of_backends_can_be_excluded() -> None:
    names = [f"b{number}" for number in range(100)]
    assert Balancer(names).pick(exclude=names[:99]) == "b99"
    assert Balancer(names).pick(exclude=names) is None


def test_a_balancer_without_backends_picks_none() -> None:
    for algorithm in ALGORITHMS:
        assert Balancer((), algorithm).pick("key") is None


def test_a_higher_priority_number_waits_for_the_lower_ones() -> None:
    balancer = Balancer({"main": {}, "spare": {"priority": 1}, "last": {"priority": 7, "weight": 3}}, "round_robin")
    assert balancer.pick() == "main"
    balancer.set_health("main", False)
    assert balancer.pick() == "spare"
    assert balancer.pick(exclude=["spare"]) == "last"
    balancer.set_health("main", True)
    assert balancer.pick() == "main"


# ---------------------------------------------------------------------------------------------------------------- claims
def test_claims_are_counted_and_a_cap_holds() -> None:
    balancer = Balancer({"a": {"max_in_flight": 2}, "b": {"max_in_flight": 1}})
    assert balancer.claim("a")
    assert balancer.claim("a")
    assert not balancer.claim("a")
    assert balancer.in_flight("a") == 2
    assert balancer.pick() == "b"
    assert balancer.claim("b")
    assert balancer.pick() is None
    balancer.release("a")
    assert balancer.pick() == "a"


def test_acquire_claims_until_its_block_ends() -> None:
    balancer = Balancer({"a": {"max_in_flight": 1}})
    with balancer.acquire() as name:
        assert (name, balancer.in_flight("a")) == ("a", 1)
        with pytest.raises(LookupError), balancer.acquire():
            pass
    assert balancer.in_flight("a") == 0
    with pytest.raises(ZeroDivisionError), balancer.acquire():
        raise ZeroDivisionError
    assert balancer.in_flight("a") == 0


def test_an_acquired_claim_is_entered_once_at_a_time() -> None:
    balancer = Balancer(["a"])
    claim = balancer.acquire()
    with claim, pytest.raises(RuntimeError), claim:
        pass
    with claim:
        assert balancer.in_flight("a") == 1
    assert balancer.in_flight("a") == 0


def test_leaving_what_was_not_entered_is_an_error() -> None:
    balancer = Balancer(["a"])
    with pytest.raises(RuntimeError):
        balancer.acquire().__exit__(None, None, None)
    assert balancer.in_flight("a") == 0


def test_nothing_is_released_that_was_not_claimed() -> None:
    balancer = Balancer(["a"])
    with pytest.raises(ValueError, match="nothing is in flight on 'a'"):
        balancer.release("a")
    with pytest.raises(KeyError):
        balancer.release("b")
    assert balancer.in_flight("a") == 0


# ---------------------------------------------------------------------------------------------------------------- changes
def test_what_is_in_flight_and_health_outlive_a_change() -> None:
    balancer = Balancer(["a", "b", "c"])
    balancer.claim("a")
    balancer.set_health("b", False)
    balancer.add("d", weight=2)
    balancer.set_weight("c", 5)
    assert balancer.backends == ("a", "b", "c", "d")
    assert balancer.in_flight("a") == 1
    assert {balancer.pick() for _ in range(20)} == {"c"}
    assert balancer.pick(exclude="cd") == "a"


def test_a_claim_on_a_removed_backend_can_be_released() -> None:
    balancer = Balancer(["a", "b"])
    balancer.claim("a")
    balancer.remove("a")
    assert balancer.pick() == "b"
    with pytest.raises(KeyError):
        balancer.in_flight("a")
    balancer.add("a")
    assert balancer.in_flight("a") == 1
    balancer.remove("a")
    balancer.release("a")
    balancer.add("a")
    assert balancer.in_flight("a") == 0


def test_weight_0_takes_a_backend_out_and_another_brings_it_back() -> None:
    balancer = Balancer(["a", "b"], "weighted_round_robin")
    balancer.set_weight("a", 0)
    assert picks(balancer, 4) == "bbbb"
    balancer.set_weight("a", 3)
    assert Counter(picks(balancer, 8)) == {"a": 6, "b": 2}


def test_a_backend_that_joins_starts_slowly() -> None:
    now = 100.0
    balancer = Balancer(["a"], "weighted_round_robin", slow_start=64, clock=lambda: now)
    balancer.add("b")
    now += 16
    assert Counter(picks(balancer, 100))["b"] == 20  # 1/4 against 1
    now += 48
    assert Counter(picks(balancer, 100))["b"] == 50


def test_a_backend_that_is_slow_is_picked_less() -> None:
    balancer = Balancer(["a", "b"], "least_time", clock=lambda: 1.0)
    balancer.note_latency("a", 0.5)
    balancer.note_latency("b", 0.001)
    assert {balancer.pick() for _ in range(10)} == {"b"}
    for _ in range(600):
        balancer.claim("b")
    assert balancer.pick() == "a"


def test_latency_is_forgotten_with_the_clock() -> None:
    now = 1.0
    balancer = Balancer(["a", "b"], "least_time", clock=lambda: now)
    balancer.note_latency("a", 60.0)
    now += 3600
    balancer.note_latency("b", 0.001)
    assert balancer.pick() == "a"


def test_a_balance_factor_bounds_the_load_of_a_key() -> None:
    now = 1.0
    balancer = Balancer(["a", "b", "c", "d"], "consistent_hash", balance_factor=1.25, clock=lambda: now)
    for _ in range(100):
        name = balancer.pick("the same for all")
        assert name is not None
        balancer.claim(name)
        now += 1
    assert max(balancer.in_flight(name) for name in balancer.backends) <= 32  # ceil(1.25 * 100 / 4)


@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "claim", "release", "weight"]), st.sampled_from("abcde")), max_size=40),
    st.sampled_from(ALGORITHMS),
)
@examples(100)
def test_counts_are_those_of_a_simple_model(steps: list[tuple[str, str]], algorithm: str) -> None:
    balancer = Balancer(["a"], algorithm)
    there, in_flight = {"a"}, Counter[str]()
    for step, name in steps:
        if step == "add" and name not in there:
            balancer.add(name)
            there.add(name)
        elif step == "remove" and name in there:
            balancer.remove(name)
            there.remove(name)
        elif step == "claim" and name in there:
            assert balancer.claim(name)
            in_flight[name] += 1
        elif step == "release" and in_flight[name]:
            balancer.release(name)
            in_flight[name] -= 1
        elif step == "weight" and name in there:
            balancer.set_weight(name, 3)
        assert set(balancer.backends) == there
        assert {name: balancer.in_flight(name) for name in there} == {name: in_flight[name] for name in there}
        picked = balancer.pick("key")
        assert picked in there if there else picked is None


# ---------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"algorithm": "random"}),
        (ValueError, {"slow_start": -1}),
        (ValueError, {"balance_factor": 1.5}),
        (ValueError, {"algorithm": "consistent_hash", "balance_factor": 1}),
        (ValueError, {"seed": -1}),
        (ValueError, {"backends": ["a", "a"]}),
        (ValueError, {"backends": [""]}),
        (ValueError, {"backends": ["x" * 425]}),
        (ValueError, {"backends": {"a": -1}}),
        (ValueError, {"backends": {"a": 65536}}),
        (TypeError, {"backends": {"a": 1.5}}),
        (TypeError, {"backends": {"a": {"wait": 1}}}),
        (TypeError, {"backends": "abc"}),
        (TypeError, {"backends": [1]}),
    ],
)
def test_arguments_out_of_range_are_refused(error: type[Exception], arguments: dict[str, Any]) -> None:
    with pytest.raises(error):
        Balancer(**arguments)


def test_names_that_are_not_there_are_key_errors() -> None:
    balancer = Balancer(["a"])
    for call in (balancer.remove, balancer.claim, balancer.in_flight):
        with pytest.raises(KeyError):
            call("b")
    with pytest.raises(KeyError):
        balancer.set_weight("b", 1)
    with pytest.raises(KeyError):
        balancer.set_health("b", True)
    with pytest.raises(KeyError):
        balancer.note_latency("b", 1.0)


def test_a_change_that_fails_changes_nothing() -> None:
    balancer = Balancer(["a"])
    for change in (lambda: balancer.add("a"), lambda: balancer.add("b", weight=-1), lambda: balancer.set_weight("a", 1 << 20)):
        with pytest.raises(ValueError, match=r"."):
            change()
    assert balancer.backends == ("a",)
    assert picks(balancer, 2) == "aa"


def test_a_clock_that_fails_is_heard() -> None:
    def clock() -> float:
        if failing:
            raise OSError("no time")
        return 1.0

    failing = False
    balancer = Balancer(["a"], clock=clock)
    failing = True
    with pytest.raises(OSError, match="no time"):
        balancer.pick()


# ---------------------------------------------------------------------------------------------------------------- resources
def test_threads_may_share_one() -> None:
    balancer = Balancer({name: {"max_in_flight": 3} for name in "abc"})
    worst: list[int] = []

    def work() -> None:
        for _ in range(2000):
            with contextlib.suppress(LookupError), balancer.acquire() as name:
                worst.append(balancer.in_flight(name))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) <= 3
    assert [balancer.in_flight(name) for name in balancer.backends] == [0, 0, 0]


def open_descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def mapped_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4


def test_what_it_held_is_given_back() -> None:
    before = open_descriptors(), mapped_kib()
    for _ in range(50):
        balancer = Balancer([f"b{number}" for number in range(20)], "consistent_hash")
        balancer.claim("b1")
        balancer.remove("b1")
        balancer.pick("key")
        with contextlib.suppress(ValueError):
            Balancer(["a"], "maglev", seed=-1)
    del balancer
    assert open_descriptors() == before[0]
    assert mapped_kib() < before[1] + 100_000  # each maps 300 MiB of addresses


def test_an_acquired_claim_keeps_its_balancer() -> None:
    claim: Acquired = Balancer(["a"]).acquire()
    gc.collect()
    with claim as name:
        assert name == "a"


def test_the_examples_of_the_documentation_hold() -> None:
    import doctest

    import fastlb.balancer

    results = doctest.testfile(str(Path(__file__).parents[2] / "docs" / "python.md"), module_relative=False)
    assert results.attempted > 20
    assert results.failed == 0
    for found in (fastlb.balancer.Balancer, fastlb.balancer.Ring):
        runner = doctest.DocTestRunner()
        for test in doctest.DocTestFinder().find(found, found.__name__, globs={found.__name__: found}):
            runner.run(test)
        assert runner.summarize().attempted > 1
        assert runner.summarize().failed == 0
