"""Names asked of DNS servers, of /etc/hosts and of the system: what counts, for how long, and what goes wrong."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane import resolver
from fastlb.control_plane.resolver import Answer, Endpoint, LookupFailure, Resolver, parse_hosts
from tests.support.name_server import NameServer, closed_port


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_has_route", lambda family, address: True)


def ask(question: str, *ports: int, **files: Any) -> Answer:
    async def main() -> Answer:
        made = Resolver([("127.0.0.1", port) for port in ports], **files)
        try:
            return await made.resolve(question)
        finally:
            made.close()

    return asyncio.run(main())


def endpoints(*ips: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip) for ip in ips)


# ---------------------------------------------------------------------------------------------------------------- addresses
def test_both_ip_versions_are_asked_for_and_ipv4_comes_first(server: NameServer) -> None:
    server.records = {("app.example.", "A"): ["10.0.0.10", "10.0.0.9"], ("app.example.", "AAAA"): ["2001:db8::1"]}
    server.ttl = 77
    assert ask("app.example", server.port) == Answer(endpoints("10.0.0.9", "10.0.0.10", "2001:db8::1"), 77)
    assert sorted(server.asked) == [("app.example.", "A"), ("app.example.", "AAAA")]


def test_an_ip_version_without_a_route_is_not_asked_for(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_has_route", lambda family, address: "." in address)
    server.records = {("app.example.", "A"): ["10.0.0.1"]}
    ask("app.example", server.port)
    assert server.asked == [("app.example.", "A")]


def test_without_any_route_both_are_asked_for(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_has_route", lambda family, address: False)
    server.records = {("app.example.", "A"): ["127.0.0.1"]}
    assert ask("app.example", server.port).endpoints == endpoints("127.0.0.1")
    assert len(server.asked) == 2


def test_aliases_are_followed_and_the_shortest_life_counts(server: NameServer) -> None:
    server.records = {("www.example.", "CNAME"): ["app.example."], ("app.example.", "A"): ["10.0.0.1"]}
    server.ttl = 30
    assert ask("www.example", server.port) == Answer(endpoints("10.0.0.1"), 30)


def test_a_name_that_does_not_exist_is_a_failure(server: NameServer) -> None:
    with pytest.raises(LookupFailure, match=r"^there is no such name$"):
        ask("lost.example", server.port)


def test_a_name_without_addresses_is_a_failure(server: NameServer) -> None:
    server.records = {("app.example.", "TXT"): ["x"]}
    with pytest.raises(LookupFailure, match=r"^the name has no addresses$"):
        ask("app.example", server.port)


def test_a_server_that_refuses_is_named_by_what_it_says(server: NameServer) -> None:
    server.rcodes = {"app.example.": "SERVFAIL"}
    with pytest.raises(LookupFailure, match=r"^the name server answers SERVFAIL$"):
        ask("app.example", server.port)


def test_one_ip_version_alone_is_an_answer_that_says_what_is_missing(server: NameServer) -> None:
    server.records = {("app.example.", "A"): ["10.0.0.1"]}
    server.rcodes = {("app.example.", "AAAA"): "SERVFAIL"}
    assert ask("app.example", server.port) == Answer(endpoints("10.0.0.1"), 60, frozenset({6}))


def test_the_next_server_is_asked_where_one_fails(server: NameServer) -> None:
    server.records = {("app.example.", "A"): ["10.0.0.1"]}
    refusing = NameServer(rcodes={"app.example.": "REFUSED"})
    try:
        assert ask("app.example", refusing.port, server.port).endpoints == endpoints("10.0.0.1")
    finally:
        refusing.close()


def test_a_server_that_never_answers_costs_the_time_that_a_question_has(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.1)
    server.silent = {"app.example."}
    with pytest.raises(LookupFailure, match=r"no name server answered within 0\.1 s"):
        ask("app.example", server.port)


def test_nobody_at_the_port_of_a_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.2)
    with pytest.raises(LookupFailure):
        ask("app.example", closed_port())


def test_what_does_not_fit_a_datagram_is_asked_for_again_over_tcp(server: NameServer) -> None:
    many = [f"10.0.{number // 250}.{number % 250}" for number in range(900)]
    server.records = {("app.example.", "A"): many}
    server.truncated = True
    assert len(ask("app.example", server.port).endpoints) == 900


def test_more_addresses_than_a_name_may_have_are_cut(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_ENDPOINTS", 3)
    server.records = {("app.example.", "A"): [f"10.0.0.{number}" for number in range(10)]}
    assert len(ask("app.example", server.port).endpoints) == 3


@pytest.mark.parametrize("raw", [b"x", b"\0" * 11, b"\0" * 12, b"\xff" * 512], ids=["one byte", "short", "zeroes", "ones"])
def test_garbage_is_no_answer(server: NameServer, raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.2)
    server.raw = raw
    with pytest.raises(LookupFailure):
        ask("app.example", server.port)


# ---------------------------------------------------------------------------------------------------------------- services
def test_a_service_says_ports_weights_and_priorities(server: NameServer) -> None:
    server.records = {
        ("_http._tcp.app.example.", "SRV"): ["10 60 8080 a.example.", "10 20 8081 a.example.", "20 0 80 b.example."],
        ("a.example.", "A"): ["10.0.0.1"],
        ("b.example.", "A"): ["10.0.0.3", "10.0.0.2"],
    }
    assert ask("srv:_http._tcp.app.example", server.port).endpoints == (
        Endpoint("10.0.0.1", 8080, 60, 10),
        Endpoint("10.0.0.1", 8081, 20, 10),
        Endpoint("10.0.0.2", 80, 0, 20),
        Endpoint("10.0.0.3", 80, 0, 20),
    )


def test_a_service_of_which_a_part_is_unknown_is_a_failure(server: NameServer) -> None:
    server.records = {("_x._tcp.e.", "SRV"): ["0 0 80 a.example.", "0 0 80 b.example."], ("a.example.", "A"): ["10.0.0.1"]}
    with pytest.raises(LookupFailure, match=r"^b\.example: there is no such name$"):
        ask("srv:_x._tcp.e", server.port)


def test_a_service_that_is_decidedly_not_there_is_a_failure(server: NameServer) -> None:
    server.records = {("_x._tcp.e.", "SRV"): ["0 0 0 ."]}
    with pytest.raises(LookupFailure, match="decidedly not available"):
        ask("srv:_x._tcp.e", server.port)


def test_a_name_that_has_addresses_and_no_services_is_said_to_have_none(server: NameServer) -> None:
    server.records = {("app.example.", "A"): ["10.0.0.1"]}
    with pytest.raises(LookupFailure, match="no services"):
        ask("srv:app.example", server.port)


# ---------------------------------------------------------------------------------------------------------------- the system
def conf(tmp_path: Path, text: str) -> str:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    return str(path)


def hosts_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "hosts"
    path.write_text(text)
    return str(path)


def test_the_hosts_file_comes_first_and_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = hosts_file(tmp_path, "10.0.0.1 App.Example  # not this: other\n::1 app.example\nnonsense app.example\n10.0.0.2 other\n")

    async def main() -> None:
        made = Resolver(hosts=path, resolv_conf=conf(tmp_path, ""))
        assert (await made.resolve("app.example")).endpoints == endpoints("10.0.0.1", "::1")
        hosts_file(tmp_path, "10.0.0.77 app.example\n")
        assert (await made.resolve("app.example")).endpoints == endpoints("10.0.0.77")
        made.close()

    asyncio.run(main())


def test_lines_of_a_hosts_file_that_are_none_are_left_out() -> None:
    assert parse_hosts("\n# x\n10.0.0.1\n10.0.0.300 a\nfe80::1%eth0 a\n\t10.0.0.2\ta\tb \n") == {"a": ["10.0.0.2"], "b": ["10.0.0.2"]}


def test_what_dns_does_not_know_the_system_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.2)
    monkeypatch.setattr(resolver, "get_addresses", lambda name: ["10.0.0.5", "10.0.0.4"])
    files = {"hosts": hosts_file(tmp_path, ""), "resolv_conf": conf(tmp_path, "nameserver 127.0.0.1\noptions timeout:1\n")}
    monkeypatch.setattr(Resolver, "_find_addresses", fail)
    assert ask("printer.local", **files).endpoints == endpoints("10.0.0.4", "10.0.0.5")


def test_the_failure_of_dns_is_told_where_the_system_has_no_answer_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(resolver, "get_addresses", unknown)
    monkeypatch.setattr(Resolver, "_find_addresses", fail)
    with pytest.raises(LookupFailure, match=r"^nothing there$"):
        ask("lost.example", hosts=hosts_file(tmp_path, ""), resolv_conf=conf(tmp_path, ""))


async def fail(self: Resolver, name: str) -> Answer:
    raise LookupFailure("nothing there")


def test_a_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = conf(tmp_path, "nameserver 127.0.0.1\n")
    made = Resolver(hosts=hosts_file(tmp_path, ""), resolv_conf=path)
    first = made._current_dns()
    assert made._current_dns() is first
    conf(tmp_path, "nameserver 127.0.0.53\nsearch example\n")
    assert [str(one) for one in made._current_dns().nameservers] == ["127.0.0.53"]


def test_a_missing_resolv_conf_means_the_server_on_this_machine(tmp_path: Path) -> None:
    made = Resolver(resolv_conf=str(tmp_path / "nothing"))
    assert made._current_dns().nameservers == ["127.0.0.1"]


def test_addresses_of_the_system_without_those_that_need_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*ips: str) -> None:
        monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])

    answer("::2", "10.0.0.9", "10.0.0.9", "fe80::1%eth0")
    assert sorted(resolver.get_addresses("x")) == ["10.0.0.9", "::2"]
    answer("fe80::1%eth0")
    with pytest.raises(OSError, match="link-local"):
        resolver.get_addresses("x")


def test_a_target_is_a_name_whatever_it_looks_like(server: NameServer) -> None:
    server.records = {("_x._tcp.e.", "SRV"): ["0 0 80 srv:_x._tcp.e."]}
    with pytest.raises(LookupFailure, match="there is no such name"):
        ask("srv:_x._tcp.e", server.port)
    assert [kind for _, kind in server.asked].count("SRV") == 1


def test_a_service_of_too_many_targets_is_a_failure(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_TARGETS", 2)
    server.records = {("_x._tcp.e.", "SRV"): [f"0 0 80 {number}.e." for number in range(3)]}
    with pytest.raises(LookupFailure, match="3 targets; at most 2"):
        ask("srv:_x._tcp.e", server.port)
    assert len(server.asked) == 1


def test_a_service_whose_targets_take_too_long_is_a_failure(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "SERVICE_SECONDS", 0.2)
    server.records = {("_x._tcp.e.", "SRV"): ["0 0 80 a.example."]}
    server.silent = {"a.example."}
    with pytest.raises(LookupFailure, match=r"not resolved within 0\.2 s"):
        ask("srv:_x._tcp.e", server.port)


def test_an_ip_version_that_a_target_lacks_an_answer_for_is_missing_from_the_service(server: NameServer) -> None:
    server.records = {("_x._tcp.e.", "SRV"): ["0 0 80 a.example."], ("a.example.", "A"): ["10.0.0.1"]}
    server.rcodes = {("a.example.", "AAAA"): "SERVFAIL"}
    assert ask("srv:_x._tcp.e", server.port).missing == frozenset({6})
