"""From the tls tables of listeners and pools and what their files hold to the calls of the snapshot's writer."""

from fastlb import _core
from fastlb.control_plane.config.schema import HTTP, Listener, Pool
from fastlb.control_plane.config.tls import OFF
from fastlb.control_plane.tls.automation import NOTHING, Automatic
from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.material import Material, Pair, list_served

VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}
ALPN = {"http1": (), "http2": (b"h2",), "auto": (b"h2", b"http/1.1")}  # what is offered to backends
# Of requests before a handshake is over: a record, and as much as the writer takes.
EARLY_DATA_BYTES = 16384


class TlsPlan:
    """Adds each certificate once, however many use it."""

    def __init__(self, writer: _core.SnapshotWriter, material: Material, automatic: Automatic = NOTHING) -> None:
        self._writer = writer
        self._material = material
        self._automatic = automatic
        self._added: dict[Pair, int] = {}
        self._challenges: list[tuple[str, int]] | None = None  # the same for every listener

    def set_listener(self, index: int, listener: Listener) -> None:
        """Makes a listener speak TLS, if it does."""
        tls = listener.tls
        if not tls.is_on:
            return
        identities, names = self._identify(listener)
        clients = tls.client_certificates
        self._writer.set_tls(
            index,
            identities=identities,
            names=names,
            default=0 if tls.unknown_names == "default" else None,
            challenges=self._list_challenges(),
            min_version=VERSIONS[tls.min_version],
            max_version=VERSIONS[tls.max_version],
            ciphers=tls.ciphers,
            ciphersuites=":".join(tls.ciphersuites),
            groups=":".join(tls.curves),
            alpn=[name.encode() for name in tls.alpn if name != "h2" or listener.http2.enabled or listener.protocol != HTTP],
            handshake_timeout_ms=tls.handshake_timeout_ms,
            tickets=tls.tickets,
            session_timeout_s=tls.session_timeout_ms // 1000,
            early_data_bytes=EARLY_DATA_BYTES if tls.early_data else 0,
            client_auth="none" if clients.mode == OFF else clients.mode,
            client_ca=self._material.bundles[clients.ca] if clients.ca else b"",
            client_crl=self._material.bundles[clients.crl] if clients.crl else b"",
            client_depth=clients.depth,
        )

    def set_backends(self, index: int, pool: Pool) -> None:
        """Has the backends of a pool be spoken to by TLS, if they are."""
        tls = pool.tls
        if tls.enabled:
            self._writer.set_backend_tls(
                index,
                verify=tls.verify,
                server_name=tls.server_name,
                ca=self._material.bundles[tls.ca] if tls.ca else b"",
                certificate=self._add(self._material.certificates[tls.pair]) if tls.cert else None,
                min_version=VERSIONS[tls.min_version],
                max_version=VERSIONS[tls.max_version],
                alpn=ALPN[pool.protocol],
                ciphers=tls.ciphers,
                ciphersuites=":".join(tls.ciphersuites),
                groups=":".join(tls.curves),
                resume=tls.resume,
            )

    def _identify(self, listener: Listener) -> tuple[list[list[int]], list[tuple[str, int]]]:
        """The sets of certificates that are served for the same names, and of each name its set. The first is for all other names."""
        by_name: dict[str, dict[str, int]] = {}
        served = list_served(listener, self._material)
        served += [(one, one.names) for one in map(self._automatic.certificates.__getitem__, listener.tls.acme)]
        for certificate, names in served:
            index = self._add(certificate)
            for name in names:
                by_name.setdefault(name, {}).setdefault(certificate.key_type, index)
        first, its_names = served[0]
        default = by_name[its_names[0]] if its_names else {first.key_type: self._added[first.cert, first.key_file]}
        identities: dict[tuple[int, ...], int] = {tuple(default.values()): 0}
        names_served = [(name, identities.setdefault(tuple(of_name.values()), len(identities))) for name, of_name in by_name.items()]
        return [list(certificates) for certificates in identities], names_served

    def _add(self, certificate: Certificate) -> int:
        pair = certificate.cert, certificate.key_file
        if pair not in self._added:
            staple = self._automatic.staples.get(certificate.chain, b"")
            self._added[pair] = self._writer.add_certificate(certificate.chain, certificate.key, staple)
        return self._added[pair]

    def _list_challenges(self) -> list[tuple[str, int]]:
        """What is shown to a CA that looks over TLS."""
        if self._challenges is None:
            shown = {one.domain: one for one in self._automatic.challenges if one.chain}
            self._challenges = [(domain, self._writer.add_certificate(one.chain, one.key)) for domain, one in shown.items()]
        return self._challenges
