"""Every metric that fastlb exports of its traffic: name, kind, labels, meaning. docs/metrics.md lists them, and a test compares the two.

What prometheus-client exports of the controller's own process is not here (process.py).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; `name` without the suffix that OpenMetrics gives to the samples of a counter ("_total") or an info ("_info")."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def sample_name(self) -> str:
        """What its samples are called, but for those of histograms."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _counter(name: str, labels: str, text: str) -> Family:
    return Family(name, "counter", tuple(labels.split()), text)


def _gauge(name: str, labels: str, text: str) -> Family:
    return Family(name, "gauge", tuple(labels.split()), text)


def _histogram(name: str, labels: str, text: str) -> Family:
    return Family(name, "histogram", tuple(labels.split()), text)


BUILD = Family("fastlb_build", "info", ("version", "build"), "Which fastlb this is.")
GENERATION = _gauge("fastlb_snapshot_generation", "", "Number of the snapshot in force.")
CONNECTIONS = _gauge("fastlb_connections", "", "Open client connections of all workers.")
WORKERS_DIED = _counter("fastlb_workers_died", "", "Workers that ended otherwise than in order.")
EXCHANGES_LOST = _counter("fastlb_exchanges_lost", "", "Exchanges that were open in workers that died.")
RETRIES_REFUSED = _counter(
    "fastlb_retries_refused", "", "Retries and hedges that were not made because the budget of the pool was used up."
)
HEDGES = _counter("fastlb_hedges", "", "Second attempts that were begun beside a slow first one.")
HEDGES_WON = _counter("fastlb_hedges_won", "", "Hedges that answered first.")
STICKY = _counter(
    "fastlb_sticky", "result", "Requests of clients that belong to a backend: kept there, or moved because it could not take them."
)
MIRRORS = _counter(
    "fastlb_mirrors", "result", "Mirrored requests: made, skipped (too many or too large), failed (made, without a whole answer)."
)
EJECTIONS_REFUSED = _counter("fastlb_ejections_refused", "", "Backends that stayed because too many of their pool were ejected already.")
PANICS = _counter("fastlb_panics", "", "How often a worker began to pick backends that are down, because hardly one of their pool is up.")
PANIC_PICKS = _counter("fastlb_panic_picks", "", "Attempts that were made in that state.")
TUNNELS = _gauge("fastlb_tunnels", "", "Open tunnels (WebSockets and other upgrades).")
UDP_SESSIONS = _gauge("fastlb_udp_sessions", "", "Open UDP sessions.")
UDP_SHED = _counter("fastlb_udp_sessions_shed", "", "UDP sessions that ended because a new client of a full table needed their place.")
UDP_MOVED = _counter("fastlb_udp_sessions_moved", "", "How often a UDP session went on at another backend.")
DATAGRAMS_IN = _counter("fastlb_datagrams_in", "", "Datagrams of clients.")
DATAGRAMS_OUT = _counter("fastlb_datagrams_out", "", "Datagrams that clients were sent.")
DATAGRAMS_DROPPED = _counter("fastlb_datagrams_dropped", "", "Datagrams of either side that were passed on to nobody.")
TLS_CONNECTIONS = _gauge("fastlb_tls_connections", "", "Open connections that speak TLS, with clients and with backends.")
TLS_HANDSHAKES = _counter("fastlb_tls_handshakes", "", "Handshakes with clients that succeeded; failed ones are reasons of listeners.")
TLS_RESUMED = _counter("fastlb_tls_resumed", "", "Of them, those that took up a session.")
TLS_RENEGOTIATIONS = _counter("fastlb_tls_renegotiations", "", "Renegotiations (TLS 1.2) that the other side asked for; all are refused.")
TLS_EARLY_DATA = _counter(
    "fastlb_tls_early_data",
    "result",
    "Handshakes of clients that had sent early data: it was accepted, or refused and has to be sent again.",
)
SPLICED = _counter("fastlb_spliced_bytes", "", "Body bytes that were moved without a copy to user memory.")
LOG_LINES = _counter("fastlb_log_lines", "result", "Lines of access logs: written, dropped (no room), lost (refused by the kernel).")
ACCEPT_PAUSES = _counter(
    "fastlb_accept_pauses", "", "How often a worker stopped to accept because it was out of descriptors or at max_connections."
)
CERTIFICATE_EXPIRES = _gauge(
    "fastlb_certificate_expires_seconds", "file names", "Seconds until the certificate expires that is served from this file; below 0: ago."
)
CERTIFICATE_STALE = _gauge(
    "fastlb_certificate_stale", "file names", "1: the file cannot be used as it is now, and what it held before is served."
)
HTTP2_CONNECTIONS = _gauge("fastlb_http2_connections", "", "Open client connections that speak HTTP/2.")
HTTP2_STREAMS = _gauge("fastlb_http2_streams", "", "Open streams of them.")
HTTP2_RESETS = _counter(
    "fastlb_http2_resets", "side", "Streams that were reset: received from clients, sent to them, refused because there was no room."
)
HTTP2_ENDED = _counter("fastlb_http2_ended", "cause", "HTTP/2 connections that were ended before their time, by cause.")
HTTP2_BACKEND_CONNECTIONS = _gauge("fastlb_http2_backend_connections", "", "Open connections to backends that speak HTTP/2.")
HTTP2_BACKEND_STREAMS = _gauge("fastlb_http2_backend_streams", "", "Open streams of them.")
HTTP2_BACKEND_RESETS = _counter(
    "fastlb_http2_backend_resets", "side", "Their streams that were reset: received from backends, sent to them."
)
HTTP2_BACKEND_GOAWAYS = _counter("fastlb_http2_backend_goaways", "", "How often a backend said that a connection takes no more streams.")
HTTP2_BACKEND_ENDED = _counter(
    "fastlb_http2_backend_ended", "cause", "HTTP/2 connections to backends that were ended for what came on them."
)

