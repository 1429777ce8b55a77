"""Regular expressions: what usual ones cost, beside Python's `re`, and how long hostile ones go on until a limit ends them."""

import re

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

ROUNDS = 1000  # of a usual one, inside the compiled probe; of a hostile one a single one

USUAL = {
    "prefix": (rb"^/api/v(\d+)/(.*)$", b"/api/v2/users/1234/orders"),
    "suffix": (rb"\.(gif|jpg|png)$", b"/static/img/products/2024/shoes-1234.v2.jpg"),
    "no suffix": (rb"\.(gif|jpg|png)$", b"/static/img/products/2024/shoes-1234/reviews"),
    "cookie": (rb"(?:^|; )session=([^;]+)", b"theme=dark; lang=en; _ga=GA1.2.12345; session=abcdef0123456789; x=1"),
    "agent": (
        rb"(?i)(bot|crawler|spider)",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    ),
}
HOSTILE = [
    rb"(a+)+$",
    rb"(a|aa)+$",
    rb"^(.*)*[xy]",
    rb".*.*[xy]z",
    rb"^.*.*[xy]z",
    rb"(?=.*[xy]z)",
    rb"^(?=(?=(?=a*)*a*)*a*)*a*a*a*[xz]",
    rb"^a*(?=[^y]*+[xz])",
    rb"^a*?(?=(?>a*)[xz])",
    rb"^(a)\1*(?=\1*+[xz])",
    rb"^(?:(?=(?:(?=(?:a|b)*+)a)*+)a)*+[xz]",
    rb"(?:a{50}b|a{50}c|a{50}d)",
    rb"^(?:a?){300}[xz]",
    rb"[a-z]+[0-9]",
    b"^(?:" + b"|".join(b"ab%c" % (97 + n % 26) for n in range(500)) + b"|a)*[xz]",
]


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("interpreted", [False, True], ids=["machine_code", "interpreted"])
def test_usual(benchmark: BenchmarkFixture, name: str, interpreted: bool) -> None:
    benchmark.group = f"{name}, {ROUNDS} matches"
    pattern, subject = USUAL[name]
    regex = probe.Regex(pattern, interpreted=interpreted)
    assert benchmark(regex.match_repeatedly, subject, ROUNDS) in ("match", "no match")


@pytest.mark.parametrize("name", USUAL)
def test_usual_naive(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark.group = f"{name}, {ROUNDS} matches"
    pattern, subject = USUAL[name]
    search = re.compile(pattern).search

    def match() -> None:
        for _ in range(ROUNDS):
            search(subject)

    benchmark(match)


@pytest.mark.parametrize("size", [64, 1024, 8192])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("interpreted", [False, True], ids=["machine_code", "interpreted"])
def test_hostile(benchmark: BenchmarkFixture, number: int, size: int, interpreted: bool) -> None:
    benchmark.group = f"{HOSTILE[number][:40].decode()}, a subject of {size} bytes"
    regex = probe.Regex(HOSTILE[number], interpreted=interpreted)
    benchmark.pedantic(regex.match_repeatedly, args=(b"a" * (size - 4) + b"!zxy", 1), rounds=50)
