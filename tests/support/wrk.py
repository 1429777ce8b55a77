"""A constant load by wrk: what it counts as an error, it counts for us."""

import json
import signal
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.process import ROOT
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SCRIPT = ROOT / "bench" / "compare" / "wrk.lua"  # figures as a line of JSON; it runs no Lua per request
ERRORS = ("connect", "read", "write", "status", "timeout")  # `status`: anything from 400 on


class WrkLoad:
    """Two runs of wrk: `fresh` clients that make a connection for each request, and `kept` ones that keep theirs.

    Args:
        answered: how many requests backends have answered so far.
    """

    def __init__(self, address: tuple[str, int], answered: Callable[[], int], *, fresh: int = 4, kept: int = 4) -> None:
        self.failures: list[dict[str, int]] = []
        self.answered = 0  # once it has ended
        self._backends_answered = answered
        self._runs = [
            subprocess.Popen(
                [
                    "wrk",
                    "-t1",
                    f"-c{clients}",
                    "-d1h",
                    f"--timeout={DEADLINE_SECONDS:.0f}s",
                    "-s",
                    SCRIPT,
                    *headers,
                    "http://{}:{}/".format(*address),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for clients, headers in ((kept, []), (fresh, ["-H", "Connection: close"]))
        ]

    def wait_for_answers(self, more: int = 100) -> None:
        """Until so many further requests have been answered: the load is on, and served."""
        wanted = self._backends_answered() + more
        wait_until(lambda: self._backends_answered() >= wanted, f"{more} requests more are answered")

    def __enter__(self) -> "WrkLoad":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for run in self._runs:
            run.send_signal(signal.SIGINT)
        for run in self._runs:
            said = run.communicate(timeout=DEADLINE_SECONDS)[0]
            figures: dict[str, Any] = json.loads(said.splitlines()[-1]) if said else {}
            self.answered += figures.get("requests", 0)
            failed = {name: figures[name] for name in ERRORS if figures.get(name, 1)}
            if failed or not figures["requests"]:
                self.failures.append(failed)
