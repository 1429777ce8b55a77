"""fastlb/data_plane/select/key.pyx."""

import zlib

import pytest

from fastlb import _core
from tests.support import _probe

TEXTS = [b"", b"a", b"abc", b"123456789", b"/index.html?x=1", bytes(range(256)), b"k" * 65536]

# Size of bytes(range(size)), seed, and what the xxhash module 4.1.0 says: xxhash.xxh64_intdigest(bytes(range(size)), seed).
XXH64 = [
    (0, 0, 0xEF46DB3751D8E999),
    (1, 0, 0xE934A84ADB052768),
    (1, 0x9E3779B97F4A7C15, 0x126BB57A12364AA5),
    (3, 0, 0xE5C7BB4533BC65DD),
    (3, 0x9E3779B97F4A7C15, 0x67BC6ED5F6C6E4BA),
    (4, 0, 0xFFCED8604453CC1E),
    (4, 0x9E3779B97F4A7C15, 0xD89842CD31E24E54),
    (7, 0, 0x14CC643F630C72D2),
    (7, 0x9E3779B97F4A7C15, 0xECECF5FAA8A7490E),
    (8, 0, 0x884A173614B81B8D),
    (8, 0x9E3779B97F4A7C15, 0xD18B6D7A5A668732),
    (12, 0, 0x424AF23F1F08DCA5),
    (12, 0x9E3779B97F4A7C15, 0x132649EA1128BFA2),
    (31, 0, 0xC346D2B59B4D8EE1),
    (31, 0x9E3779B97F4A7C15, 0xF3DA6D05709C035D),
    (32, 0, 0xCBF59C5116FF32B4),
    (32, 0x9E3779B97F4A7C15, 0xA1C89217E9D50750),
    (33, 0, 0x0C535D1ACAFB8EAD),
    (33, 0x9E3779B97F4A7C15, 0xE6A3C00CD6E74075),
    (64, 0, 0xF7C67301DB6713F0),
    (64, 0x9E3779B97F4A7C15, 0x2589245E62A1969B),
    (100, 0, 0x6AC1E58032166597),
    (100, 0x9E3779B97F4A7C15, 0x3B97D91EBA03E785),
    (255, 0, 0x0F7D97507CAAD693),
    (255, 0x9E3779B97F4A7C15, 0x5352384C05C2F45E),
    (256, 0, 0x1FACBE8406CD904B),
    (256, 0x9E3779B97F4A7C15, 0xCC297FEF2BB48BBF),
]


@pytest.mark.parametrize("text", TEXTS)
def test_crc32_is_that_of_zlib(text: bytes) -> None:
    assert _probe.crc32_of(text) == zlib.crc32(text)
    assert _probe.crc32_of(text, zlib.crc32(b"before")) == zlib.crc32(b"before" + text)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("first", [b"", b"1", b"20", b"x" * 1000])
def test_crc32_of_two_texts_needs_only_those_of_each(first: bytes, text: bytes) -> None:
    assert _probe.crc32_of_joined(zlib.crc32(first), zlib.crc32(text), len(text)) == zlib.crc32(first + text)


@pytest.mark.parametrize(("size", "seed", "expected"), XXH64)
def test_xxh64_is_that_of_others(size: int, seed: int, expected: int) -> None:
    assert _probe.xxh64(bytes(range(size)), seed) == expected


@pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
def test_key_without_bytes_is_none(algorithm: str) -> None:
    assert _probe.Pool(algorithm, 1).key(b"") == 0
