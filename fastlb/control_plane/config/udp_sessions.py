"""When the sessions of a UDP listener end, and how many there may be: nothing in UDP says so."""

from dataclasses import dataclass

from fastlb.control_plane.config.kind import Count, OrWord, duration
from fastlb.control_plane.config.option import option

# Of udp.responses: a session ends by silence only.
ANY_RESPONSES = -1
# RFC 9000 section 17.2; of a server id what the data plane takes (types.pxd).
MAX_CONNECTION_ID_BYTES = 20
MAX_SERVER_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """What a listener with protocol = "udp" takes for a session."""

    # NATs on the way forget a UDP flow after 30 to 120 s (RFC 4787 section 4.3 asks for 2 minutes); then the client has another port.
    idle_timeout_ms: int = option("idle_timeout", duration("10ms", "1d"), "60s", ("timeout", "idle", "proxy_timeout", "session_timeout"))
    responses: int = option("responses", OrWord(Count(0, 65535), "any", ANY_RESPONSES), "any", ("proxy_responses", "replies"))
    # draft-ietf-quic-load-balancers: behind the first byte, which says how the id was made.
    server_id_offset: int = option("server_id_offset", Count(0, MAX_CONNECTION_ID_BYTES - 1), 1, ("quic_server_id_offset",))
    # A port of ours each, of 28,232 by default (ip_local_port_range): six workers with one address stay below that.
    max_sessions: int = option("max_sessions", Count(1, 1 << 20), 4096, ("sessions", "max"))
