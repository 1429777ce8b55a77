"""Header edits beside a model of a few lines: whatever is edited, the message stays the one that was meant."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.property.heads import damaged, h11_request, requests, responses
from tests.support import _probe
from tests.support.images import Writer

FIXED = {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
NAMES = st.one_of(
    st.sampled_from(["X-A", "x-a", "Accept", "X-Forwarded-For", "X-Request-Id", "Date", "Server", "Cookie", "A", "X-" + "N" * 80]),
    st.text("abcXYZ-_09", min_size=1, max_size=8),
).filter(lambda name: name.lower() not in FIXED | {"host", "http2-settings"})
VALUES = st.lists(
    st.one_of(
        st.text("ab \t:,", max_size=4).map(str.encode),
        st.tuples(st.sampled_from(["path", "uri", "query", "host", "client", "status"]), st.just("controls"), st.just("")),
        st.tuples(st.sampled_from(["header", "cookie", "query_value", "response"]), st.just("controls"), NAMES),
    ),
    max_size=4,
)
OPERATIONS = st.lists(st.tuples(st.sampled_from(["set", "add", "remove"]), NAMES, VALUES), max_size=6)
HOST = b"app.internal"


def make_plane(operations: list[tuple[str, str, list[object]]], sets_host: bool) -> _probe.Plane:
    writer = Writer()
    writer.set_forwarded_headers(False)
    writer.set_request_id(False)
    route = writer.route()
    edits = [(kind, name, () if kind == "remove" else value) for kind, name, value in operations]
    writer.edit_request(route, [*edits, *([("set", "Host", [HOST])] if sets_host else [])])
    writer.edit_response(route, edits)
    return writer.plane()


def expect(plain: list[tuple[bytes, bytes]], edited: list[tuple[bytes, bytes]], operations: list[tuple[str, str, list[object]]]) -> None:
    """What was there stays in its order but for what is set or removed; behind it stands what is set or added, in that order."""
    gone = {name.lower().encode() for kind, name, _ in operations if kind != "add"}
    stays = [field for field in plain if field[0].lower() not in gone]
    added = [name.lower().encode() for kind, name, _ in operations if kind != "remove"]
    written = [name.lower() for name, _ in edited]
    kept = [field for field in edited if field in stays]
    assert [field for field in stays if field not in kept] == []
    rest = [name.lower() for name, _ in edited]
    for name, _ in stays:
        rest.remove(name.lower())
    position = 0
    for name in rest:  # a subsequence: what came out empty is not written
        assert name in added[position:], (name, added)
        position = added.index(name, position) + 1
    assert gone & set(written) <= set(added)


@examples(400)
@given(st.one_of(requests(), damaged(requests())), OPERATIONS, st.booleans())
def test_requests_stay_what_they_were_but_for_the_edits(
    data: bytes, operations: list[tuple[str, str, list[object]]], sets_host: bool
) -> None:
    parsed = _probe.parse_request(data, max_bytes=65472, max_target_bytes=65472, max_fields=100)
    assume(isinstance(parsed, dict))
    head = data[: parsed["size"]]
    plain = _probe.parse_request(make_plane([], False).write_request(head), max_bytes=200_000, max_target_bytes=200_000, max_fields=256)
    sent = make_plane(operations, sets_host).write_request(head)
    again = _probe.parse_request(sent, max_bytes=200_000, max_target_bytes=200_000, max_fields=256)
    theirs = h11_request(sent)
    assert isinstance(again, dict), (again, sent)
    assert isinstance(theirs, dict), (theirs, sent)
    assert again["size"] == theirs["size"] == len(sent)
    for key in ("method", "target", "framing", "content_length"):
        assert again[key] == plain[key]
    if sets_host:
        assert again["host"] == HOST
    without_host = [[field for field in head["fields"] if field[0].lower() != b"host"] for head in (plain, again)]
    expect(*without_host, operations)


@examples(300)
@given(responses(), OPERATIONS)
def test_responses_stay_what_they_were_but_for_the_edits(data: bytes, operations: list[tuple[str, str, list[object]]]) -> None:
    parsed = _probe.parse_response(data)
    assume(isinstance(parsed, dict))
    assume(parsed["status"] >= 200)
    request = b"GET /%0d%0a?a=%0aX:y HTTP/1.1\r\nHost: a\r\nCookie: A=1\r\nX-A: 2\r\n\r\n"
    chunked = parsed["framing"] in ("chunked", "until_close")
    plain, edited = (
        _probe.parse_response(plane.write_response(data[: parsed["size"]], chunked=chunked, request=request), max_bytes=200_000)
        for plane in (make_plane([], False), make_plane(operations, False))
    )
    assert isinstance(edited, dict), edited
    for key in ("status", "framing", "content_length"):
        assert edited[key] == plain[key]
    dates = [[field for field in head["fields"] if field[0].lower() != b"date"] for head in (plain, edited)]
    expect(*dates, [operation for operation in operations if operation[1].lower() != "date"])
