"""fastlb/data_plane/log_writer.pyx: the ring, what the thread makes of it, and what it does when the kernel refuses."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support._probe import LogRing
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SIZE = 131072


@pytest.fixture
def ring() -> Iterator[LogRing]:
    made = LogRing(SIZE)
    yield made
    made.close(0)


def open_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)


def slot_for(ring: LogRing, path: Path, kind: str = "file") -> int:
    slot: int = ring.hold(str(path).encode(), kind)
    descriptor = open_file(path)
    ring.hand_over(slot, descriptor)
    os.close(descriptor)
    return slot


def count_entries(directory: str) -> int:
    return sum(1 for _ in Path(directory).iterdir())


def write_all(ring: LogRing) -> None:
    while ring.write():
        pass


# ------------------------------------------------------------------------------------------------ the ring
def test_lines_come_out_as_they_went_in(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    lines = [b"%d %s\n" % (number, b"x" * (number * 7 % 300)) for number in range(1000)]
    for line in lines:
        if not ring.put(slot, line):
            write_all(ring)
            assert ring.put(slot, line)
    write_all(ring)
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    assert ring.counts == (1000, 0, sum(len(line) for line in lines))


def test_a_line_may_begin_at_every_offset_of_the_ring(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    expected = b""
    for distance in range(8, 400, 8):  # to the end of the ring
        for size in (1, 7, 8, 9, 40, 120):
            ring.move_to(3 * SIZE - distance)
            for name in (b"a", b"b", b"c"):
                line = name * size + b"\n"
                assert ring.put(slot, line)
                expected += line
            write_all(ring)
    assert (tmp_path / "log").read_bytes() == expected


def test_positions_go_past_32_bits(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    ring.move_to((1 << 32) - 64)
    for number in range(10):
        assert ring.put(slot, b"line %d\n" % number)
    write_all(ring)
    assert (tmp_path / "log").read_bytes() == b"".join(b"line %d\n" % number for number in range(10))


def test_a_full_ring_takes_nothing_until_there_is_room(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    line = b"x" * 991 + b"\n"
    put = 0
    while ring.put(slot, line):
        put += 1
    assert put == SIZE // 1000
    assert not ring.put(slot, line)
    assert ring.put(slot, b"\n") == (SIZE - put * 1000 >= 16)
    write_all(ring)
    assert ring.put(slot, line)
    write_all(ring)
    assert ring.counts[0] >= put + 1
    assert ring.counts[1] == 0


def test_the_longest_line_fits_and_a_longer_one_is_refused(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    longest = b"x" * 65527 + b"\n"
    assert not ring.put(slot, b"x" + longest)
    for _ in range(5):
        assert ring.put(slot, longest)
        write_all(ring)
    assert (tmp_path / "log").read_bytes() == longest * 5


def test_lines_of_several_destinations_keep_their_order_in_each(ring: LogRing, tmp_path: Path) -> None:
    slots = [slot_for(ring, tmp_path / name) for name in ("a", "b", "c")]
    expected = [b"", b"", b""]
    for number in range(3000):
        which = number * number % 7 % 3
        line = b"%d of %d\n" % (number, which)
        assert ring.put(slots[which], line)
        expected[which] += line
    write_all(ring)
    assert [(tmp_path / name).read_bytes() for name in ("a", "b", "c")] == expected


# ------------------------------------------------------------------------------------------------ destinations
def test_a_destination_without_a_descriptor_loses_its_lines(ring: LogRing) -> None:
    slot = ring.hold(b"nowhere")
    assert ring.put(slot, b"lost\n")
    write_all(ring)
    assert ring.counts == (0, 1, 0)


def test_the_same_destination_has_the_same_slot_until_all_have_dropped_it(ring: LogRing, tmp_path: Path) -> None:
    first, second = ring.hold(b"a"), ring.hold(b"b")
    assert ring.hold(b"a") == first != second
    assert ring.hold(b"a", "stream") not in (first, second)
    ring.drop(first)
    assert ring.hold(b"a") == first
    ring.drop(first)
    ring.drop(first)
    write_all(ring)
    assert ring.hold(b"c") == first, "a slot that nobody holds is used again"


def test_slots_run_out_and_come_back(ring: LogRing) -> None:
    slots = [ring.hold(b"%d" % number) for number in range(256)]
    assert None not in slots
    assert ring.hold(b"one more") is None
    assert ring.hold(b"7") == 7
    ring.drop(9)
    write_all(ring)
    assert ring.hold(b"one more") == 9


def test_a_dropped_destination_is_closed_behind_its_last_line(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    assert ring.put(slot, b"first\n")
    write_all(ring)
    for _ in range(3):
        assert ring.put(slot, b"x" * 60000 + b"\n" if _ < 1 else b"last\n")
    ring.drop(slot)
    assert ring.hold(b"other") != slot, "lines in the ring still name this slot"
    write_all(ring)
    assert (tmp_path / "log").read_bytes() == b"first\n" + b"x" * 60000 + b"\nlast\nlast\n"
    ring.write()
    assert ring.descriptor(slot) == -1
    assert ring.hold(b"third") == slot


def test_a_handed_over_descriptor_gets_the_next_line_and_the_old_one_is_closed(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    ring.put(slot, b"old\n")
    write_all(ring)
    before = ring.descriptor(slot)
    (tmp_path / "log").rename(tmp_path / "log.1")
    descriptor = open_file(tmp_path / "log")
    ring.hand_over(slot, descriptor)
    os.close(descriptor)
    ring.put(slot, b"new\n")
    write_all(ring)
    assert (tmp_path / "log.1").read_bytes() == b"old\n"
    assert (tmp_path / "log").read_bytes() == b"new\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(before)


def test_a_descriptor_that_was_never_taken_is_closed_by_the_next(ring: LogRing, tmp_path: Path) -> None:
    before = count_entries("/proc/self/fd")
    slot = slot_for(ring, tmp_path / "log")
    for _ in range(50):
        descriptor = open_file(tmp_path / "log")
        ring.hand_over(slot, descriptor)
        os.close(descriptor)
    assert count_entries("/proc/self/fd") == before + 1


def test_lines_before_a_hand_over_that_was_not_taken_yet_are_not_lost(ring: LogRing, tmp_path: Path) -> None:
    slot = slot_for(ring, tmp_path / "log")
    ring.put(slot, b"line\n")
    ring.drop(slot)
    write_all(ring)
    assert (tmp_path / "log").read_bytes() == b"line\n"


# ------------------------------------------------------------------------------------------------ refusals
def test_a_full_disk_loses_lines_and_counts_them(ring: LogRing) -> None:
    slot = ring.hold(b"/dev/full")
    descriptor = os.open("/dev/full", os.O_WRONLY)
    ring.hand_over(slot, descriptor)
    os.close(descriptor)
    for number in range(100):
        ring.put(slot, b"%d\n" % number)
    write_all(ring)
    assert ring.counts == (0, 100, 0)


def test_half_a_line_on_a_full_disk_is_ended_before_the_next_line(ring: LogRing, tmp_path: Path) -> None:
    import resource

    # A file may not grow beyond the limit: what goes past it is a short write, and then an error, as on a full disk.
    slot = slot_for(ring, tmp_path / "log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, limits[1]))
    try:
        for name in (b"one", b"two", b"three"):
            ring.put(slot, name * 4 + b"\n")
        write_all(ring)
        assert (tmp_path / "log").read_bytes() == b"one" * 4 + b"\n" + b"two" * 4
        assert ring.counts[:2] == (1, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    ring.put(slot, b"four\n")
    write_all(ring)
    assert (tmp_path / "log").read_bytes() == b"one" * 4 + b"\n" + b"two" * 4 + b"\nfour\n"
    assert ring.counts[:2] == (2, 2)


def test_a_pipe_that_nobody_reads_any_more_loses_lines(ring: LogRing) -> None:
    reading, writing = os.pipe()
    slot = ring.hold(b"stdout", "stream")
    ring.hand_over(slot, writing)
    os.close(writing)
    os.close(reading)
    ring.put(slot, b"line\n")
    write_all(ring)
    assert ring.counts == (0, 1, 0)


def test_what_goes_to_a_pipe_goes_in_whole_lines_that_no_other_writer_can_split(ring: LogRing) -> None:
    reading, writing = os.pipe2(os.O_DIRECT)  # each write is read as it was made
    slot = ring.hold(b"stdout", "stream")
    ring.hand_over(slot, writing)
    os.close(writing)
    lines = [b"%d %s\n" % (number, b"x" * (number * 97 % 900)) for number in range(20)]
    lines.insert(7, b"y" * 6000 + b"\n")  # longer than what stays together: alone
    for line in lines:
        ring.put(slot, line)
    write_all(ring)
    pieces = []
    while select.select([reading], [], [], 0)[0]:
        pieces.append(os.read(reading, 65536))
    os.close(reading)
    assert b"".join(pieces) == b"".join(lines)
    assert len(pieces) < len(lines)
    for piece in pieces:
        assert len(piece) <= 4096 and (piece.endswith(b"\n") or b"yyy" in piece)


def test_syslog_gets_a_datagram_for_each_line_without_its_newline(ring: LogRing, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "s"))
        daemon.settimeout(DEADLINE_SECONDS)
        slot = connected_slot(ring, tmp_path / "s")
        ring.put(slot, b"first\n")
        ring.put(slot, b"second\n")
        write_all(ring)
        assert [daemon.recv(100), daemon.recv(100)] == [b"first", b"second"]
        assert ring.counts == (2, 0, 11)


def connected_slot(ring: LogRing, path: Path) -> int:
    slot: int = ring.hold(b"syslog", "datagrams")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(str(path))
        ring.hand_over(slot, client.fileno())
    return slot


def test_a_log_daemon_that_was_restarted_is_connected_to_again(ring: LogRing, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        slot = connected_slot(ring, path)
        write_all(ring)
    path.unlink()
    ring.put(slot, b"while it is away\n")
    write_all(ring)
    assert ring.counts == (0, 1, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(DEADLINE_SECONDS)
        ring.put(slot, b"it is back\n")
        write_all(ring)
        assert daemon.recv(100) == b"it is back"
    assert ring.counts == (1, 1, 10)


def test_a_log_daemon_that_takes_nothing_loses_lines_and_stalls_the_others_for_a_moment_only(ring: LogRing, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "s"))
        slot = connected_slot(ring, tmp_path / "s")
        file = slot_for(ring, tmp_path / "log")
        lost = 0
        while not lost:
            ring.put(slot, b"x\n")
            write_all(ring)
            lost = ring.counts[1]
        ring.put(file, b"line\n")
        write_all(ring)
        assert (tmp_path / "log").read_bytes() == b"line\n"


# ------------------------------------------------------------------------------------------------ the thread
def test_the_thread_writes_when_it_is_woken(tmp_path: Path) -> None:
    ring = LogRing(SIZE, True)
    slot = slot_for(ring, tmp_path / "log")
    for number in range(200):
        assert ring.put(slot, b"%d\n" % number)
        ring.wake()
        if number % 10 == 0:
            wait_until(lambda: (tmp_path / "log").read_bytes().endswith(b"%d\n" % number), "the line is there")  # noqa: B023
    assert ring.close() == (200, 0, sum(len(b"%d\n" % number) for number in range(200)))
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % number for number in range(200))


def test_the_last_lines_are_written_when_it_closes_even_unwoken(tmp_path: Path) -> None:
    ring = LogRing(SIZE, True)
    slot = slot_for(ring, tmp_path / "log")
    for number in range(1000):
        assert ring.put(slot, b"%d\n" % number)
    ring.drop(slot)
    assert ring.close()[:2] == (1000, 0)
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1000


def test_starting_and_closing_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    before = count_entries("/proc/self/fd"), count_entries("/proc/self/task")
    for _ in range(50):
        ring = LogRing(SIZE, True)
        slot_for(ring, tmp_path / "log")
        ring.close()
    assert (count_entries("/proc/self/fd"), count_entries("/proc/self/task")) == before


def test_a_pipe_that_is_not_read_stalls_only_the_thread_and_the_end_is_bounded() -> None:
    reading, writing = os.pipe()
    ring = LogRing(SIZE, True)
    slot = ring.hold(b"stdout", "stream")
    ring.hand_over(slot, writing)
    os.close(writing)
    put = 0
    line = b"x" * 999 + b"\n"
    while ring.put(slot, line):  # the pipe holds 64 KiB, the ring 128 KiB: then nothing more is taken, and nobody waits
        put += 1
        ring.wake()
    written, lost, n_bytes = ring.close(50)
    assert written + lost >= put
    assert lost > 0
    assert n_bytes == written * 1000
    os.close(reading)


def test_a_stuck_pipe_is_given_up_for_a_descriptor_that_is_handed_over(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    ring = LogRing(SIZE, True)
    slot = ring.hold(b"stdout", "stream")
    ring.hand_over(slot, writing)
    os.close(writing)
    line = b"x" * 999 + b"\n"
    while ring.put(slot, line):
        ring.wake()
    descriptor = open_file(tmp_path / "log")
    ring.hand_over(slot, descriptor)
    os.close(descriptor)
    wait_until(lambda: (tmp_path / "log").stat().st_size > 0, "lines come to the new file")
    ring.close()
    os.close(reading)


def test_a_slow_reader_gets_every_line_that_the_ring_took() -> None:
    reading, writing = os.pipe()
    received = bytearray()

    def read() -> None:
        while data := os.read(reading, 1000):
            received.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    ring = LogRing(SIZE, True)
    slot = ring.hold(b"stdout", "stream")
    ring.hand_over(slot, writing)
    os.close(writing)
    taken = []
    for number in range(20000):
        line = b"%d %s\n" % (number, b"x" * (number % 50))
        if ring.put(slot, line):
            taken.append(line)
        ring.wake()
    written, lost, _ = ring.close(int(DEADLINE_SECONDS * 1000))
    reader.join()
    os.close(reading)
    assert (written, lost) == (len(taken), 0)
    assert bytes(received) == b"".join(taken)
