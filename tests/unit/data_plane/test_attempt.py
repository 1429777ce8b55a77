"""fastlb/data_plane/attempt.pyx: what a connect's errno means. Attempts as a whole are tested with real processes."""

import errno

import pytest

from tests.support._probe import connect_failure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ECONNREFUSED, "backend:connect_refused"),
        (errno.ENOENT, "backend:connect_refused"),  # a unix socket that is not there
        (errno.ETIMEDOUT, "backend:connect_timeout"),
        (errno.EHOSTUNREACH, "backend:connect_failed"),
        (errno.ENETUNREACH, "backend:connect_failed"),
        (errno.EADDRNOTAVAIL, "backend:connect_failed"),
        (errno.EACCES, "backend:connect_failed"),
        (errno.EMFILE, "out_of_memory"),
        (errno.ENFILE, "out_of_memory"),
        (errno.ENOBUFS, "out_of_memory"),
        (errno.ENOMEM, "out_of_memory"),
    ],
    ids=lambda value: errno.errorcode.get(value, value) if isinstance(value, int) else value,
)
def test_each_errno_has_its_failure(error: int, reason: str) -> None:
    assert connect_failure(error) == reason
