"""From a file, or from what the command line said, to a `Config`: parse, fill in defaults, validate.

What one value may be is said by its kind; here are the checks that concern several values at once. Every mistake is collected and they
are raised together as one ConfigError; nothing else is ever raised about what a configuration says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.errors import ConfigError, Place, Problem, nearest, quote, quote_all
from fastlb.control_plane.config.health import GRPC as GRPC_PROBES
from fastlb.control_plane.config.health import HTTP as HTTP_PROBES
from fastlb.control_plane.config.health import check_healths
from fastlb.control_plane.config.option import read_table
from fastlb.control_plane.config.passive_health import check_passive_health
from fastlb.control_plane.config.proxy_protocol import check_proxy_protocol
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.config.reader import Reader, Source
from fastlb.control_plane.config.route_actions import check_actions
from fastlb.control_plane.config.route_options import PoolShares
from fastlb.control_plane.config.route_overlaps import check_overlaps
from fastlb.control_plane.config.route_pattern import ANY_HOST
from fastlb.control_plane.config.schema import (
    CLIENT_KEY,
    CONSISTENT_HASH,
    HTTP,
    IP_HASH,
    MOST_LOG_DESTINATIONS,
    MOST_LOGGED_HEADERS,
    PICKER_MARK,
    ROUND_ROBIN,
    UDP,
    WEIGHTED_LEAST_CONNECTIONS,
    WEIGHTED_ROUND_ROBIN,
    WITH_KEY,
    WITH_SLOW_START,
    WITHOUT_WEIGHTS,
    AccessLog,
    Backend,
    Config,
    GlobalSettings,
    Listener,
    Pool,
    Route,
)
from fastlb.control_plane.config.sticky import check_stickies
from fastlb.control_plane.config.tcp import check_tcp, settle_tcp
from fastlb.control_plane.config.tls import check_tls, find_places
from fastlb.control_plane.config.toml import KeyPath, TomlDocument
from fastlb.control_plane.config.udp import check_udp, settle_udp

# A thousand pools of a hundred backends take 4 MB; a file larger than this was not meant.
MAX_FILE_BYTES = 16 << 20

_NGINX_BLOCK = r"(?m)^\s*(events|http|server|upstream\s+\S+)\s*\{"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what in it is probably not what was meant.

    Args:
        overridden: the keys of [global] whose values the command line knew better.
        places: where the files of TLS were named, by their paths as written.
    """

    config: Config
    warnings: tuple[Problem, ...] = ()
    overridden: tuple[str, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)


def load_file(path: str) -> Loaded:
    """Reads a TOML file.

    Raises:
        ConfigError: with every mistake in it, sorted by place.
    """
    return load_text(*_read_text(path))


def load_text(text: str, name: str, problems: Iterable[Problem] = ()) -> Loaded:
    """Reads TOML text.

    Args:
        name: what problems call the text, usually its path.
        problems: what is already known to be wrong with it.

    Raises:
        ConfigError: with every mistake in it, sorted by place.
    """
    document = TomlDocument(text, name)
    if not document.complete and re.search(_NGINX_BLOCK, text):
        raise ConfigError([Problem(Place(1, 1, name), "this looks like an nginx configuration", "this version reads TOML only")])
    return read_config(document, (*problems, *document.problems))


def read_config(source: Source, problems: Iterable[Problem] = ()) -> Loaded:
    """Makes a Config of what a source holds.

    Args:
        problems: what is already known to be wrong with the source; anything else on the same lines is not reported.

    Raises:
        ConfigError: with every mistake in it, sorted by place.
    """
    known = list(problems)
    reader = Reader(source, Config)
    config = read_table(Config, source.values, (), reader) or Config()
    _check_listeners(reader)
    _check_binds(reader)
    _check_routes(reader)
    check_actions(reader)
    check_overlaps(reader)
    _check_pools(reader)
    check_stickies(reader)
    check_healths(reader, {path: [backend.address for backend in pool.backends] for path, pool in reader.all_read(Pool)})
    check_passive_health(reader)
    _check_sticky_key(reader)
    check_tls(reader)
    check_tcp(reader)
    check_proxy_protocol(reader)
    check_udp(reader)
    _check_ticket_keys(reader)
    _check_logs(reader, config)
    if source.complete:
        _check_parts(reader)
    damaged_lines = {problem.place.line for problem in known} - {0}
    known += [problem for problem in reader.problems if problem.place.line not in damaged_lines]
    if known:
        raise ConfigError(known)
    config = settle_tcp(_add_implied_route(config), source.values.get("listeners"))
    config = settle_udp(config, source.values.get("pools"))
    return Loaded(config, tuple(sorted(reader.warnings)), places=find_places(reader))


