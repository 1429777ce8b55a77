"""What a sticky pool costs a request: the look for where its client belongs, in a head of a browser's usual fields and cookies.

The loop runs inside the compiled probe, ROUNDS looks a call: the figure is for all of them.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")
images = pytest.importorskip("tests.support.images")

ROUNDS = 1000
HEAD = (
    "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n"
    f"Cookie: theme=dark; session=0123456789abcdef; ID={2:022d}; consent=1\r\n\r\n"
).encode()


@pytest.mark.parametrize("backends", [3, 1000])
@pytest.mark.parametrize("way", ["cookie", "learn", "source"])
def test_where_a_client_belongs(benchmark: BenchmarkFixture, way: str, backends: int) -> None:
    benchmark.group = f"{ROUNDS} looks, {backends} backends"
    writer = images.Writer()
    pool = writer.pool()
    if way == "cookie":
        writer.set_sticky_cookie(pool, name="ID", attributes="")
    else:
        writer.set_sticky_table(pool, learn="ID" if way == "learn" else "", size=1 << 17, expires_ms=60_000)
    for number in range(backends):
        writer.backend(pool, 1000 + number, cookie=f"{number:022d}" if way == "cookie" else "")
    writer.add_route(host="", path_prefix="/", pool=pool)
    tester = probe.StickyTester(writer.plane())
    assert tester.begin(HEAD)[0] == (2 if way == "cookie" else None)
    benchmark(tester.begin_many, HEAD, ROUNDS)
