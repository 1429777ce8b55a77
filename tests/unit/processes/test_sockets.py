"""Listening sockets: options, errors that say what to do, and what stays over a change."""

import contextlib
import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Listener
from fastlb.processes import sockets
from fastlb.processes.sockets import NOBODY, BindError, BoundAddress, adopt_sockets, bind_listeners, take_over

Bound = list[tuple[int, BoundAddress]]


def listeners(*binds: str, backlog: int = 7) -> tuple[Listener, ...]:
    """One listener for each address."""
    text = "".join(
        f'[[listeners]]\nname = "l{n}"\nbind = "{bind}"\nbacklog = {backlog}\ndefer_accept = false\n' for n, bind in enumerate(binds)
    )
    return load_text(text + '[pools.p]\nbackends = "127.0.0.1:1"\n', "f").config.listeners


@pytest.fixture
def opened() -> Iterator[list[Bound]]:
    """Whatever a test puts here is closed in the end."""
    everything: list[Bound] = []
    yield everything
    for bound in everything:
        for _, address in bound:
            address.close()


def port_of(bound: Bound) -> int:
    return int(bound[0][1].sockets[0].socket.getsockname()[1])


def test_a_tcp_socket_listens_with_the_options_that_the_engine_expects(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0", "[::1]:0")))
    (four,), (six,) = (address.sockets for _, address in opened[0])
    for one in (four, six):
        bound = one.socket
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not bound.getblocking()
        assert not bound.get_inheritable()
    assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert [address.urls() for _, address in opened[0]] == [
        [f"http://127.0.0.1:{four.socket.getsockname()[1]}"],
        [f"http://[::1]:{six.socket.getsockname()[1]}"],
    ]


def test_an_empty_host_is_every_address_with_one_port_for_both_families(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners(":0")))
    (_, bound) = opened[0][0]
    assert {one.socket.family for one in bound.sockets} == {socket.AF_INET, socket.AF_INET6}
    assert len({one.socket.getsockname()[1] for one in bound.sockets}) == 1


