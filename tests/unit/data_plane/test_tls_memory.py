"""fastlb/data_plane/tls_memory.pyx: blocks that OpenSSL returns are kept, by size and up to a limit, and given out again."""

import ctypes
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support._probe import count_tls_memory_kept, resize_tls_memory, return_tls_memory, take_tls_memory
from tests.support.waiting import SANITIZED

LARGEST = 32768
KEPT_BYTES = 65536

SERVE = """
import sys, fastlb.cli
sys.argv = ["fastlb", "serve", "-c", "/nonexistent"]
try:
    fastlb.cli.main(prog_name="fastlb")
except SystemExit as end:
    assert end.code
from fastlb.data_plane import tls
print(tls.HAS_OWN_MEMORY)
"""
RETURNED_TWICE = """
from tests.support._probe import return_tls_memory, take_tls_memory
memory = take_tls_memory(64)
return_tls_memory(memory)
return_tls_memory(memory)
"""
OVERWRITTEN = """
import ctypes
from tests.support._probe import return_tls_memory, take_tls_memory
first, second = take_tls_memory(64), take_tls_memory(64)
return_tls_memory(second)
ctypes.memset(second - 16, 0x41, 16)
take_tls_memory(64)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", [1, 16, 17, 128, 129, 160, 161, 1000, 16384, 17000, 20480, LARGEST, LARGEST + 1, 100_000])
def test_block_is_aligned_and_has_room(size: int) -> None:
    memory = take_tls_memory(size)
    assert memory % 16 == 0
    ctypes.memset(memory, 0xA5, size)
    return_tls_memory(memory)


@pytest.mark.parametrize("size", [1, 64, 700, 17000, LARGEST])
def test_what_was_returned_last_is_taken_first(size: int) -> None:
    first, second = take_tls_memory(size), take_tls_memory(size)
    kept = count_tls_memory_kept(size)
    return_tls_memory(first)
    return_tls_memory(second)
    assert count_tls_memory_kept(size) == kept + 2
    assert [take_tls_memory(size), take_tls_memory(size)] == [second, first]
    return_tls_memory(first)
    return_tls_memory(second)


@pytest.mark.parametrize("size", [32, 1024, LARGEST])
def test_what_is_kept_is_bounded(size: int) -> None:
    for memory in [take_tls_memory(size) for _ in range(KEPT_BYTES // size + 10)]:
        return_tls_memory(memory)
    assert count_tls_memory_kept(size) == KEPT_BYTES // size


def test_nothing_and_too_much_are_null() -> None:
    assert take_tls_memory(0) == 0
    assert take_tls_memory(2**64 - 1) == 0
    assert take_tls_memory(2**64 - 16) == 0
    return_tls_memory(0)


def test_resized_to_nothing_is_returned() -> None:
    memory = resize_tls_memory(0, 100)
    kept = count_tls_memory_kept(100)
    assert resize_tls_memory(memory, 0) == 0
    assert count_tls_memory_kept(100) == kept + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 70_000)), max_size=60))
def test_contents_stay_whatever_else_is_taken_returned_and_resized(steps: list[tuple[int, int]]) -> None:
    held: dict[int, tuple[int, bytes]] = {}
    for number, (name, size) in enumerate(steps):
        content = bytes([number + 1]) * size
        if name not in held:
            memory = take_tls_memory(size)
        elif size % 3 == 0:
            return_tls_memory(held.pop(name)[0])
            continue
        else:
            memory, old = held[name]
            memory = resize_tls_memory(memory, size)
            common = min(size, len(old))
            assert ctypes.string_at(memory, common) == old[:common]
        ctypes.memmove(memory, content, size)
        held[name] = memory, content
        assert all(ctypes.string_at(memory, len(content)) == content for memory, content in held.values())
    for memory, _ in held.values():
        return_tls_memory(memory)


def test_other_threads_keep_nothing_and_may_return_what_is_not_theirs() -> None:
    memory = take_tls_memory(500)
    kept = count_tls_memory_kept(500)
    taken = []

    def work() -> None:
        return_tls_memory(memory)
        taken.append(take_tls_memory(500))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert count_tls_memory_kept(500) == kept
    return_tls_memory(taken[0])
    assert count_tls_memory_kept(500) == kept + 1


@pytest.mark.skipif(SANITIZED, reason="a sanitizer reports an abort")
@pytest.mark.parametrize("code", [RETURNED_TWICE, OVERWRITTEN])
def test_misuse_ends_the_process(code: str) -> None:
    assert run(code).returncode == -signal.SIGABRT


@pytest.mark.skipif(SANITIZED, reason="sanitizers have to see each block")
def test_serve_has_openssl_use_it() -> None:
    assert run(SERVE).stdout == "True\n"
