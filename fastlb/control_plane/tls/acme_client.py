"""One conversation with an ACME CA (RFC 8555), over the `acme` package: account, order, challenges, certificate.

Every method blocks, and belongs into the one thread that acme.py has for them. This is the only module that imports `acme`, and it is
imported only where a listener has its certificates from a CA. What the CA sends is bounded in size and time; what it says when it refuses
is passed on.
"""

import json
import os
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import acme.challenges
import acme.client
import acme.errors
import acme.messages
import josepy.errors
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy.b64 import b64encode
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC
from requests.adapters import HTTPAdapter

from fastlb import FastlbError, __version__
from fastlb.control_plane.config.acme import HTTP_01
from fastlb.control_plane.tls.account import Account
from fastlb.control_plane.tls.challenge import Challenge
from fastlb.control_plane.tls.self_signed import make_challenge_certificate, make_key, make_request, write_key
from fastlb.control_plane.tls.state_files import StateFiles

# Of one request; and of its answer: a certificate chain has 10 KiB.
REQUEST_SECONDS = 20.0
MAX_ANSWER_BYTES = 1 << 18
# How long a CA may take to look at challenges, and then to make a certificate.
VALIDATION_SECONDS = 90.0
ISSUE_SECONDS = 90.0
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0
# Nonces are refused by way of exception, where a CA has forgotten them; many times in a row is a mistake of its own.
NONCE_TRIES = 20
MAX_TOKEN_CHARACTERS = 256
TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

_HINTS = {
    "rateLimited": "the CA limits how often it issues for a name or an account",
    "caa": "the CAA records of the name have to allow this CA",
    "dns": "does the name exist for all the world, and does its name server answer?",
    "connection": "does the name lead to this machine, and does its firewall let the CA in on port {port}?",
    "unauthorized": "does the name lead to this machine, and does every address of it (AAAA, too) lead to a listener of this fastlb?",
    "incorrectResponse": "does every address of the name lead to a listener of this fastlb?",
    "tls": "does the name lead to this machine, and is what listens on port {port} this fastlb?",
    "externalAccountRequired": "the CA wants eab_key_id and eab_hmac, which it hands out on its pages",
    "rejectedIdentifier": "the CA does not issue for this name",
    "invalidContact": "the CA does not like the address in email",
}


class AcmeError(FastlbError):
    """There is no certificate; the text says what the CA said, and what to look at.

    Args:
        retry_after_seconds: in less than this the CA does not want to be asked again; 0: it did not say.
    """

    def __init__(self, text: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True)
class Order:
    """A certificate that has been ordered."""

    resource: Any
    key_pem: bytes = field(repr=False)
    challenges: tuple[Challenge, ...] = ()
    bodies: tuple[Any, ...] = ()  # what the CA calls the challenges


