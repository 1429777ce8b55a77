"""Keeps an OCSP response for each certificate that wants one: from the disk, from its responder, and in time from there again.

Owns the responses that may be stapled now and the tasks that renew them. Whatever it holds has been verified, and goes away before it is
stale. A responder that does not answer is asked again and again, ever more rarely, while what is there still holds. Everything happens on
the loop's thread; files are read and written in others.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from fastlb.control_plane.tls.fetch import FetchError, fetch
from fastlb.control_plane.tls.ocsp import (
    MAX_RESPONSE_BYTES,
    REQUEST_TYPE,
    OcspError,
    RevokedError,
    Staple,
    Subject,
    make_question,
    make_request,
    make_subject,
    read_response,
    requires_staple,
)
from fastlb.control_plane.tls.state_files import StateError, StateFiles

FOLDER = "ocsp"
FETCH_SECONDS = 10.0
MAX_FETCHES = 8  # at a time
# From one failure to the next try: twice as long each time.
FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0
JITTER = 0.1
# Of a response that nobody has renewed; CAs make them for a week.
PRUNE_SECONDS = 30 * 86400.0
# The clock is looked at so often: somebody may set it, or the machine may have slept.
LOOK_SECONDS = 60.0
MARGIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Wish:
    """A certificate whose state is to be stapled.

    Args:
        label: what messages call it.
        chain: PEM, the leaf first.
        responder: a URL to ask in the place of the one that the certificate names; "" for that.
        is_explicit: the configuration asks for it, so that it is said where it cannot be had.
    """

    label: str
    chain: bytes
    responder: str = ""
    is_explicit: bool = False


@dataclass(slots=True)
class Kept:
    """What is known of one certificate."""

    wish: Wish
    subject: Subject
    staple: Staple | None = None
    error: str = ""  # of the last try, or of what the responder said
    is_revoked: bool = False
    tries: int = 0  # since the last new response
    failures: int = 0  # in all
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Stapling:
    """Keeps the responses of those certificates that `follow` was given last.

    Args:
        on_change: called on the loop when `staples` differs from before.
        report: tells whoever runs fastlb one line.
        ask: fetches; as `fetch.fetch`.
        now: the time of day.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[], None],
        report: Callable[[str], None],
        ask: Callable[..., Any] = fetch,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._report = report
        self._ask = ask
        self._now = now
        self._files = StateFiles(None)
        self._kept: dict[Wish, Kept] = {}
        self._loaded: dict[Wish, Kept] = {}  # for a configuration that is about to be offered
        self._told: set[Wish] = set()  # those of which it has been said that nothing can be asked
        self._fetches = asyncio.Semaphore(MAX_FETCHES)

    # ------------------------------------------------------------------------------------------------ configurations
    def use(self, files: StateFiles) -> None:
        """Where responses are kept from now on."""
        self._files = files

    async def load(self, wishes: Iterable[Wish]) -> Mapping[bytes, bytes]:
        """What can be stapled at once for a configuration that is about to be offered: the DER by chain."""
        found = {}
        loaded = self._loaded = {}
        for wish in wishes:
            kept = self._kept.get(wish)
            if kept is None and (kept := self._make(wish)) is not None:
                await self._read(kept)
                loaded[wish] = kept
            if kept is None:
                continue
            if kept.staple is not None and self._holds(kept.staple):
                found[wish.chain] = kept.staple.der
        return found

    def follow(self, wishes: Sequence[Wish]) -> None:
        """Keeps the responses of these from now on."""
        before, self._kept = self._kept, {}
        for wish in wishes:
            kept = before.pop(wish, None) or self._loaded.pop(wish, None) or self._make(wish)
            if kept is not None:
                self._kept[wish] = kept
                if kept.task is None:
                    kept.task = self._loop.create_task(self._keep(kept))
        for gone in before.values():
            if gone.task is not None:
                gone.task.cancel()
        self._told &= set(wishes)

    def staples(self) -> dict[bytes, bytes]:
        """What is to be stapled now: the DER by chain."""
        every = ((kept.wish.chain, kept.staple) for kept in self._kept.values())
        return {chain: staple.der for chain, staple in every if staple is not None and self._holds(staple)}

    def describe(self) -> list[dict[str, Any]]:
        """For JSON and metrics, one for each certificate."""
        return [
            {
                "certificate": kept.wish.label,
                "stapled": kept.staple is not None,
                "this_update": kept.staple.this_update.timestamp() if kept.staple is not None else None,
                "next_update": kept.staple.next_update.timestamp() if kept.staple is not None else None,
                "revoked": kept.is_revoked,
                "must_staple": kept.subject.must_staple,
                "failures": kept.failures,
                "error": kept.error,
            }
            for kept in self._kept.values()
        ]

    def close(self) -> None:
        """Nothing is asked any more, until `follow`."""
        self.follow(())

    # ------------------------------------------------------------------------------------------------ one certificate
    def _make(self, wish: Wish) -> Kept | None:
        """None where nothing can be asked, which is said where somebody counts on it."""
        chain = x509.load_pem_x509_certificates(wish.chain)
        subject = make_subject(chain)
        if subject is not None and (wish.responder or subject.responders):
            return Kept(wish, subject)
        if wish not in self._told and (wish.is_explicit or requires_staple(chain[0])):
            self._told.add(wish)
            why = "the certificate of its issuer is not in the file" if subject is None else "it names no responder"
            self._report(f"warning: {wish.label}: no OCSP response can be stapled: {why}{_consequence(requires_staple(chain[0]))}")
        return None

    async def _read(self, kept: Kept) -> None:
        """Takes what is on the disk, if that holds."""
        try:
            der = await asyncio.to_thread(self._files.read, _file_of(kept))
            if der:
                kept.staple = read_response(der, kept.subject, self._now())
        except (OcspError, StateError):
            pass  # a better one is asked for in a moment

    async def _keep(self, kept: Kept) -> None:
        """Renews it for ever. Runs until it is cancelled."""
        due = self._plan(kept)
        while True:
            until = due if kept.staple is None else min(due, end_of(kept.staple))
            await asyncio.sleep(min(max(0.0, (until - self._now()).total_seconds()), LOOK_SECONDS))
            if kept.staple is not None and not self._holds(kept.staple):
                self._drop(kept)
            if self._now() >= due:
                try:
                    await self._renew(kept)
                except Exception as error:  # it is asked again, later
                    self._note_failure(kept, f"a mistake in fastlb: {type(error).__name__}: {error}")
                due = self._plan(kept)

    def _plan(self, kept: Kept) -> datetime:
        """When to ask next."""
        if kept.tries:
            return self._now() + timedelta(seconds=jittered(min(FIRST_WAIT_SECONDS * 2 ** min(kept.tries - 1, 16), LONGEST_WAIT_SECONDS)))
        if kept.staple is None:
            return self._now()
        validity = kept.staple.next_update - kept.staple.this_update
        return kept.staple.refresh_at() + validity * random.uniform(0, JITTER)  # noqa: S311  nobody gains by guessing it

    async def _renew(self, kept: Kept) -> None:
        """Asks once, every responder that there is."""
        request = make_request(kept.subject)
        error: Exception | None = None
        for responder in (kept.wish.responder,) if kept.wish.responder else kept.subject.responders:
            url, body = make_question(responder, request)
            try:
                async with self._fetches:
                    der = await self._ask(
                        url, body=body, content_type=REQUEST_TYPE, max_bytes=MAX_RESPONSE_BYTES, timeout_seconds=FETCH_SECONDS
                    )
                staple = read_response(der, kept.subject, self._now())
                if not self._holds(staple):
                    raise OcspError("it is about to end")
            except RevokedError as revoked:
                self._note_failure(kept, str(revoked), is_revoked=True)
                return
            except OcspError as refused:
                error = OcspError(f"{responder} answered, but {refused}")
            except FetchError as failed:
                error = failed
            else:
                await self._take(kept, staple)
                return
        self._note_failure(kept, str(error))

    async def _take(self, kept: Kept, staple: Staple) -> None:
        if kept.error:
            self._report(f"{kept.wish.label}: its OCSP response can be had again")
        kept.error, kept.is_revoked = "", False
        if kept.staple is not None and staple.this_update <= kept.staple.this_update:
            kept.tries += 1  # a cache of the responder's has the one that we have: it will have another one soon
            return
        kept.staple, kept.tries = staple, 0
        self._on_change()
        try:
            await asyncio.to_thread(self._keep_file, _file_of(kept), staple.der)
        except StateError as error:
            self._report(f"warning: {kept.wish.label}: its OCSP response is used, but not kept for the next start: {error}")

    def _keep_file(self, name: str, der: bytes) -> None:
        """In a thread."""
        self._files.write(name, der)
        self._files.prune(FOLDER, PRUNE_SECONDS)

    def _note_failure(self, kept: Kept, reason: str, is_revoked: bool = False) -> None:
        is_first, is_news = not kept.error, kept.error != reason
        kept.error = reason
        kept.tries += 1
        kept.failures += 1
        if is_revoked:
            kept.is_revoked = True
            if is_news:
                self._report(f"warning: {kept.wish.label}: {reason}: replace it; nothing is stapled")
            if kept.staple is not None:
                self._drop(kept)
        elif is_first:
            holds = f"the one at hand holds until {kept.staple.next_update:%Y-%m-%d %H:%M} UTC" if kept.staple is not None else ""
            after = holds or f"nothing is stapled{_consequence(kept.subject.must_staple)}"
            self._report(f"warning: {kept.wish.label}: no new OCSP response: {reason}; {after}. It is tried again")

    def _drop(self, kept: Kept) -> None:
        """What is there must not be stapled any more."""
        kept.staple = None
        self._files.remove(_file_of(kept))
        if not kept.is_revoked:
            self._report(
                f"warning: {kept.wish.label}: its OCSP response has ended, and nothing is stapled{_consequence(kept.subject.must_staple)}"
            )
        self._on_change()

    def _holds(self, staple: Staple) -> bool:
        return self._now() < end_of(staple)


def end_of(staple: Staple) -> datetime:
    """When a response is not stapled any more, which is before its end: clocks of clients differ."""
    return staple.next_update - min(MARGIN, (staple.next_update - staple.this_update) / 10)


def jittered(seconds: float) -> float:
    """About so much: many nodes do not ask in step."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  nobody gains by guessing it


def _file_of(kept: Kept) -> str:
    return f"{FOLDER}/{kept.subject.fingerprint}.der"


def _consequence(must_staple: bool) -> str:
    return "; the certificate says that clients refuse it so (must-staple)" if must_staple else ""
