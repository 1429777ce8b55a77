"""UDP sockets of listeners: one per worker, and which of them the kernel gives a datagram.

A session lives in one worker, so all datagrams of a client have to come to the same socket. By itself the kernel goes by a hash of both
addresses modulo the number of sockets: with one more worker nearly every session would change places. So the sockets of an address get
a small program (SO_ATTACH_REUSEPORT_CBPF): a hash of the client's address and port chooses one of 256 shares, and a table says whose
that is. A socket that is added takes its part of the shares evenly from the others, and nobody else loses any. The table follows from the
number of sockets alone.

The hash has a secret, so that nobody can aim many sessions at one worker: it is mixed in before each part of the address, between steps
that no sum or difference passes through unchanged. It is each supervisor's own: sessions begin anew in the next fastlb anyway, and as
long as this one runs its programs agree, whatever becomes of workers. It is no cipher: who sees which worker answers can learn from that.
"""

import os
import socket
import struct
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

SHARES = 256  # twice as many as there may be workers

_SO_ATTACH_REUSEPORT_CBPF = 51  # linux/asm-generic/socket.h; not in Python's socket module
# linux/bpf_common.h, linux/filter.h
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20
_LOAD_HALF_AT_X = 0x48
_LOAD_X, _STORE = 0x61, 0x02
_AND, _SHIFT_LEFT, _SHIFT_RIGHT, _MULTIPLY, _XOR, _XOR_X, _ADD_X, _TO_X = 0x54, 0x64, 0x74, 0x24, 0xA4, 0xAC, 0x0C, 0x07
_IF_AT_LEAST, _RETURN = 0x35, 0x06
_NETWORK = 0xFFF00000  # SKF_NET_OFF: counts from the IP header

# MurmurHash3's last steps: every bit of a word comes to bear on every other.
_MIX, _MIX_AGAIN = 0x85EBCA6B, 0xC2B2AE35

Instruction = tuple[int, int, int, int]  # code, jumps if true and if not, operand


def share_out(n_sockets: int) -> list[int]:
    """Which socket each share belongs to, as evenly as numbers allow. With one socket more, only that one's shares change hands."""
    owners = [0] * SHARES
    for newcomer in range(1, n_sockets):
        counts = [owners.count(one) for one in range(newcomer)]
        for _ in range(SHARES // (newcomer + 1)):
            richest = max(range(newcomer), key=lambda one: counts[one])
            counts[richest] -= 1
            owners[len(owners) - 1 - owners[::-1].index(richest)] = newcomer
    return owners


@cache
def own_secret() -> int:
    """Of this process."""
    return int.from_bytes(os.urandom(4))


def steer(sockets: Sequence[socket.socket]) -> None:
    """Has the kernel choose among the sockets of one address, in the order in which they were bound; one that cannot chooses by itself."""
    for family in {one.family for one in sockets}:
        some = [one for one in sockets if one.family == family]
        if len(some) < 2:
            continue
        instructions = make_program(family, len(some), own_secret())
        packed = array("B", b"".join(struct.pack("=HBBI", *one) for one in instructions))
        program = struct.pack("@HP", len(instructions), packed.buffer_info()[0])
        with suppress(OSError):
            some[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def make_program(family: socket.AddressFamily, n_sockets: int, secret: int) -> list[Instruction]:
    """From a datagram's IP header to the number of a socket. `secret`: 32 bits."""
    if family == socket.AF_INET:
        steps: list[Instruction] = [
            (_LOAD_BYTE, 0, 0, _NETWORK),
            (_AND, 0, 0, 15),
            (_SHIFT_LEFT, 0, 0, 2),
            (_TO_X, 0, 0, 0),
            (_LOAD_HALF_AT_X, 0, 0, _NETWORK),
        ]
        words = [12]
    else:
        steps = [(_LOAD_HALF, 0, 0, _NETWORK + 40)]  # behind extension headers it is something else, and always the same
        words = [8, 12, 16, 20]
    steps += [(_XOR, 0, 0, secret), *_mix()]
    for at in words:
        steps += [(_TO_X, 0, 0, 0), (_LOAD_WORD, 0, 0, _NETWORK + at), (_ADD_X, 0, 0, 0), (_XOR, 0, 0, secret), *_mix()]
    return [*steps, (_SHIFT_RIGHT, 0, 0, 24), *_look_up(share_out(n_sockets), 0, SHARES)]


def _mix() -> list[Instruction]:
    """The accumulator, stirred."""
    steps: list[Instruction] = []
    for shift, factor in ((16, _MIX), (13, _MIX_AGAIN), (16, 1)):
        steps += [(_STORE, 0, 0, 0), (_SHIFT_RIGHT, 0, 0, shift), (_LOAD_X, 0, 0, 0), (_XOR_X, 0, 0, 0), (_MULTIPLY, 0, 0, factor)]
    return steps


def _look_up(owners: Sequence[int], first: int, end: int) -> list[Instruction]:
    """A binary search for the share in the accumulator."""
    if len(set(owners[first:end])) == 1:
        return [(_RETURN, 0, 0, owners[first])]
    middle = (first + end) // 2
    lower = _look_up(owners, first, middle)
    return [(_IF_AT_LEAST, len(lower), 0, middle), *lower, *_look_up(owners, middle, end)]
