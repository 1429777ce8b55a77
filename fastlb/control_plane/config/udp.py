"""What UDP listeners may say besides what config/tcp.py checks of all sessions, and what follows for the pools that they lead to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastlb.control_plane.config.errors import quote
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import CONSISTENT_HASH, UDP, Config, Listener, Pool
from fastlb.control_plane.config.udp_sessions import MAX_CONNECTION_ID_BYTES, Udp

# Options of a listener that say something about connections.
_CONNECTION_KEYS = ("tls", "sni", "proxy_protocol", "defer_accept", "backlog", "tcp_keepalive")


def check_udp(reader: Reader) -> None:
    """Every UDP listener and its pool."""
    used: dict[str, list[tuple[tuple[str | int, ...], Listener]]] = {}
    for path, listener in reader.all_read(Listener):
        written = reader.source.values["listeners"][path[1]]
        if listener.protocol != UDP:
            if listener.udp != Udp():
                reader.reject_key((*path, "udp"), f'udp of a listener with protocol = "{listener.protocol}"', 'protocol = "udp" has it')
            continue
        used.setdefault(listener.pool, []).append((path, listener))
        for key in _CONNECTION_KEYS:
            if key in written:
                found = f'{key} of a listener with protocol = "udp"'
                reader.reject_key((*path, key), found, "datagrams come without connections: leave it out")
        for number, address in enumerate(listener.bind):
            if address.unix_path:
                reader.reject((*path, "bind", number), f"{address} is a unix socket", 'protocol = "udp" takes a port: ":53"')
    for path, pool in reader.all_read(Pool):
        if pool.name in used:
            _check_pool(reader, path, pool)
        _check_server_ids(reader, path, pool, used.get(pool.name, []))


def _check_pool(reader: Reader, path: tuple[str | int, ...], pool: Pool) -> None:
    """One that UDP sessions go to."""
    name = quote(pool.name)
    if pool.tls.enabled:
        right = "there is no TLS over UDP (QUIC and DTLS are passed through as they are)"
        reader.reject_key((*path, "tls"), f"the pool {name} gets UDP sessions", right)
    if pool.proxy_protocol.is_on:
        right = "there is no PROXY header before datagrams: leave it out"
        reader.reject_key((*path, "proxy_protocol"), f"the pool {name} gets UDP sessions", right)
    if any(backend.address.unix_path for backend in pool.backends):
        reader.reject_key((*path, "backends"), f"the pool {name} gets UDP sessions, and a backend of it is a unix socket", "give a port")


def _check_server_ids(
    reader: Reader, path: tuple[str | int, ...], pool: Pool, listeners: Sequence[tuple[tuple[str | int, ...], Listener]]
) -> None:
    """What its backends call themselves in connection ids of QUIC: each by a name of its own, all of one size, and some listener looks."""
    first = next((backend.server_id for backend in pool.backends if backend.server_id), "")
    if not first:
        return
    key = (*path, "backends")
    if not listeners:
        reader.reject_key(key, "backends with a server_id", f'no listener with protocol = "udp" leads to the pool {quote(pool.name)}')
    seen: set[str] = set()
    for number, backend in enumerate(pool.backends):
        at = (*key, number, "server_id")
        if not backend.server_id:
            continue
        if backend.server_id in seen:
            reader.reject(at, f"two backends have the server id {quote(backend.server_id)}", "each has one of its own")
        elif len(backend.server_id) != len(first):
            right = f"all of a pool have one size, as {quote(first)} has it"
            reader.reject(at, f"the server id {quote(backend.server_id)} has {len(backend.server_id) // 2} bytes", right)
        seen.add(backend.server_id)
    for where, listener in listeners:
        if listener.udp.server_id_offset + len(first) // 2 > MAX_CONNECTION_ID_BYTES:
            found = f"server_id_offset = {listener.udp.server_id_offset}, with server ids of {len(first) // 2} bytes"
            right = f"a connection id of QUIC has {MAX_CONNECTION_ID_BYTES} bytes at most"
            reader.reject_key((*where, "udp"), found, right)


def settle_udp(config: Config, written_pools: object) -> Config:
    """The configuration with what follows from protocol = "udp": what its listeners bind are UDP ports, and pools that only they use and
    that do not say how to pick go by the client's address, so that every worker picks alike."""
    udp = {listener.pool for listener in config.listeners if listener.protocol == UDP}
    if not udp:
        return config
    others = {name for listener in config.listeners if listener.protocol != UDP for name in listener.session_pools()}
    others |= {name for route in config.routes for name in (*route.pool.names(), route.mirror.pool)}
    listeners = tuple(
        replace(listener, bind=tuple(replace(address, udp=True) for address in listener.bind)) if listener.protocol == UDP else listener
        for listener in config.listeners
    )
    written = written_pools if isinstance(written_pools, Mapping) else {}
    pools = tuple(
        replace(pool, algorithm=CONSISTENT_HASH)
        if pool.name in udp - others and not pool.slow_start_ms and "algorithm" not in written.get(pool.name, {})
        else pool
        for pool in config.pools
    )
    return replace(config, listeners=listeners, pools=pools)
