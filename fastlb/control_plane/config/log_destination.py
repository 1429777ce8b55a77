"""Where log lines go: a file, standard output or error, syslog on this machine or another."""

import re
from dataclasses import dataclass, replace

from fastlb.control_plane.config.errors import Rejected, nearest, quote, quote_all

# By their numbers (RFC 5424 section 6.2.1).
_FACILITY_NAMES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
FACILITIES = {name: number for number, name in enumerate(_FACILITY_NAMES)} | {f"local{number}": 16 + number for number in range(8)}
SEVERITIES = {name: number for number, name in enumerate(("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"))}
SYSLOG_PORT = 514
_FORMS = 'a destination is a path such as "/var/log/fastlb/access.log", "stdout", "stderr" or "syslog:/dev/log"'


@dataclass(frozen=True, slots=True)
class LogDestination:
    """One place for lines.

    Args:
        kind: as the data plane writes to it (`_core.LOG_DESTINATION_KINDS`): file, stream or datagrams.
        path: of the file, or of the unix socket; "" for others.
        stream: stdout or stderr; "" for others.
        host, port: of a syslog server; "" and 0 for others.
        facility, severity, tag: what syslog messages say about themselves.
    """

    kind: str
    path: str = ""
    stream: str = ""
    host: str = ""
    port: int = 0
    facility: str = ""
    severity: str = ""
    tag: str = ""

    def __str__(self) -> str:
        if self.kind == "datagrams":
            return f"syslog:{self.path or f'udp://{self.host}:{self.port}'}"
        return self.path or self.stream

    @property
    def priority(self) -> int:
        return FACILITIES[self.facility] * 8 + SEVERITIES[self.severity]


def parse_destination(text: str) -> LogDestination:
    """A path, "stdout", "stderr", or "syslog:/dev/log" or "syslog:udp://HOST:PORT" with ",facility=…", ",severity=…", ",tag=…"."""
    if text in ("stdout", "stderr"):
        return LogDestination("stream", stream=text)
    if text.startswith("syslog:"):
        return _parse_syslog(text.removeprefix("syslog:"))
    if "\0" in text:
        raise Rejected("a path has no zero bytes", _FORMS)
    if "/" not in text or text.endswith("/"):
        meant = nearest(text, ("stdout", "stderr", "syslog:/dev/log")) or (f"./{text}" if text and "/" not in text else None)
        raise Rejected(f"{quote(text)} is no destination", _FORMS, meant)
    if re.match(r"[a-z]+:", text):
        raise Rejected(f"{quote(text)} is no destination", _FORMS, f"syslog:{text}" if text.startswith("udp:") else None)
    return LogDestination("file", path=text)


def _parse_syslog(text: str) -> LogDestination:
    address, *settings = text.split(",")
    values = {"facility": "local7", "severity": "info", "tag": "fastlb"}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in values or not equals:
            right = "behind the address come ,facility=…, ,severity=… and ,tag=…"
            raise Rejected(f"{quote(setting)} is no setting of syslog", right, nearest(key, values))
        known = FACILITIES if key == "facility" else SEVERITIES if key == "severity" else None
        if known is not None and value not in known:
            raise Rejected(f"unknown {key} {quote(value)}", f"{key} is {quote_all(known)}", nearest(value, known))
        if known is None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", value):
            raise Rejected(f"{quote(value)} is no tag", "a tag is 1 to 32 letters, digits, _, . and -")
        values[key] = value
    destination = LogDestination("datagrams", facility=values["facility"], severity=values["severity"], tag=values["tag"])
    if address.startswith("/") and len(address.encode()) < 108 and "\0" not in address:
        return replace(destination, path=address)
    found = re.fullmatch(r"udp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", address)
    if not found or not 0 < int(found[2] or SYSLOG_PORT) < 65536:
        right = "the address is a path such as /dev/log, or udp://HOST:PORT"
        raise Rejected(f"{quote(address)} is no address of a syslog server", right, "syslog:/dev/log" if not address else None)
    return replace(destination, host=found[1].strip("[]"), port=int(found[2] or SYSLOG_PORT))
