"""What processes say: several of them share one stream, so that a line has to arrive in one piece."""

import io

from fastlb.processes.output import write_line


class Descriptor(io.RawIOBase):
    """Keeps what each write(2) would get."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        self.writes.append(bytes(data))
        return len(data)


def test_line_and_its_end_are_one_write_on_an_unbuffered_stream() -> None:
    descriptor = Descriptor()
    stream = io.TextIOWrapper(descriptor, write_through=True)  # type: ignore[arg-type]  # as PYTHONUNBUFFERED makes it
    write_line(stream, "fastlb: one")
    write_line(stream, "fastlb: two")
    assert descriptor.writes == [b"fastlb: one\n", b"fastlb: two\n"]


def test_line_is_there_at_once_on_a_buffered_stream() -> None:
    descriptor = Descriptor()
    stream = io.TextIOWrapper(io.BufferedWriter(descriptor))
    write_line(stream, "fastlb: one")
    assert descriptor.writes == [b"fastlb: one\n"]
