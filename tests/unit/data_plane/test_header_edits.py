"""fastlb/data_plane/header_edits.pyx: fields that a route sets, adds and removes."""

from __future__ import annotations

import pytest

from fastlb import _core
from tests.support._probe import Plane
from tests.support.images import Writer

REQUEST = b"GET / HTTP/1.1\r\nHost: shop\r\nA: 1\r\nX-Tag: old\r\nAccept: */*\r\nx-tag: older\r\nB: 2\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: then\r\nX-Tag: old\r\nContent-Length: 5\r\n\r\n"


def make_plane(
    request: list[_core.HeaderOperation] | None = None, response: list[_core.HeaderOperation] | None = None, *, usual: bool = False
) -> Plane:
    writer = Writer()
    writer.set_forwarded_headers(usual)
    writer.set_request_id(False)
    route = writer.route()
    if request is not None:
        writer.edit_request(route, request)
    if response is not None:
        writer.edit_response(route, response)
    return writer.plane()


def sent(*operations: _core.HeaderOperation, head: bytes = REQUEST, usual: bool = False) -> list[bytes]:
    lines: list[bytes] = make_plane(list(operations), usual=usual).write_request(head).split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    return lines[1:-2]


def answered(*operations: _core.HeaderOperation, head: bytes = RESPONSE, request: bytes = REQUEST) -> list[bytes]:
    lines: list[bytes] = make_plane(response=list(operations)).write_response(head, request=request).split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    return lines[1:-2]


