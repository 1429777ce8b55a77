"""Words to the service manager, and sockets from it: over real sockets, without systemd."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlb.control_plane.config.address import parse_bind_address
from fastlb.processes.sockets import bind_address
from fastlb.processes.systemd import InheritedSocket, hand_over, inherited_sockets, match, notify, watchdog_interval


# ---------------------------------------------------------------------------------------------------------- notify
@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(60)
        receiver.bind(f"{tmp_path}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        yield receiver


def test_the_service_manager_is_told(manager: socket.socket) -> None:
    assert notify("READY=1", "STATUS=serving on 2 addresses")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving on 2 addresses"
    assert notify("STATUS=one\ntwo – three")
    assert manager.recv(1000).decode() == "STATUS=one two – three"


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(60)
        receiver.bind("")  # the kernel chooses an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + receiver.getsockname()[1:].decode())
        assert notify("WATCHDOG=1")
        assert receiver.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("path", ["", "relative", "vsock:2:1234", "/nonexistent/notify", "@fastlb-nobody-listens"])
def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")


def test_a_manager_that_does_not_read_stops_nobody(manager: socket.socket) -> None:
    sent = 0
    while notify("WATCHDOG=1") and sent < 10_000:
        sent += 1
    assert 0 < sent < 10_000
    assert manager.recv(100) == b"WATCHDOG=1"
    assert notify("WATCHDOG=1")


# ---------------------------------------------------------------------------------------------------------- watchdog
@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("10000000", None, 5.0),
        ("3000", None, 0.0015),
        ("10000000", "own", 5.0),
        ("10000000", "1", None),
        ("10000000", "x", None),
        ("0", None, None),
        ("-5", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_answered_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == interval


# ---------------------------------------------------------------------------------------------------------- inheriting
INHERIT = """
import json, os, sys
from fastlb.processes.sockets import bind_address
from fastlb.processes.systemd import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
inherited, warnings = inherited_sockets()
json.dump([[str(one) for one in inherited], warnings,
           [os.get_inheritable(one.socket.fileno()) or one.socket.getblocking() for one in inherited],
           [name for name in os.environ if name.startswith("LISTEN_")]], sys.stdout)
