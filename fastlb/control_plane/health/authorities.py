"""Certificates of the authorities that health checks trust, read by whoever reads the configuration: the start, or the loader of a reload.

So a file for root alone is enough, and what is in force does not change or fail with a file. What was read goes with the configuration
(Health.authorities), to this controller and to those after it.
"""

import os
import stat
from dataclasses import replace

from fastlb import FastlbError
from fastlb.control_plane.config.schema import Config

# Five times what a system trusts.
MAX_FILE_BYTES = 1 << 20


class AuthoritiesError(FastlbError):
    """Certificates of authorities cannot be read; the text names the pool and the file."""


def read_authorities(config: Config) -> Config:
    """The configuration with what its pools' health.tls_ca_file hold. Whether these are certificates is seen when they are used.

    Raises:
        AuthoritiesError: files cannot be read.
    """
    texts: dict[str, str] = {}
    errors: list[str] = []
    pools = []
    for pool in config.pools:
        path = pool.health.tls_ca_file
        if path:
            try:
                if path not in texts:
                    texts[path] = _read(path)
            except OSError as error:
                errors.append(f'pool "{pool.name}": cannot read the certificates in {path}: {(error.strerror or str(error)).lower()}')
                continue
            pool = replace(pool, health=replace(pool.health, authorities=texts[path]))
        pools.append(pool)
    if errors:
        raise AuthoritiesError("\n".join(errors))
    return replace(config, pools=tuple(pools)) if texts else config


def _read(path: str) -> str:
    """The file's text, of which what is no ASCII is in remarks between certificates."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO does not keep us
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a file")
        raw = file.read(MAX_FILE_BYTES + 1)
    if not raw.strip() or len(raw) > MAX_FILE_BYTES:
        raise OSError("it is empty" if len(raw) <= MAX_FILE_BYTES else f"it has more than {MAX_FILE_BYTES} bytes")
    return raw.decode("ascii", "ignore")