def _read_text(path: str) -> tuple[str, str, list[Problem]]:
    """The text of a file, its name, and what is wrong with its encoding."""
    place = Place(0, 0, path)
    right = "give the path of a TOML file"
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([Problem(place, "no such file", right)]) from None
    except IsADirectoryError:
        raise ConfigError([Problem(place, "this is a directory", right)]) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([Problem(place, f"cannot be read: {reason.lower()}", right)]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Problem(place, "the file is too large", f"at most {MAX_FILE_BYTES >> 20} MiB")])
    try:
        return content.decode("utf-8-sig"), path, []
    except UnicodeDecodeError:
        # Every damaged byte becomes one character, so that lines and columns stay what an editor shows.
        text = content.decode("utf-8-sig", "surrogateescape")
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        bad = re.search("[\udc80-\udcff]", line)
        if bad:
            place = Place(number, bad.start() + 1, path)
            byte = ord(bad[0]) - 0xDC00
            problems.append(Problem(place, f"the byte 0x{byte:02X} is not UTF-8", "save the file as UTF-8"))
    return re.sub("[\udc80-\udcff]", "\N{REPLACEMENT CHARACTER}", text), path, problems


def _check_listeners(reader: Reader) -> None:
    names: dict[str, Place] = {}
    for path, listener in reader.all_read(Listener):
        place = reader.source.value_place((*path, "name"))
        if listener.name in names:
            found = f"a second listener is called {quote(listener.name)}"
            reader.reject((*path, "name"), found, f"the first is {_at(names[listener.name])}: each needs a name of its own")
        names.setdefault(listener.name, place)
        if listener.redirect_https and listener.tls.is_on:
            right = "its clients use HTTPS already, and would be sent in circles"
            reader.reject_key((*path, "redirect_https"), "redirect_https of a listener with tls", right)
        if listener.hsts.text and not listener.tls.is_on:
            right = (
                "HSTS is said over HTTPS only (RFC 6797 section 7.2); behind another TLS proxy set it with response_headers of the routes"
            )
            reader.reject_key((*path, "hsts"), "hsts of a listener without tls", right)
        limits = listener.limits
        if limits.target_bytes > limits.head_bytes and "target" in reader.source.values["listeners"][path[1]].get("limits", {}):
            right = "the target is part of the head, whose limit is met first"
            reader.warn((*path, "limits", "target"), "limits.target is larger than limits.head", right)


def _check_binds(reader: Reader) -> None:
    """No two sockets that the kernel would not let exist together."""
    by_port: dict[tuple[int, str, bool], list[tuple[BindAddress, Place]]] = {}
    udp = {path for path, listener in reader.all_read(Listener) if listener.protocol == UDP}
    for path, address in reader.all_read(BindAddress):
        place = reader.source.value_place(path)
        near = by_port.setdefault((address.port, address.unix_path, path[:2] in udp), [])
        for other, first in near:
            if address.overlaps(other):
                found = f"{address} is bound a second time" if address == other else f"{address} overlaps with {other}"
                reader.reject(path, found, f"the first is {_at(first)}: an address has one listener")
                break
        near.append((address, place))


def _check_routes(reader: Reader) -> None:
    pools = reader.source.values.get("pools")
    known = list(pools) if isinstance(pools, dict) else []
    listeners = [listener.name for _, listener in reader.all_read(Listener)]
    for path, route in reader.all_read(Route):
        for number, name in enumerate(route.listeners):
            if name not in listeners and reader.source.complete:
                right = f"the listeners are {quote_all(listeners)}"
                where = _element(reader, (*path, "listener"), number)
                reader.reject(where, f"there is no listener {quote(name)}", right, nearest(name, listeners))
        for name in route.pool.names():
            if name not in known and reader.source.complete:
                right = f"the pools are {quote_all(known)}" if known else "there are no pools: each has a header such as [pools.api]"
                reader.reject((*path, "pool"), f"there is no pool {quote(name)}", right, nearest(name, known))
        mirror = route.mirror.pool
        if mirror and mirror not in known and reader.source.complete:
            right = f"the pools are {quote_all(known)}" if known else "there are no pools: each has a header such as [pools.shadow]"
            reader.reject((*path, "mirror", "pool"), f"there is no pool {quote(mirror)}", right, nearest(mirror, known))
        elif mirror and mirror in route.pool.names():
            reader.warn((*path, "mirror"), f"the route mirrors into its own pool {quote(mirror)}", "that gets each of these requests twice")


def _element(reader: Reader, path: KeyPath, number: int) -> KeyPath:
    """Where an element of a list was written, which may be a value alone."""
    written = reader.source.values["routes"][path[1]][path[-1]]
    return (*path, number) if isinstance(written, list) else path