def received(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: shop", *lines, b"", b""])


# ---------------------------------------------------------------------------------------------------------- what is copied
def test_fields_that_stay_are_copied_as_they_came_and_in_order() -> None:
    plane = make_plane()
    lines = [b"A:1", b"b:  2 ", b"Keep-Alive: x", b"C:\t3", b"Connection: d", b"D: 4", b"E: \xff"]
    head = plane.write_request(received(*lines))
    assert head == b"GET / HTTP/1.1\r\nHost: shop\r\nA:1\r\nb:  2 \r\nC:\t3\r\nE: \xff\r\n\r\n"


@pytest.mark.parametrize("lines", [[b"TE: x", b"A: 1"], [b"A: 1", b"TE: x"], [b"TE: x"], [b"TE: x", b"Upgrade: y"], [b"A: 1"], []])
def test_dropped_fields_leave_no_gap_wherever_they_stand(lines: list[bytes]) -> None:
    plane = make_plane()
    kept = [line for line in lines if line.startswith(b"A")]
    assert plane.write_request(received(*lines)) == received(*kept)


# ---------------------------------------------------------------------------------------------------------- requests
def test_set_takes_the_place_of_every_field_of_that_name() -> None:
    assert sent(("set", "X-Tag", [b"new"])) == [b"Host: shop", b"A: 1", b"Accept: */*", b"B: 2", b"X-Tag: new"]


def test_set_with_an_empty_value_removes() -> None:
    assert sent(("set", "X-Tag", [("header", "controls", "x-none")])) == [b"Host: shop", b"A: 1", b"Accept: */*", b"B: 2"]


def test_add_leaves_what_is_there() -> None:
    assert sent(("add", "X-Tag", [b"new"])) == [
        b"Host: shop",
        b"A: 1",
        b"X-Tag: old",
        b"Accept: */*",
        b"x-tag: older",
        b"B: 2",
        b"X-Tag: new",
    ]


@pytest.mark.parametrize("name", ["x-tag", "X-TAG", "X-Tag"])
def test_remove_knows_no_case(name: str) -> None:
    assert sent(("remove", name, [])) == [b"Host: shop", b"A: 1", b"Accept: */*", b"B: 2"]


def test_names_of_one_size_are_told_apart() -> None:
    assert sent(("remove", "a", []), ("remove", "X-Tbg", [])) == [line for line in REQUEST.split(b"\r\n")[1:-2] if line != b"A: 1"]


@pytest.mark.parametrize("size", [1, 62, 63, 64, 65, 127, 128])
def test_names_of_every_size_can_be_removed(size: int) -> None:
    name = "N" * size
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{name}: 1\r\n{name}x: 2\r\nM{name[1:]}: 3\r\n\r\n".encode()
    assert sent(("remove", name.lower(), []), head=head) == [b"Host: a", f"{name}x: 2".encode(), f"M{name[1:]}: 3".encode()]


def test_values_are_those_of_the_request_as_it_came() -> None:
    operations: list[_core.HeaderOperation] = [
        ("set", "X-Tag", [b"<", ("header", "controls", "x-tag"), b">"]),
        ("remove", "A", []),
        ("set", "X-A", [("header", "controls", "a")]),
    ]
    assert sent(*operations)[-2:] == [b"X-Tag: <old, older>", b"X-A: 1"]


def test_usual_fields_stay_unless_the_route_names_them() -> None:
    usual = [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: shop"]
    assert sent(("set", "X-Tag", [b"new"]), usual=True)[-4:] == [*usual, b"X-Tag: new"]
    assert sent(("set", "x-forwarded-proto", [b"https"]), usual=True)[-3:] == [usual[0], usual[2], b"x-forwarded-proto: https"]
    assert sent(("add", "X-Forwarded-Proto", [b"b"]), usual=True)[-4:] == [*usual, b"X-Forwarded-Proto: b"]
    head = REQUEST.replace(b"A: 1", b"X-Forwarded-For: 1.2.3.4")
    lines = sent(("remove", "X-Forwarded-For", []), usual=True, head=head)
    assert lines[-2:] == usual[1:] and not any(line.startswith(b"X-Forwarded-For") for line in lines)


def test_connection_cannot_name_them_away() -> None:
    head = REQUEST.replace(b"A: 1", b"Connection: X-Tag, X-New")
    assert sent(("set", "X-Tag", [b"new"]), ("add", "X-New", [b"1"]), head=head)[-2:] == [b"X-Tag: new", b"X-New: 1"]


@pytest.mark.parametrize(
    "head",
    [
        REQUEST,
        REQUEST.replace(b"/ HTTP", b"http://shop/ HTTP"),
        REQUEST.replace(b"1.1\r\nHost: shop", b"1.0"),
        REQUEST.replace(b": shop", b":"),
    ],
)
def test_host_is_set_whatever_the_client_named(head: bytes) -> None:
    assert sent(("set", "Host", [b"app.internal"]), head=head) == [
        b"Host: app.internal",
        b"A: 1",
        b"X-Tag: old",
        b"Accept: */*",
        b"x-tag: older",
        b"B: 2",
    ]


def test_empty_host_is_that_of_the_backend() -> None:
    plane = make_plane([("set", "Host", [("header", "controls", "x-none")])])
    assert b"\r\nHost: 10.0.0.1:80\r\n" in plane.write_request(REQUEST, address=_core.pack_address("10.0.0.1", 80))


def test_host_can_only_be_set() -> None:
    for kind in ("add", "remove"):
        with pytest.raises(ValueError, match="Host"):
            make_plane([(kind, "host", [])])


# ---------------------------------------------------------------------------------------------------------- responses
def test_response_fields_are_edited_too() -> None:
    operations: list[_core.HeaderOperation] = [("set", "Server", [b"fastlb"]), ("remove", "x-tag", []), ("add", "X-New", [b"1"])]
    assert answered(*operations) == [b"Date: then", b"Content-Length: 5", b"Server: fastlb", b"X-New: 1"]


def test_date_can_be_set_and_removed() -> None:
    assert answered(("set", "Date", [b"now"]), ("remove", "Server", [])) == [b"X-Tag: old", b"Content-Length: 5", b"Date: now"]
    assert answered(("remove", "Date", []), ("remove", "Server", [])) == [b"X-Tag: old", b"Content-Length: 5"]


def test_values_come_from_the_request_and_from_the_response() -> None:
    lines = answered(
        ("set", "X-Request", [("header", "controls", "a"), ("method", "nothing", "")]),
        ("set", "X-Response", [("response", "controls", "x-tag"), b" ", ("status", "nothing", "")]),
        ("set", "X-Where", [("backend", "controls", ""), ("pool", "controls", ""), ("route", "controls", "")]),
    )
    assert lines[-3:] == [b"X-Request: 1GET", b"X-Response: old 200", b"X-Where: apiall"]


def test_switch_to_a_tunnel_is_edited_too() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nServer: x\r\nDate: then\r\n\r\n"
    assert answered(("set", "Server", [b"y"]), head=head) == [b"Date: then", b"Server: y", b"Connection: Upgrade", b"Upgrade: websocket"]


def test_too_many_are_refused_by_the_writer() -> None:
    writer = Writer()
    with pytest.raises(ValueError, match="at most 64"):
        writer.edit_response(writer.route(), [("add", "X", [b"1"])] * 65)
    for name in ("", "N" * 129):
        with pytest.raises(ValueError, match="1 to 128"):
            writer.edit_response(0, [("remove", name, [])])
