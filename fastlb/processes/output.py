"""What a process says to the person who runs it: one line at a time, at once, with the program's name before it."""

import os
import sys
from collections.abc import Iterable
from typing import TextIO


def say(text: str) -> None:
    """What was asked for, on standard output."""
    write_line(sys.stdout, f"fastlb: {text}")


def report(text: str) -> None:
    """What went otherwise than wanted, on standard error."""
    for line in text.splitlines():
        write_line(sys.stderr, f"fastlb: {line}")


def report_warnings(warnings: Iterable[object]) -> None:
    for warning in warnings:
        report(f"warning: {warning}")


def write_line(stream: TextIO, text: str) -> None:
    """Writes at once, and the line with its end in one piece: several processes share the stream. A reader that has gone away is no reason
    to stop serving: from then on nobody is told."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
