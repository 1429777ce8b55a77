"""From listeners of TCP and UDP sessions to the calls of the snapshot's writer: where sessions go, and by what a ClientHello chooses."""

from collections.abc import Mapping, Sequence

from fastlb import _core
from fastlb.control_plane.config.schema import HTTP, UDP, Config, Listener, SniRule
from fastlb.control_plane.groups import Row

ANY_NAME = "*"
Choice = tuple[list[bytes], int]


def add_sessions(writer: _core.SnapshotWriter, config: Config, pools: Mapping[str, int], rows: Mapping[str, Sequence[Row]]) -> None:
    """Has the listeners that do take TCP or UDP sessions; `pools`: what the writer calls them, `rows`: their backends in its order."""
    for index, listener in enumerate(config.listeners):
        if listener.protocol == HTTP:
            continue
        routes = {name: writer.add_route(pool=pools[name], name=listener.name) for name in dict.fromkeys(listener.session_pools())}
        if listener.protocol == UDP:
            writer.set_datagrams(
                index,
                routes[listener.pool],
                max_sessions=listener.udp.max_sessions,
                silence_ms=listener.udp.idle_timeout_ms,
                responses=listener.udp.responses,
                timeout_ms=listener.timeouts.session_ms,
                server_ids=list_server_ids(rows[listener.pool]),
                server_id_offset=listener.udp.server_id_offset,
            )
            continue
        default = routes[listener.pool] if listener.pool and not listener.sni else None
        writer.set_session(index, default, timeout_ms=listener.timeouts.session_ms)
        if listener.sni:
            writer.set_sni(index, *choose_by_name(listener, routes))


def list_server_ids(rows: Sequence[Row]) -> list[tuple[bytes, int]]:
    """What backends call themselves in connection ids of QUIC, and which they are. A name with several addresses is the first of them."""
    found: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        if row.backend.server_id:
            found.setdefault(bytes.fromhex(row.backend.server_id), index)
    return list(found.items())


def choose_by_name(listener: Listener, routes: Mapping[str, int]) -> tuple[list[tuple[str, list[Choice]]], list[Choice]]:
    """What each name has to choose from, in order, and what all others have: a name's own rules come first, then those of the wildcard that
    it fits, those for any name, and the listener's pool."""
    rules: dict[str, list[Choice]] = {}
    for rule in listener.sni:
        for name in rule.names:
            rules.setdefault(name, []).append(_choice(rule, routes))
    others = rules.pop(ANY_NAME, [])
    if listener.pool:
        others = [*others, ([], routes[listener.pool])]
    names = []
    for name, own in rules.items():
        wildcard = f"*.{name.partition('.')[2]}"
        names.append((name, _reachable([*own, *(rules.get(wildcard, []) if wildcard != name else []), *others])))
    return names, _reachable(others)


def _choice(rule: SniRule, routes: Mapping[str, int]) -> Choice:
    return [protocol.encode() for protocol in rule.alpn], routes[rule.pool]


def _reachable(choices: list[Choice]) -> list[Choice]:
    """Up to the first that takes everybody."""
    last = next((number for number, (protocols, _) in enumerate(choices) if not protocols), len(choices) - 1)
    return choices[: last + 1]
