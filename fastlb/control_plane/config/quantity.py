"""Durations and sizes: "1h30m", "250ms", "64KiB", "10MB". A number without a unit is refused, because nobody agrees on what it means."""

import re

from fastlb.control_plane.config.errors import Rejected, quote

DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}  # in milliseconds
SIZE_UNITS = {
    "TiB": 1 << 40,
    "TB": 10**12,
    "GiB": 1 << 30,
    "GB": 10**9,
    "MiB": 1 << 20,
    "MB": 10**6,
    "KiB": 1 << 10,
    "KB": 10**3,
    "B": 1,
}  # in bytes

# Sixteen digits hold every range, and stay far below where Python refuses to convert a text to an int.
_NUMBER = r"([0-9]{1,16})(?:\.([0-9]{1,9}))?"
_DURATION_PART = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"(TiB|TB|GiB|GB|MiB|MB|KiB|KB|B)")
_LOOSE = re.compile(_NUMBER + r"\s*([a-z]*)")
_LOOSE_DURATION_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
_LOOSE_SIZE_UNITS = {
    **dict.fromkeys(("", "b", "byte", "bytes"), "B"),
    **dict.fromkeys(("k", "kb", "kib"), "KiB"),
    **dict.fromkeys(("m", "mb", "mib"), "MiB"),
    **dict.fromkeys(("g", "gb", "gib"), "GiB"),
    **dict.fromkeys(("t", "tb", "tib"), "TiB"),
}


def parse_duration_ms(text: str) -> int:
    """Milliseconds in a duration such as "5s", "250ms" or "1h30m".

    Raises:
        Rejected: no unit, an unknown one, units that do not go from large to small, or a fraction of a millisecond.
    """
    parts = list(_DURATION_PART.finditer(text))
    units = [part[3] for part in parts]
    ordered = units == [unit for unit in DURATION_UNITS if unit in units]
    if not parts or not ordered or "".join(part[0] for part in parts) != text:
        right = 'a duration is a number with its unit (ms, s, m, h or d): "5s", "250ms", "1h30m"'
        raise Rejected(f"{quote(text)} is not a duration", right, _guess(text, _LOOSE_DURATION_UNITS))
    return sum(_whole(part, DURATION_UNITS[part[3]], text, "one millisecond") for part in parts)


def parse_size_bytes(text: str) -> int:
    """Bytes in a size such as "64KiB" (65,536) or "64KB" (64,000).

    Raises:
        Rejected: no unit, an unknown one, or a fraction of a byte.
    """
    part = _SIZE.fullmatch(text)
    if part is None:
        right = 'a size is a number with its unit (B, KiB, MiB, GiB, TiB, or KB … TB for thousands): "64KiB", "1MiB"'
        raise Rejected(f"{quote(text)} is not a size", right, _guess(text, _LOOSE_SIZE_UNITS))
    return _whole(part, SIZE_UNITS[part[3]], text, "one byte")


def format_duration(ms: int) -> str:
    """The shortest text that `parse_duration_ms` reads back as this many milliseconds."""
    text = ""
    for unit, unit_ms in DURATION_UNITS.items():
        count, ms = divmod(ms, unit_ms)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def format_size(size_bytes: int) -> str:
    """A text that `parse_size_bytes` reads back as this many bytes, in the largest binary unit that is exact."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % SIZE_UNITS[unit] == 0:
            return f"{size_bytes // SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


def _whole(part: re.Match[str], unit: int, text: str, smallest: str) -> int:
    fraction = part[2] or ""
    scaled: int
    scaled, rest = divmod(int(part[1] + fraction) * unit, 10 ** len(fraction))
    if rest:
        raise Rejected(f"{quote(text)} is finer than {smallest}", "use a whole number of a smaller unit")
    return scaled


def _guess(text: str, units: dict[str, str]) -> str | None:
    part = _LOOSE.fullmatch(text.strip().casefold())
    if part is None or part[3] not in units:
        return None
    return part[0].removesuffix(part[3]).strip() + units[part[3]]
