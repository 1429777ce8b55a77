"""fastlb/data_plane/target.pxd against a model that says what is meant, and the promises that routing relies on."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import normalise_path, parse_request

pieces = st.one_of(
    st.sampled_from(
        ["/", "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%25", "%00", "%", "%4", "%zz", "%c3%a9", "a", "b.", ".c", "é"]
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=3),
    st.integers(0, 255).map("%{:02x}".format),
)
raw_paths = st.lists(pieces, max_size=14).map(lambda parts: ("/" + "".join(parts)).encode("latin-1"))


def model(raw: bytes) -> bytes | None:
    """Decode once, split at slashes, drop what is empty, resolve dots."""
    if re.search(rb"%(?![0-9A-Fa-f]{2})|%00", raw):
        return None
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), raw)
    segments: list[bytes] = []
    parts = decoded.split(b"/")
    for part in parts:
        if part == b"..":
            if not segments:
                return None
            segments.pop()
        elif part not in (b"", b"."):
            segments.append(part)
    is_directory = parts[-1] in (b"", b".", b"..")
    return b"/" + b"/".join(segments) + (b"/" if is_directory and segments else b"")


@examples(2000)
@given(raw_paths)
@example(b"/")
@example(b"//..")
@example(b"/a/%2e%2e/..")
def test_path_is_what_the_model_says(raw: bytes) -> None:
    assert normalise_path(raw) == model(raw)


@examples(500)
@given(raw_paths)
def test_normal_path_has_nothing_left_to_resolve(raw: bytes) -> None:
    path = normalise_path(raw)
    if path is None:
        return
    assert path.startswith(b"/")
    assert len(path) <= len(raw)
    assert b"\0" not in path
    assert b"//" not in path
    assert not {b".", b".."} & set(path.split(b"/"))


@examples(500)
@given(raw_paths)
def test_normal_path_is_its_own_normal_form(raw: bytes) -> None:
    path = normalise_path(raw)
    if path is not None:
        assert normalise_path(path.replace(b"%", b"%25")) == path


@examples(500)
@given(raw_paths)
def test_path_that_is_used_raw_is_normal(raw: bytes) -> None:
    # The parser spares most paths the normalisation: rightly so.
    parsed = parse_request(b"GET " + raw + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    if isinstance(parsed, dict) and "path_is_raw" in parsed["flags"]:
        assert normalise_path(parsed["path"]) == parsed["path"]