ACME_EXPIRY = _gauge("fastlb_acme_expiry_seconds", "certificate", "Until the certificate that a CA has issued ends; none of a placeholder.")
ACME_PLACEHOLDER = _gauge("fastlb_acme_placeholder", "certificate", "1: the CA has not issued it yet, and a self-signed one is served.")
ACME_FAILURES = _counter("fastlb_acme_failures", "certificate", "Orders that have failed.")
OCSP_AGE = _gauge("fastlb_ocsp_age_seconds", "certificate", "Since the response that is stapled was made.")
OCSP_EXPIRY = _gauge("fastlb_ocsp_expiry_seconds", "certificate", "Until the response that is stapled ends.")
OCSP_REVOKED = _gauge("fastlb_ocsp_revoked", "certificate", "1: its responder says that the certificate is revoked.")
OCSP_FAILURES = _counter("fastlb_ocsp_failures", "certificate", "Questions to responders without an answer that can be stapled.")

LISTENER_CONNECTIONS = _gauge("fastlb_listener_connections", "listener", "Open client connections.")
LISTENER_ACCEPTED = _counter("fastlb_listener_accepted", "listener", "Client connections that were accepted.")
LISTENER_REQUESTS = _counter(
    "fastlb_listener_requests",
    "listener status_class",
    'Requests that have ended, by what clients were answered; "none": without an answer.',
)
LISTENER_BYTES = _counter("fastlb_listener_bytes", "listener direction", "Bytes from clients (in) and to clients (out).")
LISTENER_FAILURES = _counter("fastlb_listener_failures", "listener reason", "Requests without a whole answer of a backend, by reason.")

ROUTE_REQUESTS = _counter(
    "fastlb_route_requests", "route status_class", 'Requests that have ended, by what clients were answered; "none": without an answer.'
)
ROUTE_IN_FLIGHT = _gauge("fastlb_route_requests_in_flight", "route", "Requests that have found the route and have not ended.")
ROUTE_BYTES = _counter(
    "fastlb_route_bytes", "route direction", "Bytes of heads and bodies from clients (in), and all bytes of answers to clients (out)."
)
ROUTE_RETRIES = _counter("fastlb_route_retries", "route", "Attempts that were made because an earlier one failed.")
ROUTE_FAILURES = _counter("fastlb_route_failures", "route reason", "Requests without a whole answer of a backend, by reason.")
ROUTE_DURATION = _histogram("fastlb_route_duration_seconds", "route", "From the request's head to the end of its answer; without tunnels.")
ROUTE_FIRST_BYTE = _histogram("fastlb_route_first_byte_seconds", "route", "From the beginning of an attempt to its response head.")
ROUTE_CONNECT = _histogram("fastlb_route_connect_seconds", "route", "How long new connections to backends took, where they were made.")

