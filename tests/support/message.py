"""HTTP/1 messages as the tests see them: parsed strictly and simply, so that nothing a peer sent is hidden or repaired."""

from dataclasses import dataclass, field

Fields = list[tuple[str, str]]


@dataclass
class Message:
    """One request or response. `head` has the bytes as they came, `interim` the 1xx responses before a final one."""

    head: bytes
    start: str
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    interim: list["Message"] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a field that may be there once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.fields}

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def status(self) -> int:
        version, status = self.start.split(" ", 2)[:2]
        assert version in ("HTTP/1.1", "HTTP/1.0"), self.start
        return int(status)

    @property
    def reason(self) -> str | None:
        """The reason id of a response that fastlb made itself."""
        return self.get("X-Fastlb-Reason")

    @property
    def closes(self) -> bool:
        return (self.get("Connection") or "").lower() == "close"

    @property
    def body_length(self) -> int | None:
        """Content-Length; None for a chunked body or none at all."""
        length = self.get("Content-Length")
        assert length is None or length.isdigit(), length
        return int(length) if length is not None else None

    @property
    def chunked(self) -> bool:
        coding = self.get("Transfer-Encoding")
        assert coding is None or (coding == "chunked" and self.get("Content-Length") is None), self.head
        return coding is not None


def parse_head(head: bytes) -> Message:
    """A head with its empty line. Anything but name, colon, space, value, CRLF is an error."""
    assert head.endswith(b"\r\n\r\n"), head
    start, *lines = head[:-4].decode("latin-1").split("\r\n")
    return Message(head, start, parse_fields(lines))


def parse_fields(lines: list[str]) -> Fields:
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon, line
        assert name and not set(name) & set(" \t\r\n"), line
        assert not set(value) & set("\r\n\0"), line
        fields.append((name, value.strip(" \t")))
    return fields


def request(
    target: str = "/", *fields: str, method: str = "GET", host: str | None = "test", version: str = "1.1", body: bytes = b""
) -> bytes:
    """The bytes of a request; `fields` are whole lines such as "Connection: close". A body gets its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += fields
    if body and not any(line.lower().startswith("transfer-encoding") for line in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response(body: bytes = b"", *fields: str, status: str = "200 OK", version: str = "1.1", length: bool = True) -> bytes:
    """The bytes of a response, with a Content-Length unless `length` is false."""
    lines = [f"HTTP/{version} {status}", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, trailers: str = "") -> bytes:
    """A chunked body; `trailers` are whole lines with their CRLF."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers.encode() + b"\r\n"