class AcmeClient:
    """Talks to one CA as one account. Everything raises AcmeError, and StateError where the account cannot be kept."""

    def __init__(self, account: Account, files: StateFiles) -> None:
        self._account = account
        self._files = files
        self._client: acme.client.ClientV2 | None = None
        self._key: JWK | None = None
        self._network: _Network | None = None

    def open(self) -> None:
        """Reads the CA's directory, and the account; makes one where there is none."""
        if self._client is not None:
            return
        self._key = JWKEC(key=self._read_key())
        network = self._network = _Network(self._key, _choose_trust(self._account.ca))
        with self._told("the CA cannot be asked"):
            client = acme.client.ClientV2(acme.client.ClientV2.get_directory(self._account.directory, network), net=network)
        with self._told("the CA gives no account"):
            self._register(client, network)
        self._client = client

    def order(self, domains: Sequence[str], key_type: str, kind: str) -> Order:
        """Orders a certificate; what its challenges need is to be in force before `answer`."""
        key = make_key(key_type)
        with self._told("the CA takes no order"):
            order = Order(self._opened.new_order(make_request(key, domains)), write_key(key))
            for authorization in order.resource.authorizations:
                body = authorization.body
                domain = str(body.identifier.value)
                if domain not in domains:
                    raise AcmeError(f"the CA speaks of {domain!r}, which is none of the names")
                if body.status == acme.messages.STATUS_PENDING:
                    self._add_challenge(order, domain, kind, body.challenges)
        return order

    def answer(self, order: Order) -> None:
        """Has the CA look, and waits for what it finds."""
        with self._told("the CA does not look", order):
            for body in order.bodies:
                self._opened.answer_challenge(body, acme.challenges.HTTP01Response(key_authorization=""))
            deadline = time.monotonic() + VALIDATION_SECONDS
            for authorization in order.resource.authorizations:
                self._wait(authorization, deadline, order)

    def finish(self, order: Order) -> bytes:
        """The PEM of the chain, its leaf first."""
        with self._told("the CA issues no certificate", order):
            deadline = datetime.now() + timedelta(seconds=ISSUE_SECONDS)  # as the package compares it
            chain = self._opened.finalize_order(order.resource, deadline).fullchain_pem
            return str(chain).encode()

    # ------------------------------------------------------------------------------------------------ steps
    @property
    def _opened(self) -> acme.client.ClientV2:
        assert self._client is not None, "open it first"
        return self._client

    def _read_key(self) -> ec.EllipticCurvePrivateKey:
        """The account's; a new one is on the disk before the CA knows it."""
        name = f"{self._account.folder}/account.key"
        pem = self._files.read(name)
        if not pem:
            key = make_key("ecdsa-p256")
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._files.write(name, write_key(key))
            return key
        try:
            known = load_pem_private_key(pem, None)
        except (ValueError, TypeError) as error:
            raise AcmeError(f"{self._files.directory}/{name} is no key: {error}; without the file a new account is made") from None
        if not isinstance(known, ec.EllipticCurvePrivateKey):
            raise AcmeError(f"{self._files.directory}/{name} is no ECDSA key; without the file a new account is made")
        return known

    def _register(self, client: acme.client.ClientV2, network: "_Network") -> None:
        name = f"{self._account.folder}/account.json"
        with_uri = self._files.read(name)
        if with_uri:
            try:
                uri = str(json.loads(with_uri)["uri"])
            except (ValueError, KeyError, TypeError):
                uri = ""
            if uri:
                network.account = acme.messages.RegistrationResource(uri=uri, body=acme.messages.Registration())
                return
        binding = None
        if self._account.eab_key_id:
            assert self._key is not None
            binding = acme.messages.ExternalAccountBinding.from_data(
                self._key.public_key(), self._account.eab_key_id, self._account.eab_hmac, client.directory
            )
        wanted = acme.messages.NewRegistration.from_data(
            email=self._account.email or None, terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            uri = client.new_account(wanted).uri
        except acme.errors.ConflictError as known:  # made by another node, or before its number was written down
            uri = known.location
            network.account = acme.messages.RegistrationResource(uri=uri, body=acme.messages.Registration())
        self._files.write(name, json.dumps({"uri": uri, "directory": self._account.directory}).encode() + b"\n")

    def _add_challenge(self, order: Order, domain: str, kind: str, offered: Sequence[Any]) -> None:
        # By its JSON: the package does not know TLS-ALPN-01 any more.
        of_kind = [one for one in offered if one.chall.to_partial_json().get("type") == kind]
        if not of_kind:
            names = ", ".join(sorted(str(one.chall.to_partial_json().get("type")) for one in offered))
            raise AcmeError(f"the CA does not look at {domain} with {kind}, but with {names or 'nothing'}: choose another challenge")
        token = str(of_kind[0].chall.to_partial_json().get("token", ""))
        if not token or len(token) > MAX_TOKEN_CHARACTERS or not TOKEN_CHARACTERS.issuperset(token):
            raise AcmeError(f"the token that the CA gives for {domain} is none")  # it becomes part of a path
        assert self._key is not None
        authorization = f"{token}.{b64encode(self._key.thumbprint()).decode()}"
        if kind == HTTP_01:
            challenge = Challenge(kind, domain, token, authorization)
        else:
            key = make_key("ecdsa-p256")
            challenge = Challenge(kind, domain, token, "", make_challenge_certificate(key, domain, authorization), write_key(key))
        order.challenges += (challenge,)
        order.bodies += (of_kind[0],)

    def _wait(self, authorization: Any, deadline: float, order: Order) -> None:
        while True:
            authorization, response = self._opened.poll(authorization)
            status = authorization.body.status
            if status == acme.messages.STATUS_VALID:
                return
            if status != acme.messages.STATUS_PENDING:
                errors = [one.error for one in authorization.body.challenges if one.error is not None]
                said = _explain(errors[0], order) if errors else f"the authorization is {status.name}"
                raise AcmeError(f"{authorization.body.identifier.value}: {said}")
            wait = min(max(_retry_after(response.headers.get("Retry-After")), POLL_SECONDS), LONGEST_POLL_SECONDS)
            if time.monotonic() + wait > deadline:
                raise AcmeError(f"the CA has not looked at {authorization.body.identifier.value} within {VALIDATION_SECONDS:g} s")
            time.sleep(wait)

    @contextmanager
    def _told(self, what: str, order: Order | None = None) -> Iterator[None]:
        """Makes one error, which people can read, of everything that may go wrong."""
        try:
            yield
        except acme.messages.Error as error:
            wait = self._network.retry_after_seconds if self._network is not None else 0.0
            if error.code == "accountDoesNotExist":
                self._files.remove(f"{self._account.folder}/account.json")  # a CA that has forgotten it gets a new one
                self._client = None
            raise AcmeError(f"{what}: {_explain(error, order)}", wait) from error
        except acme.errors.IssuanceError as error:
            raise AcmeError(f"{what}: {_explain(error.error, order)}") from error
        except acme.errors.TimeoutError as error:
            raise AcmeError(f"{what}: it takes longer than {ISSUE_SECONDS:g} s") from error
        except requests.exceptions.SSLError as error:
            right = "is its certificate one that this system trusts? tls.acme.ca names a file of others"
            raise AcmeError(f"{what}: {_shorten(error)}; {right}") from error
        except acme.errors.ClientError as error:
            response = error.args[0] if error.args else None
            status = getattr(response, "status_code", None)
            said = f"status {status} without an explanation" if status else _shorten(error) or type(error).__name__
            wait = self._network.retry_after_seconds if self._network is not None else 0.0
            raise AcmeError(f"{what}: {said}; is {self._account.directory} the URL of an ACME directory?", wait) from error
        except (acme.errors.Error, requests.exceptions.RequestException, josepy.errors.Error) as error:
            raise AcmeError(f"{what}: {_shorten(error)}") from error
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # what the package makes of JSON that is not as expected
            raise AcmeError(f"{what}: its answer makes no sense ({type(error).__name__}: {_shorten(error)})") from error


class _Network(acme.client.ClientNetwork):
    """The package's, with patience for nonces and none for long answers."""

    def __init__(self, key: JWK, trust: str | bool) -> None:
        super().__init__(key, alg=ES256, user_agent=f"fastlb/{__version__} acme-python", timeout=int(REQUEST_SECONDS))
        self.verify_ssl = trust  # type: ignore[assignment]  # which is given to requests, where it may be a path
        self.retry_after_seconds = 0.0  # as the last answer said
        self.session.max_redirects = 3
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Bounded(self))

    def post(self, *args: Any, **kwargs: Any) -> Any:
        for tries_left in reversed(range(NONCE_TRIES)):
            try:
                return self._post_once(*args, **dict(kwargs))
            except acme.messages.Error as error:
                if error.code != "badNonce" or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")


