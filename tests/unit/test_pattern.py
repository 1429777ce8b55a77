"""fastlb._core.Pattern: the data plane's regular expressions, with its limits, for what the control plane reads."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import _core


def test_a_pattern_is_looked_for_anywhere_in_the_text() -> None:
    pattern = _core.Pattern(b"o+k$")
    assert pattern.search(b"all ook") is True
    assert pattern.search(b"all OK") is False
    assert pattern.search(b"all ok\n") is False
    assert pattern.search(b"") is False
    assert _core.Pattern(b"ok", True).search(b"OK") is True
    assert _core.Pattern(b"^$").search(b"") is True


def test_what_does_not_compile_is_said() -> None:
    with pytest.raises(ValueError, match="missing"):
        _core.Pattern(b"(")
    with pytest.raises(ValueError, match="long"):
        _core.Pattern(b"x" * 5000)


@pytest.mark.parametrize("pattern", [rb"^(a+)+$", rb"(a|aa)+b", rb"(?:a?){40}a{40}b"])
def test_what_would_take_for_ever_is_not_decided(pattern: bytes) -> None:
    assert _core.Pattern(pattern).search(b"a" * 16000 + b"!b") is None


def test_one_pattern_serves_many_texts() -> None:
    pattern = _core.Pattern(rb"(\d+)-(\d+)")
    for number in range(1000):
        assert pattern.search(b"x%d-%dy" % (number, number)) is True
        assert pattern.search(b"x" * number) is False


@given(st.sampled_from([rb"ab*c", rb"^x|y$", rb"[^a]b", rb"(a|b){2,3}c?$"]), st.binary(max_size=50))
def test_it_agrees_with_pythons_own(pattern: bytes, text: bytes) -> None:
    expected = re.search(pattern.replace(b"$", rb"\Z"), text, re.DOTALL) is not None
    assert _core.Pattern(pattern).search(text) is expected