def test_where_the_kernel_has_no_ipv6_an_empty_host_is_ipv4(opened: list[Bound], monkeypatch: pytest.MonkeyPatch) -> None:
    bind_tcp = sockets._bind_tcp

    def without_ipv6(family: int, *others: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return bind_tcp(family, *others)

    monkeypatch.setattr(sockets, "_bind_tcp", without_ipv6)
    opened.append(bind_listeners(listeners(":0")))
    assert [one.socket.family for one in opened[0][0][1].sockets] == [socket.AF_INET]
    with pytest.raises(BindError, match="this kernel has no IPv6"):
        bind_listeners(listeners("[::1]:0"))


def test_an_address_in_use_says_so_and_what_to_do(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0")))
    port = port_of(opened[0])
    with pytest.raises(BindError) as caught:
        bind_listeners(listeners(f"127.0.0.1:{port}"))
    assert str(caught.value).startswith(f'cannot bind 127.0.0.1:{port} (listener "l0"): address already in use; stop the process')


def test_every_address_that_cannot_be_bound_is_named_and_none_stays_open(opened: list[Bound], tmp_path: Path) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0")))
    port = port_of(opened[0])
    good, absent, taken = tmp_path / "good", tmp_path / "absent" / "x", tmp_path / "file"
    taken.write_text("not a socket")
    with pytest.raises(BindError) as caught:
        bind_listeners(listeners(f"127.0.0.1:{port}", f"unix:{good}", "192.0.2.1:0", f"unix:{absent}", f"unix:{taken}"))
    reasons = [line.partition("): ")[2].partition(";")[0] for line in str(caught.value).splitlines()]
    assert reasons == [
        "address already in use",
        "cannot assign requested address",
        "no such file or directory",
        "exists and is not a socket",
    ]
    assert not good.exists()
    assert taken.read_text() == "not a socket"


def test_a_unix_socket_is_a_file_that_goes_away_with_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ((_, bound),) = bind_listeners(listeners(f"unix:{path}"))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert bound.urls() == [f"unix:{path}"]
    bound.close()
    assert not path.exists()
    bound.close()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(opened: list[Bound], tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    opened.append(bind_listeners(listeners(f"unix:{path}")))
    with pytest.raises(BindError, match="address already in use; stop the process that accepts there"):
        bind_listeners(listeners(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_unix_socket_that_somebody_else_put_there_since_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ((_, bound),) = bind_listeners(listeners(f"unix:{path}"))
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        bound.close()
        assert path.exists()


def test_addresses_that_stay_keep_their_sockets_and_the_rest_is_opened(opened: list[Bound], tmp_path: Path) -> None:
    before = bind_listeners(listeners("127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path}/a"))
    opened.append(before)
    after = bind_listeners(listeners(f"unix:{tmp_path}/a", "127.0.0.1:0", f"unix:{tmp_path}/b", backlog=9), [bound for _, bound in before])
    opened.append(after)
    assert after[0][1] is before[2][1]
    assert after[1][1] is before[0][1]
    assert [index for index, _ in after] == [0, 1, 2]
    assert not {id(bound) for _, bound in before} & {id(after[2][1])}


def test_a_wider_address_of_our_own_in_the_way_is_named(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0")))
    port = port_of(opened[0])
    opened[0][0][1].close()
    opened.append(bind_listeners(listeners(f":{port}")))
    with pytest.raises(BindError, match=f"this process listens on :{port}, which includes it: restart"):
        bind_listeners(listeners(f"127.0.0.1:{port}"), [bound for _, bound in opened[1]])


def test_what_was_kept_survives_a_change_that_fails(opened: list[Bound]) -> None:
    before = bind_listeners(listeners("127.0.0.1:0"))
    opened.append(before)
    with pytest.raises(BindError):
        bind_listeners(listeners("127.0.0.1:0", "192.0.2.1:0"), [bound for _, bound in before])
    with socket.create_connection(("127.0.0.1", port_of(before)), 5):
        pass


# ---------------------------------------------------------------------------------------------------------- several workers
def homes(bound: BoundAddress) -> list[int | None]:
    return [one.home for one in bound.sockets]


def test_each_worker_has_a_socket_of_its_own_at_the_same_address(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0", ":0"), homes=range(3)))
    (_, one), (_, all_addresses) = opened[0]
    assert homes(one) == [0, 1, 2]
    assert sorted(homes(all_addresses), key=str) == [0, 0, 1, 1, 2, 2]
    assert len(one.urls()) == 1
    assert len({bound.socket.getsockname()[1] for bound in all_addresses.sockets}) == 1
    assert len({bound.number for _, address in opened[0] for bound in address.sockets}) == 9


def test_connections_are_spread_over_the_sockets_of_an_address(opened: list[Bound]) -> None:
    opened.append(bind_listeners(listeners("127.0.0.1:0", backlog=200), homes=range(2)))
    clients = [socket.create_connection(("127.0.0.1", port_of(opened[0])), 5) for _ in range(100)]
    counts = []
    for one in opened[0][0][1].sockets:
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
    for client in clients:
        client.send(b"x")
    for one in opened[0][0][1].sockets:
        n = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                one.socket.accept()[0].close()
                n += 1
        counts.append(n)
    for client in clients:
        client.close()
    assert sum(counts) == 100
    assert min(counts) > 10  # by chance less than once in 10^17 times


def test_more_workers_get_sockets_beside_those_there_are_and_fewer_keep_them(opened: list[Bound]) -> None:
    before = bind_listeners(listeners("127.0.0.1:0"), homes=range(2))
    opened.append(before)
    first = list(before[0][1].sockets)
    more = bind_listeners(listeners("127.0.0.1:0"), [bound for _, bound in before], homes=range(4))
    assert more[0][1] is before[0][1]
    assert homes(more[0][1]) == [0, 1, 2, 3]
    assert more[0][1].sockets[:2] == first
    fewer = bind_listeners(listeners("127.0.0.1:0"), [bound for _, bound in more], homes=range(1))
    assert homes(fewer[0][1]) == [0, 1, 2, 3]


def test_sockets_that_were_added_go_again_when_another_address_cannot_be_bound(opened: list[Bound]) -> None:
    before = bind_listeners(listeners("127.0.0.1:0"), homes=range(1))
    opened.append(before)
    with pytest.raises(BindError):
        bind_listeners(listeners("127.0.0.1:0", "192.0.2.1:0"), [bound for _, bound in before], homes=range(3))
    assert homes(before[0][1]) == [0]
    again = bind_listeners(listeners("127.0.0.1:0"), [bound for _, bound in before], homes=range(3))
    assert homes(again[0][1]) == [0, 1, 2]


def test_a_unix_socket_is_shared_by_all_workers(opened: list[Bound], tmp_path: Path) -> None:
    opened.append(bind_listeners(listeners(f"unix:{tmp_path}/s"), homes=range(4)))
    assert homes(opened[0][0][1]) == [None]


def test_what_the_service_manager_opened_is_shared_and_outlives_its_listener(opened: list[Bound]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        (listener,) = listeners(f"127.0.0.1:{inherited.getsockname()[1]}")
        adopted = adopt_sockets(listener.bind[0], [inherited], 0)
        ((_, bound),) = bind_listeners([listener], [adopted], homes=range(4))
        assert bound is adopted
        assert homes(bound) == [None]
        bound.close()
        assert inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_sockets_of_the_fastlb_before_get_homes_and_what_is_missing_is_bound_beside_them(opened):
    before = bind_listeners(listeners(":0"), homes=range(2))
    port = before[0][1].sockets[0].socket.getsockname()[1]
    (wanted,) = listeners(f":{port}")
    taken = take_over(wanted.bind[0], [one.socket for one in before[0][1].sockets], [4, 5, 7])
    assert taken.inherited
    opened.append(bind_listeners([wanted], [taken], homes=[4, 5, 7]))
    homes = sorted((one.socket.family.name, one.home) for one in taken.sockets)
    assert homes == [(family, home) for family in sorted({name for name, _ in homes}) for home in (4, 5, 7)]
    assert {one.socket.getsockname()[1] for one in taken.sockets} == {port}
    taken.inherited = False


def test_what_was_bound_beside_the_sockets_of_the_fastlb_before_goes_when_they_are_left_to_it(opened):
    before = bind_listeners(listeners("127.0.0.1:0"), homes=range(2))
    opened.append(before)
    sockets = [one.socket for one in before[0][1].sockets]
    (wanted,) = listeners(f"127.0.0.1:{sockets[0].getsockname()[1]}")
    taken = take_over(wanted.bind[0], sockets, [4, 5, 7])
    bind_listeners([wanted], [taken], homes=[4, 5, 7])
    taken.close()
    assert [one.socket.fileno() >= 0 for one in taken.sockets] == [True, True, False], "nobody would accept from the third"


def test_sockets_beyond_the_number_of_workers_are_nobodys_and_stay_open(opened):
    before = bind_listeners(listeners("127.0.0.1:0"), homes=range(3))
    bound = before[0][1]
    taken = take_over(bound.address, [one.socket for one in bound.sockets], [6])
    assert [one.home for one in taken.sockets] == [6, NOBODY, NOBODY]
    taken.close()
    assert all(one.socket.fileno() >= 0 for one in taken.sockets), "the other fastlb may still accept there"
    opened.append(before)


def test_unix_socket_of_the_fastlb_before_is_shared_and_its_file_goes_with_the_last(tmp_path):
    before = bind_listeners(listeners(f"unix:{tmp_path}/s"))
    bound = before[0][1]
    taken = take_over(bound.address, [bound.sockets[0].socket], [0, 1])
    assert taken.sockets[0].home is None
    taken.close()
    assert (tmp_path / "s").exists()
    taken.inherited = False
    taken.close()
    assert not (tmp_path / "s").exists()
