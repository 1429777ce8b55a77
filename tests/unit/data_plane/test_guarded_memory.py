"""tests/support/_probe.pyx: does the guard notice a read of one byte too many? The parser tests rely on it."""

import os
import signal
import subprocess
import sys

SCRIPT = (
    "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); from tests.support import _probe; _probe.read_past_the_end(b'abc')"
)


def test_reading_past_the_end_ends_the_process() -> None:
    # Under the address sanitizer the signal is ours as well: this crash is wanted and must not be reported.
    environment = {**os.environ, "ASAN_OPTIONS": "handle_segv=0:detect_leaks=0", "PYTHONFAULTHANDLER": ""}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=False)
    assert result.returncode == -signal.SIGSEGV, result.stderr
