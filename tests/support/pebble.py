"""Pebble, Let's Encrypt's ACME CA for tests, on loopback: it looks names up at a name server of ours, and at ports that a test says."""

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.name_server import NameServer
from tests.support.ocsp_authority import Authority
from tests.support.waiting import wait_until


class Pebble:
    """Owns the process and its name server.

    Args:
        http_port, tls_port: where challenges are looked at, for all names.
        names: that lead to this machine.
        bad_nonces: how many of a hundred good nonces are refused.
        seconds: how long a certificate holds.
        external_accounts: keys by their names, one of which a new account has to have; none: none is wanted.
    """

    def __init__(
        self,
        directory: Path,
        names: list[str],
        *,
        http_port: int = 1,
        tls_port: int = 1,
        bad_nonces: int = 5,
        seconds: int = 365 * 86400,
        external_accounts: dict[str, str] | None = None,
    ) -> None:
        if shutil.which("pebble") is None:
            pytest.fail("pebble is missing: apt-get install pebble")
        directory.mkdir(exist_ok=True)
        self.names = NameServer(records={(f"{name}.", "A"): ["127.0.0.1"] for name in names})
        authority = Authority(directory, "an authority of Pebble's")
        issued = authority.issue("localhost")
        self.ca = directory / "ca.pem"
        (directory / "cert.pem").write_bytes(issued.chain)
        (directory / "key.pem").write_bytes(issued.key_pem)
        settings = {
            "listenAddress": "127.0.0.1:0",
            "managementListenAddress": "",
            "certificate": str(directory / "cert.pem"),
            "privateKey": str(directory / "key.pem"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "certificateValidityPeriod": seconds,
            "externalAccountBindingRequired": bool(external_accounts),
            "externalAccountMACKeys": external_accounts or {},
        }
        (directory / "pebble.json").write_text(json.dumps({"pebble": settings}))
        environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(bad_nonces), "PEBBLE_AUTHZREUSE": "0"}
        self.process = subprocess.Popen(
            ["pebble", "-strict", "-config", str(directory / "pebble.json"), "-dnsserver", self.names.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        port = wait_until(self._find_port, "Pebble listens")
        self.directory = f"https://localhost:{port}/dir"

    def said(self, pattern: str) -> int:
        """How many lines of its log hold this."""
        return sum(re.search(pattern, line) is not None for line in list(self.lines))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.names.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def _find_port(self) -> int:
        """The kernel's word: Pebble itself says 0, which it was told."""
        assert self.process.poll() is None, f"pebble ended: {self.lines}"
        inodes = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                inodes.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                return int(fields[1].rpartition(":")[2], 16)
        return 0
