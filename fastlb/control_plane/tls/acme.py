"""Certificates that are had from a CA by themselves (ACME): ordered, kept on the disk, renewed at two thirds of their life.

Owns what is served for each order that the configuration wants, and the challenges that the snapshot in force has to answer. Until a CA
has answered the first time that is a self-signed placeholder. What fails is tried again, ever more rarely and never sooner than the CA
wants, also over restarts; what is served goes on meanwhile. Everything here happens on the loop's thread, and whatever blocks in one thread
beside it: a CA that hangs holds up other certificates and nothing else.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from fastlb import FastlbError
from fastlb.control_plane.tls.account import Account
from fastlb.control_plane.tls.challenge import Challenge
from fastlb.control_plane.tls.self_signed import make_key, make_placeholder, write_key
from fastlb.control_plane.tls.state_files import StateError, StateFiles

if TYPE_CHECKING:
    from fastlb.control_plane.tls.acme_client import AcmeClient, Order

T = TypeVar("T")

# From one failure to the next try: twice as long each time. Let's Encrypt allows five failed validations of a name in an hour.
FIRST_WAIT_SECONDS = 300.0
LONGEST_WAIT_SECONDS = 86400.0
# A CA that wants to be left alone for longer than this is asked again all the same.
LONGEST_RETRY_AFTER_SECONDS = 7 * 86400.0
# While another node that shares the state directory orders the same.
LOCKED_SECONDS = 30.0
# The clock is looked at so often: somebody may set it.
LOOK_SECONDS = 60.0
RENEW_AT = 2 / 3  # of the life of a certificate
RENEW_JITTER = 1 / 30
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that a configuration wants to have from a CA.

    Args:
        domains: names, in lower case and ASCII.
        challenge: `config.acme.HTTP_01` or `TLS_ALPN_01`.
        key_type: one of `config.acme.KEY_TYPES`.
    """

    account: Account
    domains: tuple[str, ...]
    challenge: str
    key_type: str

    @property
    def file(self) -> str:
        """Where key and chain are kept, without the ending."""
        digest = hashlib.sha256("\n".join((*self.domains, self.key_type)).encode()).hexdigest()
        return f"{self.account.folder}/{self.domains[0]}-{digest[:12]}"

    @property
    def label(self) -> str:
        """What messages call it."""
        others = len(self.domains) - 1
        return f"ACME certificate for {self.domains[0]}" + (f" and {others} more" if others else "")


