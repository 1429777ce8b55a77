"""Whatever a client sends, a log has one line for it, without control characters, and JSON that says what was sent."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support.logs import LogWorld, wait_for_lines


def as_latin(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("as-latin", as_latin)


def plain(value: bytes | None) -> str:
    """nginx's escaping, another way."""
    if value is None:
        return "-"
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02X}" for byte in value)


def decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "as-latin")


class Logs:
    """An engine with a log of each kind and what they said last."""

    def __init__(self, directory: Path) -> None:
        self.text, self.json = directory / "text", directory / "json"
        names = ["request", "target", "query", "request.x-a", "request.user-agent", "status"]
        text = "\x09".join(f"{{{name}}}" for name in names)
        self.world = LogWorld()
        self.world.log({"to": str(self.text), "format": text}, {"to": str(self.json), "format": "json", "fields": names}, dead=True)
        self.n = 0

    def say(self, head: bytes) -> tuple[list[str], dict[str, str | int | None]]:
        client = self.world.connect(self.world.web)
        client.send(head)
        client.shutdown(1)
        opened = self.world.counters()["exchanges_closed"]
        self.world.pump_until(lambda: self.world.counters()["exchanges_closed"] > opened)
        client.close()
        self.n += 1
        texts = wait_for_lines(self.text, self.n)
        values = wait_for_lines(self.json, self.n)
        assert len(texts) == len(values) == self.n
        return texts[-1].split("\t"), json.loads(values[-1])


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logs]:
    made = Logs(tmp_path_factory.mktemp("logs"))
    with made.world:
        yield made


TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?%"), max_size=40).map(str.encode)
HTTP2 = b"PRI * HTTP/2.0\r\n"  # what begins so is no request of HTTP/1.1, and has no line
VALUES = st.binary(max_size=60).map(lambda value: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", value).strip(b" \t"))


@examples(300)
@given(target=TARGETS, query=st.none() | TARGETS, field=st.none() | VALUES, agent=st.none() | st.text(max_size=30))
def test_lines_say_what_was_sent(logs: Logs, target: bytes, query: bytes | None, field: bytes | None, agent: str | None) -> None:
    target = b"/" + target + (b"?" + query if query is not None else b"")
    agent_bytes = None if agent is None else re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", agent.encode(errors="replace")).strip(b" \t")
    head = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n"
    if field is not None:
        head += b"X-A: " + field + b"\r\n"
    if agent_bytes is not None:
        head += b"User-Agent:" + agent_bytes + b"\r\n"
    texts, values = logs.say(head + b"\r\n")
    status = values["status"]
    sent = [b"GET " + target + b" HTTP/1.1", target, query, field, agent_bytes]
    if status == 503:  # else the head was refused, for the dots in its path for instance
        assert texts == [*map(plain, sent), "503"]
        assert list(values.values()) == [*map(decoded, sent), 503]
    else:
        assert (texts[0], values["request"]) == (plain(sent[0]), decoded(sent[0]))


HEADS = st.binary(min_size=1, max_size=200).map(lambda head: head.lstrip(b"\r\n"))


@examples(300)
@given(head=HEADS.filter(lambda head: head and not head.startswith(HTTP2)))
def test_any_bytes_give_one_line_without_control_characters(logs: Logs, head: bytes) -> None:
    texts, values = logs.say(head)
    assert len(texts) == len(values) == 6
    for text in texts:
        assert re.fullmatch(r"[\x20-\x7e]*", text)
    assert values["status"] in (400, 408, 414, 499, 501, 503, 505)
