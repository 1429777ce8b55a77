"""fastlb/data_plane/route_table.pyx, on images of the real writer. The oracle is in tests/property/test_route_table.py."""

import pytest

from tests.support._probe import Plane
from tests.support.images import Writer, load


def make_plane(*routes: tuple[str, str]) -> Plane:
    """Each route leads to a pool of its own, numbered from 0."""
    writer = Writer()
    for host, path in routes:
        writer.add_route(host=host, path_prefix=path, pool=writer.pool(f"{host}{path}"))
    return writer.plane()


def test_longest_prefix_wins_whatever_the_order() -> None:
    routes = [("", "/"), ("", "/api/"), ("", "/api/v2/"), ("", "/a")]
    for order in (routes, routes[::-1]):
        plane = make_plane(*order)
        assert order[plane.find_route(b"x", b"/api/v2/z")] == ("", "/api/v2/")
        assert order[plane.find_route(b"x", b"/api/v1")] == ("", "/api/")
        assert order[plane.find_route(b"x", b"/api")] == ("", "/a")
        assert order[plane.find_route(b"x", b"/b")] == ("", "/")


def test_prefix_is_compared_byte_by_byte() -> None:
    plane = make_plane(("", "/Api/"))
    assert plane.find_route(b"x", b"/Api/") == 0
    assert plane.find_route(b"x", b"/api/") is None
    assert plane.find_route(b"x", b"/Api") is None


def test_exact_host_wins_over_wildcard_over_any() -> None:
    plane = make_plane(("", "/"), ("*.example.com", "/"), ("www.example.com", "/"))
    assert plane.find_route(b"www.example.com", b"/") == 2
    assert plane.find_route(b"shop.example.com", b"/") == 1
    assert plane.find_route(b"example.com", b"/") == 0
    assert plane.find_route(b"", b"/") == 0


def test_longest_wildcard_wins() -> None:
    plane = make_plane(("*.com", "/"), ("*.example.com", "/"), ("*.shop.example.com", "/"))
    assert plane.find_route(b"a.shop.example.com", b"/") == 2
    assert plane.find_route(b"a.b.shop.example.com", b"/") == 2
    assert plane.find_route(b"shop.example.com", b"/") == 1
    assert plane.find_route(b"example.com", b"/") == 0
    assert plane.find_route(b"com", b"/") is None
    assert plane.find_route(b".example.com", b"/") == 0  # not a longer name than ".example.com"
    assert plane.find_route(b"badexample.com", b"/") == 0


def test_host_without_a_matching_path_leaves_the_request_to_the_less_specific() -> None:
    plane = make_plane(("a.example.com", "/only/"), ("*.example.com", "/wild/"), ("", "/any/"))
    assert plane.find_route(b"a.example.com", b"/only/x") == 0
    assert plane.find_route(b"a.example.com", b"/wild/x") == 1
    assert plane.find_route(b"a.example.com", b"/any/x") == 2
    assert plane.find_route(b"a.example.com", b"/") is None


@pytest.mark.parametrize(
    "host", [b"example.com", b"EXAMPLE.com", b"example.com:80", b"example.com:", b"example.com.", b"Example.Com.:8080"]
)
def test_case_port_and_final_dot_make_no_difference(host: bytes) -> None:
    assert make_plane(("Example.com", "/")).find_route(host, b"/") == 0


@pytest.mark.parametrize("host", [b"example.com..", b"xexample.com", b"example.co", b"example.comm", b"", b".", b":80", b"[example.com]"])
def test_other_hosts_do_not_match(host: bytes) -> None:
    assert make_plane(("example.com", "/")).find_route(host, b"/") is None


@pytest.mark.parametrize("host", [b"[2001:DB8::1]", b"[2001:db8::1]:8080"])
def test_ipv6_host_is_matched_with_its_brackets(host: bytes) -> None:
    assert make_plane(("[2001:db8::1]", "/")).find_route(host, b"/") == 0


@pytest.mark.parametrize("host", [b"[", b"[::1", b"[2001:db8::1", b"2001:db8::1"])
def test_broken_ipv6_host_matches_nothing(host: bytes) -> None:
    assert make_plane(("[2001:db8::1]", "/")).find_route(host, b"/") is None


@pytest.mark.parametrize("host", [b"a" * 254, b"a" * 255, b"a" * 256, b"a" * 5000, b"[" + b"1" * 5000, b"." * 300, b"a." * 200])
def test_host_of_any_length_is_looked_up(host: bytes) -> None:
    assert make_plane(("", "/"), ("*.example.com", "/"), ("b", "/")).find_route(host, b"/") == 0


def test_longest_name_can_be_routed() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    assert make_plane(("", "/"), (name, "/")).find_route(name.encode(), b"/") == 1


def test_star_is_any_host() -> None:
    assert make_plane(("*", "/")).find_route(b"whatever", b"/") == 0


def test_no_routes_lead_nowhere() -> None:
    writer = Writer()
    writer.pool()
    assert load(writer.image()).find_route(b"x", b"/") is None


def test_hundreds_of_hosts_are_told_apart() -> None:
    # Many collisions in the open-addressing table.
    hosts = [f"h{number}.example.com" for number in range(500)] + [f"*.w{number}.example.com" for number in range(100)]
    plane = make_plane(*((host, "/") for host in hosts))
    for number, host in enumerate(hosts):
        assert plane.find_route(host.replace("*", "x").encode(), b"/") == number
    assert plane.find_route(b"h500.example.com", b"/") is None


def test_international_name_is_routed_by_its_ascii_form() -> None:
    assert make_plane(("bücher.example", "/")).find_route(b"xn--bcher-kva.example", b"/") == 0


def test_first_of_two_equal_routes_wins() -> None:
    assert make_plane(("a", "/x"), ("a", "/x")).find_route(b"a", b"/x") == 0