@dataclass(frozen=True, slots=True)
class Issued:
    """What is served. PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    not_before: float
    not_after: float
    fingerprint: str = ""  # SHA-256 of the leaf, in hex
    issuer: str = ""
    is_placeholder: bool = False


@dataclass(slots=True)
class Managed:
    """What is known of one certificate."""

    wanted: Wanted
    issued: Issued
    due: float = 0.0  # when the CA is asked, or asked again
    tries: int = 0  # that have failed since the last success
    failures: int = 0  # in all
    error: str = ""  # of the last try
    challenges: tuple[Challenge, ...] = ()  # that are to be in force now
    task: asyncio.Task[None] | None = None


class Acme:
    """Looks after the certificates that `follow` was given last.

    Args:
        publish: has a snapshot with what `load` and `challenges` say put in force; returns when every worker uses it. FastlbError: it
            could not be.
        report: tells whoever runs fastlb one line.
        now: seconds since 1970.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish: Callable[[], Awaitable[object]],
        report: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._publish = publish
        self._report = report
        self._now = now
        self._files = StateFiles(None)
        self._managed: dict[Wanted, Managed] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._clients: dict[Account, AcmeClient] = {}
        self._ordering = asyncio.Lock()  # one after the other, as they have one thread; the lock on the disk is for other processes

    # ------------------------------------------------------------------------------------------------ configurations
    def use(self, files: StateFiles) -> None:
        """Where accounts and certificates are kept from now on."""
        if files.directory != self._files.directory:
            self._clients.clear()
        self._files = files

    async def load(self, wanted: Iterable[Wanted]) -> Mapping[Wanted, Issued]:
        """What can be served at once for a configuration that is about to be offered: from the disk, or a placeholder."""
        found = {}
        for one in wanted:
            managed = self._managed.get(one)
            # Not in the thread of the CA's: a reload does not wait for one that hangs.
            found[one] = managed.issued if managed is not None else await asyncio.to_thread(self._read_or_make, one)
        return found

    def follow(self, issued: Mapping[Wanted, Issued]) -> None:
        """Looks after these from now on, which are in force as `load` said."""
        before, self._managed = self._managed, {}
        for wanted, one in issued.items():
            managed = before.pop(wanted, None) or Managed(wanted, one)
            self._managed[wanted] = managed
            if managed.task is None:
                managed.task = self._loop.create_task(self._keep(managed))
        for gone in before.values():
            if gone.task is not None:
                gone.task.cancel()

    def challenges(self) -> tuple[Challenge, ...]:
        """What a CA may look for now."""
        return tuple(challenge for managed in self._managed.values() for challenge in managed.challenges)

    def describe(self) -> list[dict[str, Any]]:
        """For JSON and metrics, one for each certificate."""
        return [
            {
                "domains": list(wanted.domains),
                "directory": wanted.account.directory,
                "placeholder": managed.issued.is_placeholder,
                "not_after": managed.issued.not_after,
                "next_try": managed.due,
                "failures": managed.failures,
                "error": managed.error,
            }
            for wanted, managed in self._managed.items()
        ]

    def close(self) -> None:
        """No CA is asked any more. A thread that waits for one is left to itself."""
        self.follow({})
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    # ------------------------------------------------------------------------------------------------ one certificate
    async def _keep(self, managed: Managed) -> None:
        """Has it renewed for ever. Runs until it is cancelled."""
        managed.due = max(self._renewal(managed.issued), await self._run(self._read_wait, managed))
        while True:
            left = managed.due - self._now()
            if left > 0:
                await asyncio.sleep(min(left, LOOK_SECONDS))
                continue
            try:
                async with self._ordering:
                    await self._renew(managed)
            except FastlbError as error:
                await self._note_failure(managed, error)
            except Exception as error:  # the others are looked after all the same, and so is this one, later
                await self._note_failure(managed, FastlbError(f"a mistake in fastlb: {type(error).__name__}: {error}"))

    def _renewal(self, issued: Issued) -> float:
        """When a certificate is due to be renewed."""
        if issued.is_placeholder:
            return 0.0
        life = issued.not_after - issued.not_before
        return issued.not_before + life * (RENEW_AT + random.uniform(0, RENEW_JITTER))  # noqa: S311  nobody gains by guessing it

    async def _renew(self, managed: Managed) -> None:
        """Gets a new one, of the CA or from another node that was first.

        Raises:
            FastlbError: there is none.
        """
        wanted = managed.wanted
        lock = await self._run(self._files.lock, f"{wanted.account.folder}/lock")
        if lock is None:
            managed.due = self._now() + jittered(LOCKED_SECONDS)
            return
        try:
            issued = await self._run(self._read, wanted)
            if issued is None or issued.chain == managed.issued.chain or self._renewal(issued) <= self._now():
                issued = await self._issue(managed)
        finally:
            lock.close()
        managed.issued, managed.error, managed.tries = issued, "", 0
        managed.due = self._renewal(issued)
        self._report(f"{wanted.label}: there is a new one, until {_day(issued.not_after)}; it is renewed after {_day(managed.due)}")
        try:
            await self._publish()
        except FastlbError as error:  # whatever is applied next takes it along
            self._report(f"warning: {wanted.label}: the new one is not in force yet: {error}")

    async def _issue(self, managed: Managed) -> Issued:
        """Orders one and answers what the CA wants to know. Raises FastlbError."""
        wanted = managed.wanted
        client = self._client_of(wanted.account)
        await self._run(client.open)
        order: Order = await self._run(client.order, wanted.domains, wanted.key_type, wanted.challenge)
        if order.challenges:
            managed.challenges = order.challenges
            try:
                await self._publish()  # in every worker, before the CA looks at any
                await self._run(client.answer, order)
            finally:
                managed.challenges = ()  # gone with the next snapshot, which brings the certificate if all is well
        chain: bytes = await self._run(client.finish, order)
        issued = await self._run(read_issued, chain, order.key_pem)
        missing = set(wanted.domains) - names_of(chain)
        if missing:
            raise StateError(f"the CA has left {', '.join(sorted(missing))} out of the certificate")
        try:
            await self._run(self._files.write, f"{wanted.file}.pem", order.key_pem + chain)
            await self._run(self._files.remove, f"{wanted.file}.wait")
        except StateError as error:
            self._report(f"warning: {wanted.label}: it is used, but not kept for the next start: {error}")
        return issued

    async def _note_failure(self, managed: Managed, error: FastlbError) -> None:
        managed.tries += 1
        managed.failures += 1
        managed.error = str(error)
        wait = min(FIRST_WAIT_SECONDS * 2 ** min(managed.tries - 1, 16), LONGEST_WAIT_SECONDS)
        asked = min(float(getattr(error, "retry_after_seconds", 0.0)), LONGEST_RETRY_AFTER_SECONDS)
        managed.due = self._now() + max(jittered(wait), asked)
        issued = managed.issued
        served = "a self-signed placeholder is served" if issued.is_placeholder else f"the one at hand holds until {_day(issued.not_after)}"
        noted = json.dumps({"tries": managed.tries, "due": managed.due}).encode() + b"\n"
        with suppress(StateError):
            await self._run(self._files.write, f"{managed.wanted.file}.wait", noted)
        # Last: when it is said, a process that starts after this one knows it too.
        self._report(f"warning: {managed.wanted.label}: {error}; {served}. It is tried again after {_minute(managed.due)}")

    # ------------------------------------------------------------------------------------------------ in the thread
    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does what blocks, one after the other."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "fastlb-acme")
        return await self._loop.run_in_executor(self._thread, work, *arguments)

    def _client_of(self, account: Account) -> "AcmeClient":
        from fastlb.control_plane.tls.acme_client import AcmeClient  # loaded before privileges are dropped, where it is used at the start

        return self._clients.setdefault(account, AcmeClient(account, self._files))

    def _read_or_make(self, wanted: Wanted) -> Issued:
        found = self._read(wanted)
        if found is not None and found.not_after > self._now():
            return found
        key = make_key(wanted.key_type)
        made = read_issued(make_placeholder(key, wanted.domains), write_key(key))
        return replace(made, not_before=0.0, not_after=0.0, is_placeholder=True)

    def _read(self, wanted: Wanted) -> Issued | None:
        """What is on the disk; None: nothing that can be used."""
        try:
            kept = self._files.read(f"{wanted.file}.pem")
            end = kept.find(b"-----BEGIN CERTIFICATE-----")
            return read_issued(kept[end:], kept[:end]) if end > 0 else None
        except StateError:
            return None

    def _read_wait(self, managed: Managed) -> float:
        """Until when an earlier process wanted to wait."""
        try:
            noted = json.loads(self._files.read(f"{managed.wanted.file}.wait") or b"{}")
            due = min(float(noted.get("due", 0.0)), self._now() + LONGEST_RETRY_AFTER_SECONDS)
            managed.tries = min(max(int(noted.get("tries", 0)), 0), 64)
        except (StateError, ValueError, TypeError, AttributeError):
            return 0.0
        return due


def read_issued(chain: bytes, key: bytes) -> Issued:
    """Checks that a chain and a key belong together. StateError: they do not."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        if load_pem_private_key(key, None).public_key() != leaf.public_key():
            raise StateError("the certificate is not for this key")
    except (ValueError, TypeError) as error:
        raise StateError(f"the certificate or its key cannot be read: {error}") from None
    issuer = next((str(name.value) for name in leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)), "")
    not_before, not_after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    return Issued(chain, key, not_before, not_after, leaf.fingerprint(hashes.SHA256()).hex(), issuer)


def names_of(chain: bytes) -> set[str]:
    """The names that the leaf of a chain is for."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def jittered(seconds: float) -> float:
    """About so much: many nodes do not ask in step."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  as above


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
