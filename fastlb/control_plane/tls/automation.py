"""What the controller does for TLS by itself: certificates from CAs and OCSP responses, as one thing that snapshots ask.

Owns the two keepers, and makes them only where a configuration has use for them: they import `cryptography` and `acme`, which others shall
not pay for. Whatever changes in them becomes another snapshot, again and again until it is in force.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastlb import FastlbError
from fastlb.control_plane.config.acme import AcmeOptions
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.tls.account import Account
from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.challenge import Challenge
from fastlb.control_plane.tls.material import Material, list_served
from fastlb.control_plane.tls.state_files import find_state_files

if TYPE_CHECKING:
    from fastlb.control_plane.tls.acme import Acme, Issued, Wanted
    from fastlb.control_plane.tls.stapling import Stapling, Wish

# After a snapshot that could not be put in force.
RETRY_SECONDS = 30.0


class AutomationError(FastlbError):
    """Something that is needed is not installed."""


@dataclass(frozen=True, slots=True)
class Automatic:
    """What a snapshot has besides what files hold.

    Args:
        certificates: those of CAs, by what the configuration says of them.
        staples: OCSP responses (DER) by chain (PEM).
        challenges: what CAs are about to look for.
    """

    certificates: Mapping[AcmeOptions, Certificate] = field(default_factory=dict)
    staples: Mapping[bytes, bytes] = field(default_factory=dict)
    challenges: tuple[Challenge, ...] = ()


NOTHING = Automatic()


class Automation:
    """All of it.

    Args:
        reapply: has the configuration in force put in force again; returns when every worker has it. FastlbError: it could not be.
        report: tells whoever runs fastlb one line.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, reapply: Callable[[], Awaitable[object]], report: Callable[[str], None]) -> None:
        self._loop = loop
        self._reapply = reapply
        self._report = report
        self._acme: Acme | None = None
        self._stapling: Stapling | None = None
        self._issued: Mapping[Wanted, Issued] = {}  # of the configuration that was prepared last
        self._wishes: list[Wish] = []
        self._applying: asyncio.Task[None] | None = None
        self._has_warned = False  # of what is not installed
        self._has_changed = False  # something that is not in the snapshot in force

    async def prepare(self, config: Config, material: Material) -> Automatic:
        """What there is for a configuration that is about to be offered.

        Raises:
            AutomationError: what it needs is not installed.
        """
        certificates: dict[AcmeOptions, Certificate] = {}
        orders = list_orders(config)
        self._issued = {}
        if orders or self._acme is not None:
            acme = self._open_acme()
            acme.use(find_state_files(config.settings))
            wanted = {options: make_wanted(options) for options in orders}
            self._issued = await acme.load(wanted.values())
            certificates = {options: make_certificate(one, self._issued[one]) for options, one in wanted.items()}
        staples: Mapping[bytes, bytes] = {}
        self._wishes = []
        if needs_stapling(config, material) or self._stapling is not None:
            try:
                stapling = self._open_stapling()
            except AutomationError as error:  # clients can do without
                if not self._has_warned:
                    self._report(f"warning: {error}")
                self._has_warned = True
            else:
                stapling.use(find_state_files(config.settings))
                self._wishes = list_wishes(config, material, certificates)
                staples = await stapling.load(self._wishes)
        return Automatic(certificates, staples, self._acme.challenges() if self._acme is not None else ())

    def follow(self) -> None:
        """What was prepared last is in force, and looked after from now on."""
        if self._acme is not None:
            self._acme.follow(self._issued)
        if self._stapling is not None:
            self._stapling.follow(self._wishes)

    def close(self) -> None:
        """Nothing is done any more, until `follow`."""
        if self._applying is not None:
            self._applying.cancel()
            self._applying = None
        if self._acme is not None:
            self._acme.close()
        if self._stapling is not None:
            self._stapling.close()

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """For JSON and metrics."""
        return {
            "acme": self._acme.describe() if self._acme is not None else [],
            "ocsp": self._stapling.describe() if self._stapling is not None else [],
        }

    # ------------------------------------------------------------------------------------------------ snapshots
    async def _publish(self) -> None:
        """FastlbError: it is tried again, but whoever waits need not."""
        try:
            await self._reapply()
        except FastlbError:
            self._on_change(RETRY_SECONDS)
            raise

    def _on_change(self, wait_seconds: float = 0.0) -> None:
        self._has_changed = True
        if self._applying is None or self._applying.done():
            self._applying = self._loop.create_task(self._apply_until_it_works(wait_seconds))

    async def _apply_until_it_works(self, wait_seconds: float) -> None:
        while self._has_changed:
            await asyncio.sleep(wait_seconds)
            self._has_changed, wait_seconds = False, 0.0
            try:
                await self._reapply()
            except FastlbError as error:
                self._report(f"warning: certificates or OCSP responses that have changed are not in force yet: {error}")
                self._has_changed, wait_seconds = True, RETRY_SECONDS

    def _open_acme(self) -> "Acme":
        if self._acme is None:
            load_acme()
            from fastlb.control_plane.tls.acme import Acme

            self._acme = Acme(self._loop, self._publish, self._report)
        return self._acme

    def _open_stapling(self) -> "Stapling":
        if self._stapling is None:
            load_stapling()
            from fastlb.control_plane.tls.stapling import Stapling

            self._stapling = Stapling(self._loop, self._on_change, self._report)
        return self._stapling