class _Bounded(HTTPAdapter):
    """Reads answers up to a size and for so long."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self._network = network

    def send(self, request: Any, stream: bool = False, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        deadline = time.monotonic() + REQUEST_SECONDS
        response = super().send(request, stream=True, **kwargs)
        body = bytearray()
        for piece in response.iter_content(4096):
            body += piece
            if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                response.close()
                raise requests.exceptions.ConnectionError("its answer is too long, or takes too long")
        response._content = bytes(body)
        self._network.retry_after_seconds = _retry_after(response.headers.get("Retry-After"))
        return response


def _choose_trust(path: str) -> str | bool:
    """What `requests` is told to trust: this file, else the system's, of which it knows nothing by itself."""
    if path:
        if not os.access(path, os.R_OK):
            raise AcmeError(f"tls.acme.ca: {path} cannot be read by the account of the controller")
        return path
    found = ssl.get_default_verify_paths()
    return found.cafile or found.capath or True


def _retry_after(text: str | None) -> float:
    """Seconds, of a date or a number; 0: there are none."""
    if not text:
        return 0.0
    try:
        return max(0.0, float(int(text)))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _explain(error: Any, order: Order | None) -> str:
    """What the CA said, and what to look at."""
    code = str(getattr(error, "code", None) or "")
    said = [_shorten(getattr(error, "detail", None) or getattr(error, "title", None) or code or str(error))]
    for below in getattr(error, "subproblems", None) or ():
        said.append(f"{getattr(getattr(below, 'identifier', None), 'value', '')} {_shorten(getattr(below, 'detail', ''))}".strip())
    is_http = order is not None and any(one.kind == HTTP_01 for one in order.challenges)
    hint = _HINTS.get(code, "").format(port=80 if is_http else 443)
    return f'it says "{"; ".join(said[:4])}"' + (f" ({code})" if code else "") + (f": {hint}" if hint else "")


def _shorten(what: object) -> str:
    """One line of printable text, whoever wrote it."""
    text = "".join(character if character.isprintable() else " " for character in str(what))
    return text if len(text) <= 500 else f"{text[:500]}…"