def _check_pools(reader: Reader) -> None:
    pools = dict(reader.all_read(Pool))
    zone = _read_zone(reader)
    of_sessions = {name for _, listener in reader.all_read(Listener) for name in listener.session_pools()}
    for path, backend in reader.all_read(Backend):
        algorithm = pools[path[:2]].algorithm if path[:2] in pools else WEIGHTED_LEAST_CONNECTIONS
        if backend.weight > 1 and algorithm in WITHOUT_WEIGHTS:
            found = f"weight {backend.weight} in a pool with algorithm {quote(algorithm)}, which knows no weights"
            right = WEIGHTED_ROUND_ROBIN if algorithm == ROUND_ROBIN else WEIGHTED_LEAST_CONNECTIONS
            reader.reject((*path, "weight"), found, f"{quote(right)} honours weights; or leave the weight out")
        if backend.zone and not zone:
            reader.warn((*path, "zone"), f"zone {quote(backend.zone)} has no effect", "[global] does not say the zone of this node")
    for path, pool in pools.items():
        _check_algorithm(reader, path, pool)
    for path, pool in pools.items():
        if pool.hedge.after_ms:
            _check_hedge(reader, (*path, "hedge"), pool)
        if pool.panic_below and pool.when_all_down != "panic":
            right = 'when_all_down = "panic" says that backends that are down may be picked'
            reader.reject_key((*path, "panic_below"), "a pool that refuses when all are down does not panic before", right)
        if pool.protocol == "auto" and not pool.tls.enabled:
            right = '"http2" for prior knowledge, or tls = true'
            reader.reject_key((*path, "protocol"), "a pool without tls, where nobody says what is spoken", right)
        if pool.tls.enabled:
            _check_backend_tls(reader, path, pool)
        if pool.queue.max and not all(backend.max_in_flight for backend in pool.backends):
            found = f"the pool {quote(pool.name)} has a queue, and a backend without max_connections"
            reader.warn((*path, "queue"), found, "it is never full: nobody ever waits")
        if pool.health.type == GRPC_PROBES and not pool.health.port and pool.protocol == "http1" and pool.name not in of_sessions:
            found = f"the backends of the pool {quote(pool.name)} are probed over gRPC, and asked in HTTP/1.1"
            reader.warn((*path, "health"), found, 'gRPC calls need protocol = "http2"')


def _check_backend_tls(reader: Reader, path: KeyPath, pool: Pool) -> None:
    if pool.tls.verify and not pool.tls.server_name and any(backend.address.unix_path for backend in pool.backends):
        found = "a backend of this pool is a unix socket"
        reader.reject_key((*path, "tls"), found, 'say what its certificate is for: server_name = "app.internal"')
    if pool.health.type in (HTTP_PROBES, GRPC_PROBES) and not pool.health.tls:
        found = f"the backends of the pool {quote(pool.name)} speak TLS, and its health checks do not"
        reader.warn((*path, "health"), found, "health.tls = true has them probed as they are used")


def _check_hedge(reader: Reader, path: KeyPath, pool: Pool) -> None:
    """A hedge is an attempt, and begins while the first one is waited for."""
    if pool.retry.attempts == 1:
        reader.reject_key(path, "a hedge is a second attempt, and retry.attempts is 1", "retry.attempts is at least 2 then")
    for key, limit_ms in (("timeouts.first_byte", pool.timeouts.first_byte_ms), ("retry.within", pool.retry.within_ms)):
        if pool.hedge.after_ms >= limit_ms:
            found = f"hedge.after, {format_duration(pool.hedge.after_ms)}, is not below {key}, {format_duration(limit_ms)}"
            reader.reject_key(path, found, "no hedge would ever begin")


def _check_sticky_key(reader: Reader) -> None:
    for path, settings in reader.all_read(GlobalSettings):
        if settings.sticky_key and settings.sticky_key_file:
            reader.reject_key((*path, "sticky_key_file"), "there is a sticky_key as well", "the secret is in one place: keep one of them")


def _check_ticket_keys(reader: Reader) -> None:
    for path, settings in reader.all_read(GlobalSettings):
        if settings.ticket_key_file and "ticket_key_rotation" in reader.source.values["global"]:
            right = "whoever writes that file rotates them"
            reader.reject_key((*path, "ticket_key_rotation"), "the keys of tickets come from ticket_key_file", right)


def _read_zone(reader: Reader) -> str:
    """Of this node; "" where it is not said."""
    return next((settings.zone for _, settings in reader.all_read(GlobalSettings)), "")