def load_what_is_needed(config: Config, material: Material) -> None:
    """Imports what a configuration has use for, while that can still be read: before privileges are dropped.

    Raises:
        AutomationError: it is not installed.
    """
    if list_orders(config):
        load_acme()
    if needs_stapling(config, material):
        load_stapling()


def load_acme() -> None:
    """AutomationError: there is no such package."""
    try:
        import fastlb.control_plane.tls.acme
        import fastlb.control_plane.tls.acme_client  # noqa: F401
    except ImportError as error:
        right = 'pip install "fastlb[acme]"; where they are installed, start fastlb again: it loads them before it drops privileges'
        raise AutomationError(f"tls.acme needs the Python packages acme and josepy, which cannot be imported ({error}); {right}") from error


def load_stapling() -> None:
    """AutomationError: there is no such package."""
    try:
        import fastlb.control_plane.tls.stapling  # noqa: F401
    except ImportError as error:
        right = "start fastlb again: it loads it before it drops privileges"
        raise AutomationError(f"OCSP stapling needs the package cryptography, which cannot be imported ({error}); {right}") from error


def wants_state(config: Config, material: Material) -> bool:
    """Whether there is something to keep over restarts."""
    return bool(list_orders(config)) or needs_stapling(config, material)


def list_orders(config: Config) -> list[AcmeOptions]:
    """The certificates that are had from CAs, each once."""
    return list(dict.fromkeys(options for listener in config.listeners for options in listener.tls.acme))


def needs_stapling(config: Config, material: Material) -> bool:
    """Whether some certificate has something to do with OCSP. Of those that a CA will issue nobody knows."""
    return any(
        listener.tls.ocsp.staple
        and (
            listener.tls.acme
            or listener.tls.ocsp.responder
            or any(certificate.responders or certificate.must_staple for certificate, _ in list_served(listener, material))
        )
        for listener in config.listeners
        if listener.tls.is_on
    )


def list_wishes(config: Config, material: Material, certificates: Mapping[AcmeOptions, Certificate]) -> "list[Wish]":
    """What is to be stapled, each once."""
    from fastlb.control_plane.tls.stapling import Wish

    wishes = []
    for listener in config.listeners:
        ocsp = listener.tls.ocsp
        if not listener.tls.is_on or not ocsp.staple:
            continue
        served = [certificate for certificate, _ in list_served(listener, material)]
        served += [certificates[options] for options in listener.tls.acme if certificates[options].not_after]
        for one in served:
            wishes.append(Wish(one.cert, one.chain, ocsp.responder, is_explicit=bool(ocsp.responder)))
    return list({wish.chain: wish for wish in reversed(wishes)}.values())[::-1]


def make_wanted(options: AcmeOptions) -> "Wanted":
    """What the keeper of certificates calls it."""
    from fastlb.control_plane.tls.acme import Wanted

    account = Account(options.directory, options.email, options.ca, options.eab_key_id, options.eab_hmac)
    return Wanted(account, options.domains, options.challenge, options.key_type)


def make_certificate(wanted: "Wanted", issued: "Issued") -> Certificate:
    """What is served of it; a placeholder has no end (0): nobody is warned of that."""
    name = f"acme:{wanted.domains[0]}"
    return Certificate(
        cert=name,
        key_file=name,
        chain=issued.chain,
        key=issued.key,
        names=wanted.domains,
        key_type="RSA" if wanted.key_type.startswith("rsa") else "ECDSA",
        not_before=int(issued.not_before),
        not_after=int(issued.not_after),
        fingerprint=issued.fingerprint,
        issuer=issued.issuer,
    )
