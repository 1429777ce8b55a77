"""What listeners of TCP sessions may say, and the pools that they lead to: layer 4 sees addresses and bytes, and nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import replace

from fastlb.control_plane.config.errors import nearest, quote, quote_all
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import CLIENT_KEY, CLIENT_SOURCE, HTTP, TCP, UDP, Config, Listener, Pool, Route
from fastlb.control_plane.config.tls import HTTP_PROTOCOLS

# Options of a listener that have a meaning for HTTP only.
_HTTP_KEYS = (
    *(("limits",), ("http2",), ("hsts",), ("redirect_https",), ("tls", "early_data")),
    *(("timeouts", key) for key in ("body", "idle", "write")),
)
# Of a list of protocols, each behind a byte with its size.
_MAX_PROTOCOLS_BYTES = 1024


def check_tcp(reader: Reader) -> None:
    """Every listener and what it leads to."""
    pools = {pool.name: (path, pool) for path, pool in reader.all_read(Pool)}
    written_pools = reader.source.values.get("pools")
    known = list(written_pools) if isinstance(written_pools, dict) else []
    sessions = {listener.name: listener.protocol for _, listener in reader.all_read(Listener) if listener.protocol in (TCP, UDP)}
    used: set[str] = set()
    for path, listener in reader.all_read(Listener):
        written = reader.source.values["listeners"][path[1]]
        if listener.protocol == HTTP:
            for protocol in [protocol for protocol in listener.tls.alpn if protocol not in HTTP_PROTOCOLS]:
                right = f'alpn of a listener that speaks HTTP is {quote_all(HTTP_PROTOCOLS)}; one with protocol = "tcp" takes any'
                reader.reject((*path, "tls", "alpn"), f"unknown alpn {quote(protocol)}", right)
            for key, is_set in (("pool", listener.pool), ("sni", listener.sni), ("timeouts.session", listener.timeouts.session_ms)):
                if is_set:
                    right = 'a listener with protocol = "tcp" or "udp" has it' + (
                        "; requests find their pool by [[routes]]" if key == "pool" else ""
                    )
                    reader.reject_key((*path, *key.split(".")), f"{key} of a listener that speaks HTTP", right)
            continue
        for keys in _HTTP_KEYS:
            if _is_written(written, keys):
                right = "sessions are bytes that nobody looks at: leave it out"
                reader.reject_key((*path, *keys), f'{".".join(keys)} of a listener with protocol = "{listener.protocol}"', right)
        if _is_written(written, ("timeouts", "head")) and (not listener.sni or listener.tls.is_on):
            right = "it is how long a ClientHello may take that is passed on; what a session may be silent is timeouts.tunnel of its pool"
            reader.reject_key((*path, "timeouts", "head"), f'timeouts.head of a listener with protocol = "{listener.protocol}"', right)
        used.update(listener.session_pools())
        if not reader.source.complete:
            continue
        right = f"the pools are {quote_all(known)}" if known else "there are no pools: each has a header such as [pools.db]"
        named: list[tuple[tuple[str | int, ...], str]] = [((), listener.pool)]
        named += [(("sni", number), rule.pool) for number, rule in enumerate(listener.sni)]
        for where, name in named:
            if name and name not in known:
                reader.reject((*path, *where, "pool"), f"there is no pool {quote(name)}", right, nearest(name, known))
        if not listener.pool and not listener.sni:
            reader.reject_key(path, f"the listener {quote(listener.name)} does not say where its sessions go", f'pool = "NAME"; {right}')
        _check_sni(reader, path, listener, listener.tls.alpn if _is_written(written, ("tls", "alpn")) else ())
    for name in used & pools.keys():
        _check_pool(reader, *pools[name])
    routed = {name for _, route in reader.all_read(Route) for name in (*route.pool.names(), route.mirror.pool)}
    for name, (path, pool) in pools.items():
        if pool.source_address == CLIENT_SOURCE and (name in routed or name not in used):
            right = "connections of requests are the next client's, too: give sessions a pool of their own, or use proxy_protocol"
            reader.reject_key(
                (*path, "source_address"), f"the pool {quote(name)} gets requests, and connects from the client's address", right
            )
    for path, route in reader.all_read(Route):
        for name in route.listeners:
            if name in sessions:
                found = f'the listener {quote(name)} has protocol = "{sessions[name]}"'
                reader.reject_key((*path, "listener"), found, "routes are for HTTP: its sessions go to the pool that it names")


def _check_sni(reader: Reader, path: tuple[str | int, ...], listener: Listener, offered: Sequence[str]) -> None:
    """Lists of protocols that fit, of those that are `offered` where TLS ends here, and no rule behind one that takes all that it would."""
    taken: set[str] = set()
    _check_protocols(reader, (*path, "tls", "alpn"), offered)
    for number, rule in enumerate(listener.sni):
        _check_protocols(reader, (*path, "sni", number, "alpn"), rule.alpn)
        for protocol in rule.alpn:
            if listener.tls.is_on and protocol not in offered:
                right = f"TLS ends here, so clients are offered those of tls.alpn: {quote_all(offered) if offered else 'none'}"
                reader.reject_key((*path, "sni", number, "alpn"), f"{quote(protocol)} is not agreed on with anybody", right)
        reached = [name for name in rule.names if name not in taken]
        if not reached:
            found = f"the rule for {quote_all(rule.names)} is never reached"
            reader.warn((*path, "sni", number), found, "an earlier one takes these names, whatever protocols are offered")
        if not rule.alpn:
            taken.update(reached)


def _check_protocols(reader: Reader, path: tuple[str | int, ...], protocols: Sequence[str]) -> None:
    if sum(1 + len(protocol) for protocol in protocols) > _MAX_PROTOCOLS_BYTES:
        reader.reject_key(path, "the names of these protocols are too long", f"together at most {_MAX_PROTOCOLS_BYTES} bytes")


def _check_pool(reader: Reader, path: tuple[str | int, ...], pool: Pool) -> None:
    """One that TCP sessions go to."""
    name = quote(pool.name)
    if pool.protocol != "http1":
        right = "sessions are bytes that nobody looks at: leave it out, or give them a pool of their own"
        reader.reject_key((*path, "protocol"), f"the pool {name} gets sessions, and its backends are spoken to in HTTP/2", right)
    if pool.hash_key.text != CLIENT_KEY:
        right = f"a session has nothing but its client's address: {quote(CLIENT_KEY)}"
        reader.reject_key((*path, "hash_key"), f"the pool {name} gets sessions, and its key is made of a request", right)
    if pool.sticky.cookie or pool.sticky.learn:
        key = "cookie" if pool.sticky.cookie else "learn"
        found = f"the pool {name} gets sessions, which have no cookies"
        reader.reject_key((*path, "sticky", key), found, "they are known again by their client's address: sticky = { source = true }")


def _is_written(table: object, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def settle_tcp(config: Config, written_listeners: object) -> Config:
    """The configuration with what follows from protocol = "tcp": where nothing is said of protocols, none is agreed on (ALPN)."""
    written = written_listeners if isinstance(written_listeners, Sequence) else ()
    listeners = tuple(
        replace(listener, tls=replace(listener.tls, alpn=()))
        if listener.protocol == TCP and listener.tls.is_on and not (number < len(written) and _is_written(written[number], ("tls", "alpn")))
        else listener
        for number, listener in enumerate(config.listeners)
    )
    return replace(config, listeners=listeners)