def _check_algorithm(reader: Reader, path: KeyPath, pool: Pool) -> None:
    """No setting of a pool that its algorithm would not look at."""
    algorithm = quote(pool.algorithm)
    is_picker = PICKER_MARK in pool.algorithm
    if pool.hash_key.text != CLIENT_KEY and pool.algorithm not in WITH_KEY and not is_picker:
        right = "it hashes the address of the client" if pool.algorithm == IP_HASH else f"{quote_all(sorted(WITH_KEY))} have keys"
        reader.reject((*path, "hash_key"), f"algorithm {algorithm} has no key that could be chosen", right)
    if pool.balance_factor and pool.algorithm != CONSISTENT_HASH:
        found = f"algorithm {algorithm} has no balance factor"
        reader.reject((*path, "balance_factor"), found, f"only {quote(CONSISTENT_HASH)} has one")
    if pool.slow_start_ms and pool.algorithm not in WITH_SLOW_START:
        if pool.algorithm == ROUND_ROBIN:
            right = f"it knows no weights that could grow; {quote(WEIGHTED_ROUND_ROBIN)} does"
        elif is_picker:
            right = "a picker of your own gets the whole weights; leave slow_start out"
        else:
            right = "each step would move keys to another backend; leave slow_start out"
        reader.reject((*path, "slow_start"), f"algorithm {algorithm} has no slow start", right)
    if pool.backends and not any(backend.weight for backend in pool.backends):
        reader.warn(path, f"every backend of the pool {quote(pool.name)} has weight 0", "none is ever picked")


def _check_logs(reader: Reader, config: Config) -> None:
    for path, log in reader.all_read(AccessLog):
        if log.format.text != "json" and log.fields:
            reader.reject_key((*path, "fields"), 'fields are for format "json"', "another format names its fields in braces")
        if len(log.fields) != len(set(log.fields)):
            reader.reject((*path, "fields"), "a field is listed a second time", "a JSON object has each key once")
    for listener in config.listeners:
        headers = {
            name for log in (config.access_log if listener.access_log.inherited else listener.access_log).logs for name in log.headers()
        }
        if len(headers) > MOST_LOGGED_HEADERS:
            found = f"the logs of listener {quote(listener.name)} name {len(headers)} different header fields"
            reader.reject_key(("listeners",), found, f"at most {MOST_LOGGED_HEADERS}")
    destinations = {str(log.to) for _, log in reader.all_read(AccessLog)}
    if len(destinations) > MOST_LOG_DESTINATIONS:
        reader.reject_key((), f"there are {len(destinations)} log destinations", f"at most {MOST_LOG_DESTINATIONS}")


def _check_parts(reader: Reader) -> None:
    """What is missing, where everything that was written could be read."""
    values = reader.source.values
    listeners, routes, pools = (values.get(key) for key in ("listeners", "routes", "pools"))
    if not listeners and ("listeners",) not in reader.misspelt:
        reader.reject_key((), "there is no listener", 'at least one is needed: [[listeners]] with name = "web" and bind = "127.0.0.1:8080"')
    if not pools and ("pools",) not in reader.misspelt:
        reader.reject_key((), "there is no pool", 'at least one is needed: [pools.NAME] with backends = ["10.0.0.11:8080"]')
    if not isinstance(pools, dict) or not isinstance(routes, list | None):
        return
    of_sessions = {name for _, listener in reader.all_read(Listener) for name in listener.session_pools()}
    has_http = any(listener.protocol == HTTP for _, listener in reader.all_read(Listener))
    if routes or not has_http:
        used = {name for route in routes or () if isinstance(route, dict) for name in _named_pools(route.get("pool"))} | of_sessions
        used |= {route.mirror.pool for _, route in reader.all_read(Route)}
        for name in pools.keys() - used:
            reader.warn(("pools", name), f"no route leads to the pool {quote(name)}", "it gets no requests")
    elif len(pools.keys() - of_sessions or pools) > 1:
        found = f"there are {len(pools)} pools and no route"
        reader.reject_key(("pools",), found, 'say which requests go where: [[routes]] with pool = "NAME", host and path')


def _named_pools(written: object) -> Iterable[str]:
    return (written,) if isinstance(written, str) else written if isinstance(written, dict) else ()


def _add_implied_route(config: Config) -> Config:
    """Without any route the only pool gets every request: the only one that TCP sessions do not go to, if there is one."""
    if config.routes or all(listener.protocol != HTTP for listener in config.listeners):
        return config
    of_sessions = {name for listener in config.listeners for name in listener.session_pools()}
    pool = next((pool for pool in config.pools if pool.name not in of_sessions), config.pools[0])
    return replace(config, routes=(Route(hosts=(ANY_HOST,), pool=PoolShares(((pool.name, 1),))),))


def _at(place: Place) -> str:
    return f"in line {place.line}" if place.line else str(place)
