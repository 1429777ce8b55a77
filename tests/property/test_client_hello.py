"""fastlb/data_plane/client_hello.pyx: messages built from parts, cut into records as the example likes, and damaged."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import read_client_hello
from tests.support.client_hello import alpn, message, records, server_name, versions

LABEL = st.text("abcXYZ019-_", min_size=1, max_size=20).map(str.encode)
NAMES = st.lists(LABEL, min_size=1, max_size=6).map(b".".join)
PROTOCOLS = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6)
VERSIONS = st.lists(st.integers(0x0300, 0x0304), min_size=1, max_size=5)
OTHERS = st.dictionaries(st.integers(0, 0xFFFF).filter(lambda kind: kind not in (0, 16, 43)), st.binary(max_size=300), max_size=12)
SIZES = st.lists(st.integers(1, 200), max_size=40)


@st.composite
def hellos(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A message in records, and what it says."""
    name, protocols, offered = (draw(st.none() | kind) for kind in (NAMES, PROTOCOLS, VERSIONS))
    extensions = list(draw(OTHERS).items())
    extensions += [server_name(name)] if name else []
    extensions += [alpn(*protocols)] if protocols else []
    extensions += [versions(*offered)] if offered else []
    data = records(message(draw(st.permutations(extensions)), session_id=draw(st.binary(max_size=32))), draw(SIZES))
    return data, {
        "size": len(data),
        "version": max(offered) if offered else 0x0303,
        "server_name": (name or b"").lower(),
        "alpn": b"".join(bytes([len(protocol)]) + protocol for protocol in protocols) if protocols else None,
        "offers": b"h2" in (protocols or ()),
    }


@given(hellos(), st.binary(max_size=20), st.data())
@examples(100)
def test_message_says_what_it_was_built_from_however_it_is_cut(
    built: tuple[bytes, dict[str, Any]], behind: bytes, data: st.DataObject
) -> None:
    whole, said = built
    assert read_client_hello(whole + behind) == said
    cut = data.draw(st.integers(0, len(whole) - 1))
    missing = read_client_hello(whole[:cut])
    assert isinstance(missing, int) and 0 < missing <= len(whole) - cut


@given(hellos(), st.data())
@examples(200)
def test_damage_is_refused_or_changes_what_is_said_and_more_bytes_change_no_refusal(
    built: tuple[bytes, dict[str, Any]], data: st.DataObject
) -> None:
    whole, _ = built
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :]
    answer = read_client_hello(damaged)
    if isinstance(answer, str):
        assert read_client_hello(damaged + b"\0" * 10) == answer
    elif isinstance(answer, dict):
        assert read_client_hello(damaged[: answer["size"]]) == answer
        assert isinstance(read_client_hello(damaged[: answer["size"] - 1]), int)