POOL_REQUESTS = _counter(
    "fastlb_pool_requests",
    "pool status_class",
    'Requests that have ended, mirrored ones too, by what clients were answered; "none": without an answer.',
)
POOL_IN_FLIGHT = _gauge("fastlb_pool_requests_in_flight", "pool", "Requests that have entered the pool and have not ended.")
POOL_BYTES = _counter(
    "fastlb_pool_bytes", "pool direction", "Bytes of heads and bodies from clients (in), and all bytes of answers to clients (out)."
)
POOL_RETRIES = _counter("fastlb_pool_retries", "pool", "Attempts that were made because an earlier one failed.")
POOL_FAILURES = _counter("fastlb_pool_failures", "pool reason", "Requests without a whole answer of a backend, by reason.")
POOL_CONNECTS = _counter(
    "fastlb_pool_backend_connections", "pool reused", "Connections that attempts began (false) or found in the idle cache (true)."
)
POOL_WAITING = _gauge("fastlb_pool_queue_waiting", "pool", "Requests that wait for a backend, of all workers.")
POOL_WAITED = _counter("fastlb_pool_queue_waited", "pool", "Requests that have waited for a backend.")
POOL_LIMITED = _gauge("fastlb_pool_limit_taken", "pool limit", "How much of a limit of the pool is taken, of all workers.")
POOL_DURATION = _histogram("fastlb_pool_duration_seconds", "pool", "From the request's head to the end of its answer; without tunnels.")
POOL_FIRST_BYTE = _histogram("fastlb_pool_first_byte_seconds", "pool", "From the beginning of an attempt to its response head.")
POOL_CONNECT = _histogram("fastlb_pool_connect_seconds", "pool", "How long new connections to backends took, where they were made.")

REQUESTS = _counter(
    "fastlb_requests", "pool backend status_class", "Answers of backends to attempts, those that were retried elsewhere too."
)
BACKEND_ATTEMPTS = _counter("fastlb_backend_attempts", "pool backend", "Attempts at the backend.")
BACKEND_IN_FLIGHT = _gauge("fastlb_backend_in_flight", "pool backend", "Attempts at the backend that have not ended, of all workers.")
BACKEND_IDLE = _gauge("fastlb_backend_idle_connections", "pool backend", "Connections that wait for another request.")
BACKEND_BYTES = _counter("fastlb_backend_bytes", "pool backend direction", "Bytes from the backend (in) and to it (out).")
BACKEND_CONNECTS = _counter(
    "fastlb_backend_connections", "pool backend reused", "Connections that attempts began (false) or found in the idle cache (true)."
)
BACKEND_RETRIES = _counter("fastlb_backend_retries", "pool backend", "Attempts at the backend that were followed by one at another.")
BACKEND_FAILURES = _counter("fastlb_backend_failures", "pool backend reason", "Attempts that failed, by reason.")
BACKEND_UP = _gauge("fastlb_backend_up", "pool backend", "1: health checks have nothing against it.")
BACKEND_EJECTED = _gauge("fastlb_backend_ejected", "pool backend", "1: failures of live traffic keep it from being picked for a while.")
BACKEND_EJECTIONS = _counter("fastlb_backend_ejections", "pool backend", "How often failures of live traffic ejected the backend.")
TRANSITIONS = _counter("fastlb_health_transitions", "pool backend to", "How often health checks found the backend up and down.")
BACKEND_ADMIN = _gauge(
    "fastlb_backend_admin_state", "pool backend state", "What the operator asked: 1 for the state (ready, drain, maint) it has."
)

WORKER_CONNECTIONS = _gauge("fastlb_worker_connections", "worker", "Open client connections of the worker.")
WORKER_ACCEPTED = _counter("fastlb_worker_accepted", "worker", "Client connections that the worker's slot has accepted.")
WORKER_EXCHANGES = _counter("fastlb_worker_exchanges", "worker", "Requests that the worker's slot has begun.")
WORKER_GENERATION = _gauge("fastlb_worker_snapshot_generation", "worker", "Number of the snapshot that the worker uses; 0 = none yet.")
WORKER_PUMP = _histogram(
    "fastlb_worker_pump_seconds", "worker", "How long one call of the engine took: nothing else of the worker runs meanwhile."
)
WORKER_LAG = _histogram(
    "fastlb_worker_loop_lag_seconds", "worker", "How long the worker's outer loop took to call the engine again when there was more to do."
)

FAMILIES: tuple[Family, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Family))
