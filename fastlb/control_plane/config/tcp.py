"""What listeners of TCP sessions may say, and the pools that they lead to: layer 4 sees addresses and bytes, and nothing of HTTP."""

from fastlb.control_plane.config.errors import nearest, quote, quote_all
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import CLIENT_KEY, HTTP, TCP, UDP, Listener, Pool, Route

# Options of a listener that have a meaning for HTTP only.
_HTTP_KEYS = (
    *(("limits",), ("http2",), ("hsts",), ("redirect_https",), ("tls", "early_data")),
    *(("timeouts", key) for key in ("body", "idle", "write")),
)


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
        if _is_written(written, ("timeouts", "head")) and not listener.sni:
            right = "it is how long a ClientHello may take, where there is sni; what a session may be silent is timeouts.tunnel of its pool"
            reader.reject_key((*path, "timeouts", "head"), f'timeouts.head of a listener with protocol = "{listener.protocol}"', right)
        if listener.sni and listener.tls.is_on:
            right = "TLS is either ended here or passed on: keep one of them"
            reader.reject_key((*path, "sni"), "sni of a listener with tls", right)
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
        _check_sni(reader, path, listener)
    for name in used & pools.keys():
        _check_pool(reader, *pools[name])
    for path, route in reader.all_read(Route):
        for name in route.listeners:
            if name in sessions:
                found = f'the listener {quote(name)} has protocol = "{sessions[name]}"'
                reader.reject_key((*path, "listener"), found, "routes are for HTTP: its sessions go to the pool that it names")


def _check_sni(reader: Reader, path: tuple[str | int, ...], listener: Listener) -> None:
    """No rule behind one that takes everything that it would."""
    taken: set[str] = set()
    for number, rule in enumerate(listener.sni):
        reached = [name for name in rule.names if name not in taken]
        if not reached:
            found = f"the rule for {quote_all(rule.names)} is never reached"
            reader.warn((*path, "sni", number), found, "an earlier one takes these names, whatever protocols are offered")
        if not rule.alpn:
            taken.update(reached)


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
