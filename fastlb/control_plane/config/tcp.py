"""What listeners of TCP sessions may say, and the pools that they lead to: layer 4 sees addresses and bytes, and nothing of HTTP."""

from fastlb.control_plane.config.errors import nearest, quote, quote_all
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import CLIENT_KEY, HTTP, TCP, Listener, Pool, Route

# Options of a listener that have a meaning for HTTP only.
_HTTP_KEYS = (("limits",), ("http2",), ("hsts",), ("redirect_https",), *(("timeouts", key) for key in ("head", "body", "idle", "write")))


def check_tcp(reader: Reader) -> None:
    """Every listener and what it leads to."""
    pools = {pool.name: (path, pool) for path, pool in reader.all_read(Pool)}
    written_pools = reader.source.values.get("pools")
    known = list(written_pools) if isinstance(written_pools, dict) else []
    sessions = {listener.name for _, listener in reader.all_read(Listener) if listener.protocol == TCP}
    used: set[str] = set()
    for path, listener in reader.all_read(Listener):
        written = reader.source.values["listeners"][path[1]]
        if listener.protocol == HTTP:
            for key, is_set in (("pool", listener.pool), ("timeouts.session", listener.timeouts.session_ms)):
                if is_set:
                    right = 'a listener with protocol = "tcp" has it' + (
                        "; requests find their pool by [[routes]]" if key == "pool" else ""
                    )
                    reader.reject_key((*path, *key.split(".")), f"{key} of a listener that speaks HTTP", right)
            continue
        for keys in _HTTP_KEYS:
            if _is_written(written, keys):
                right = "TCP sessions are bytes that nobody looks at: leave it out"
                reader.reject_key((*path, *keys), f'{".".join(keys)} of a listener with protocol = "tcp"', right)
        used.add(listener.pool)
        if listener.pool in known or not reader.source.complete:
            continue
        right = f"the pools are {quote_all(known)}" if known else "there are no pools: each has a header such as [pools.db]"
        if listener.pool:
            reader.reject((*path, "pool"), f"there is no pool {quote(listener.pool)}", right, nearest(listener.pool, known))
        else:
            reader.reject_key(path, f"the listener {quote(listener.name)} does not say where its sessions go", f'pool = "NAME"; {right}')
    for name in used & pools.keys():
        _check_pool(reader, *pools[name])
    for path, route in reader.all_read(Route):
        for name in route.listeners:
            if name in sessions:
                found = f'the listener {quote(name)} has protocol = "tcp"'
                reader.reject_key((*path, "listener"), found, "routes are for HTTP: its sessions go to the pool that it names")


def _check_pool(reader: Reader, path: tuple[str | int, ...], pool: Pool) -> None:
    """One that TCP sessions go to."""
    name = quote(pool.name)
    if pool.hash_key.text != CLIENT_KEY:
        right = f"a session has nothing but its client's address: {quote(CLIENT_KEY)}"
        reader.reject_key((*path, "hash_key"), f"the pool {name} gets TCP sessions, and its key is made of a request", right)
    if pool.sticky.cookie or pool.sticky.learn:
        key = "cookie" if pool.sticky.cookie else "learn"
        found = f"the pool {name} gets TCP sessions, which have no cookies"
        reader.reject_key((*path, "sticky", key), found, "they are known again by their client's address: sticky = { source = true }")


def _is_written(table: object, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