"""


def start_with(descriptors: list[int], names: str | None, count: int, pid_off_by: int = 0) -> list[list[str]]:
    """What a process makes of these descriptors as its 3, 4, …"""

    def place() -> None:
        kept = [os.dup(descriptor) for descriptor in descriptors]
        high = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate(kept)]
        for index, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + index)

    environment = {**os.environ, "LISTEN_FDS": str(count), **({} if names is None else {"LISTEN_FDNAMES": names})}
    command = [sys.executable, "-c", INHERIT, str(pid_off_by)]
    result = subprocess.run(
        command, env=environment, preexec_fn=place, pass_fds=range(3, 3 + len(descriptors)), capture_output=True, text=True, check=True
    )
    answer: list[list[str]] = json.loads(result.stdout)
    return answer


def listen(family: int, address: object, *, v6only: bool = True) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    one.bind(address)  # type: ignore[arg-type]
    one.listen(5)
    return one


def test_inherited_sockets_are_taken_over_with_their_names(tmp_path: Path) -> None:
    with listen(socket.AF_INET, ("127.0.0.1", 0)) as tcp, listen(socket.AF_UNIX, f"{tmp_path}/s") as unix:
        port = tcp.getsockname()[1]
        found, warnings, wrong, variables = start_with([tcp.fileno(), unix.fileno()], "web.socket:", 2)
    assert found == [f"127.0.0.1:{port} (web.socket)", f"unix:{tmp_path}/s"]
    assert (warnings, wrong, variables) == ([], [False, False], [])


def test_what_cannot_be_listened_on_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    bound = socket.socket()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    with bound, datagrams, netlink, (tmp_path / "file").open("w") as file, listen(socket.AF_INET, ("127.0.0.1", 0)) as good:
        bound.bind(("127.0.0.1", 0))
        descriptors = [one.fileno() for one in (bound, datagrams, netlink, file, good)]
        found, warnings, _, _ = start_with(descriptors, "a:b:c", 1_000_000)
        assert found == [f"127.0.0.1:{good.getsockname()[1]}"]
    assert warnings == [
        "the inherited descriptor 3 (a) is not used: it does not listen (in a socket unit: Accept=no)",
        "the inherited descriptor 4 (b) is not used: it is not bound",
        "the inherited descriptor 5 (c) is not used: it is of an address family that listeners do not know",
        "the inherited descriptor 6 (without a name) is not used: it is not a socket",
        "LISTEN_FDS=1000000 is not true of the descriptor 8 (without a name): bad file descriptor",
    ]


def test_udp_sockets_are_taken_over_and_others_of_datagrams_are_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        udp.bind(("127.0.0.1", 0))
        local.bind(f"{tmp_path}/s")
        found, warnings, _, _ = start_with([udp.fileno(), local.fileno()], None, 2)
        assert found == [f"127.0.0.1:{udp.getsockname()[1]}"]
    (warning,) = warnings
    assert "neither a stream socket nor one for UDP" in warning


def test_sockets_for_another_process_are_left_alone() -> None:
    with listen(socket.AF_INET, ("127.0.0.1", 0)) as tcp:
        assert start_with([tcp.fileno()], None, 1, pid_off_by=1) == [[], [], [], []]


@pytest.mark.parametrize(("pid", "count"), [("", "1"), ("x", "1"), ("own", ""), ("own", "x"), ("own", "0"), ("own", "-1")])
def test_variables_that_say_nothing_give_nothing(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "own" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    assert inherited_sockets() == ([], [])
    assert "LISTEN_FDS" not in os.environ


# ---------------------------------------------------------------------------------------------------------- matching
@pytest.fixture
def take() -> Iterator[Callable[..., InheritedSocket]]:
    """A listening socket as if it had been inherited."""
    taken: list[socket.socket] = []

    def listening(family: int, address: object, name: str = "", *, v6only: bool = True) -> InheritedSocket:
        taken.append(listen(family, address, v6only=v6only))
        return InheritedSocket(taken[-1], name)

    yield listening
    for one in taken:
        one.close()


def port_of(inherited: InheritedSocket) -> int:
    port: int = inherited.socket.getsockname()[1]
    return port


def test_a_socket_serves_its_address_and_no_other(take: Callable[..., InheritedSocket]) -> None:
    v4 = take(socket.AF_INET, ("127.0.0.1", 0))
    v6 = take(socket.AF_INET6, ("::1", 0))
    both, port = [v4, v6], port_of(v4)
    assert match(both, parse_bind_address(f"127.0.0.1:{port}")) == [v4.socket]
    assert match(both, parse_bind_address(f"[0:0::0:1]:{port_of(v6)}")) == [v6.socket]
    for other in (f"127.0.0.2:{port}", f"127.0.0.1:{port - 1}", "127.0.0.1:0", f":{port}", f"0.0.0.0:{port}", "unix:/x"):
        assert match(both, parse_bind_address(other)) == []


def test_all_sockets_of_one_address_serve_it(take: Callable[..., InheritedSocket]) -> None:
    """As ReusePort=yes makes them."""
    first = take(socket.AF_INET, ("127.0.0.1", 0))
    second = InheritedSocket(first.socket.dup(), "again")
    with second.socket:
        assert match([first, second], parse_bind_address(f"127.0.0.1:{port_of(first)}")) == [first.socket, second.socket]


def test_a_unix_socket_is_found_by_its_file(take: Callable[..., InheritedSocket], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to(tmp_path / "run")
    unix = take(socket.AF_UNIX, f"{tmp_path}/run/s")
    abstract = take(socket.AF_UNIX, f"\0{tmp_path}/run/s")
    for path in ("run/s", "var/s", "var/../run/s"):
        assert match([abstract, unix], parse_bind_address(f"unix:{tmp_path}/{path}")) == [unix.socket]
    assert match([unix], parse_bind_address(f"unix:{tmp_path}/run/other")) == []
    assert str(abstract) == f"unix:@{tmp_path}/run/s"


def test_one_socket_for_both_families_serves_every_address(take: Callable[..., InheritedSocket]) -> None:
    """What ListenStream=80 makes."""
    dual = take(socket.AF_INET6, ("::", 0), "web.socket", v6only=False)
    address = parse_bind_address(f":{port_of(dual)}")
    handover = hand_over([dual], [address])
    assert (handover.by_address, handover.warnings) == ({address: [dual.socket]}, [])


def test_two_sockets_serve_every_address_and_one_of_them_half() -> None:
    bound = bind_address(parse_bind_address(":0"), 5)
    v4, v6 = (InheritedSocket(one.socket, "") for one in bound.sockets)
    address = parse_bind_address(f":{port_of(v4)}")
    handover = hand_over([v4, v6], [address])
    assert (handover.by_address, handover.warnings) == ({address: [v4.socket, v6.socket]}, [])
    for half, given, missing in ((v4, "IPv4", "IPv6"), (v6, "IPv6", "IPv4")):
        handover = hand_over([half], [address])
        assert handover.by_address == {address: [half.socket]}
        assert handover.warnings == [f"the inherited socket for {address} is for {given} only: nobody accepts {missing} there"]
    bound.close()


def test_a_socket_that_no_listener_names_is_a_warning(take: Callable[..., InheritedSocket]) -> None:
    used, unused = take(socket.AF_INET, ("127.0.0.1", 0)), take(socket.AF_INET, ("127.0.0.1", 0), "old.socket")
    address = parse_bind_address(f"127.0.0.1:{port_of(used)}")
    handover = hand_over([used, unused], [address, parse_bind_address("unix:/x")])
    assert handover.by_address == {address: [used.socket]}
    assert handover.warnings == [
        f"no listener binds the inherited socket 127.0.0.1:{port_of(unused)} (old.socket), so nobody accepts there; "
        f"the listeners bind {address}, unix:/x"
    ]
    assert unused.socket.fileno() >= 0


def test_a_socket_for_both_families_beside_a_listener_for_one_says_what_to_write(take: Callable[..., InheritedSocket]) -> None:
    dual = take(socket.AF_INET6, ("::", 0), v6only=False)
    port = port_of(dual)
    (warning,) = hand_over([dual], [parse_bind_address(f"0.0.0.0:{port}")]).warnings
    assert warning.endswith(f'; this socket is for IPv4 and IPv6, which is written bind = ":{port}"')
    (warning,) = hand_over([dual], []).warnings
    assert warning.endswith("the listeners bind nothing")
