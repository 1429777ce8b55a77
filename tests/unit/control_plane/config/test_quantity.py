"""Durations and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.quantity import format_duration, format_size, parse_duration_ms, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("5s", 5_000),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("0s", 0),
        ("1.5s", 1_500),
        ("1m30s500ms", 90_500),
        ("0.001s", 1),
    ],
)
def test_durations_are_read_in_milliseconds(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65_536),
        ("64KB", 64_000),
        ("1MiB", 1 << 20),
        ("10MB", 10_000_000),
        ("0B", 0),
        ("512B", 512),
        ("1.5KiB", 1536),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes_are_read_in_bytes(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("5", "5s"),
        ("5 s", "5s"),
        ("5S", "5s"),
        ("5sec", "5s"),
        ("2 minutes", "2m"),
        ("100 msec", "100ms"),
        ("1w", None),
        ("s5", None),
        ("", None),
        ("-5s", None),
        ("5s1h", None),
        ("1s1s", None),
        ("٥s", None),
        ("5s ", "5s"),
    ],
)
def test_what_is_no_duration_is_rejected_with_what_was_meant(text: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_duration_ms(text)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [("64k", "64KiB"), ("64kib", "64KiB"), ("1 MB", "1MiB"), ("10", "10B"), ("10 bits", None), ("", None), ("1KiB1B", None)],
)
def test_what_is_no_size_is_rejected_with_what_was_meant(text: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_size_bytes(text)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(("parse", "text"), [(parse_duration_ms, "0.0001s"), (parse_duration_ms, "1.5ms"), (parse_size_bytes, "0.5B")])
def test_fractions_of_the_smallest_unit_are_rejected(parse: object, text: str) -> None:
    with pytest.raises(Rejected, match="finer"):
        parse(text)  # type: ignore[operator]


def test_a_number_of_any_length_is_rejected_and_not_computed() -> None:
    with pytest.raises(Rejected):
        parse_duration_ms("9" * 5000 + "s")


@given(st.integers(0, 10**12))
def test_a_formatted_duration_reads_back(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms


@given(st.integers(0, 1 << 50))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size_bytes(format_size(size)) == size
