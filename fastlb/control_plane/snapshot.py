"""From a configuration and the addresses of its names to a snapshot image, which `Engine.apply` maps.

This is the only place that knows both the schema and the image. It decides nothing: defaults, checks and implied routes are the loader's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastlb import _core
from fastlb.control_plane.config.address import format_host_port
from fastlb.control_plane.config.proxy_protocol import PLAIN, UNIX, ProxyProtocol
from fastlb.control_plane.config.schema import (
    CLIENT_KEY,
    HTTP,
    MAX_PRIORITY,
    MAX_WEIGHT,
    WITHOUT_WEIGHTS,
    Backend,
    Config,
    GlobalSettings,
    Pool,
)
from fastlb.control_plane.groups import Row, order_rows
from fastlb.control_plane.log_plan import build_log_plan
from fastlb.control_plane.metrics.meters import NO_METERS, MeterNumbers
from fastlb.control_plane.protection_plan import set_protection
from fastlb.control_plane.resolver import Endpoint
from fastlb.control_plane.route_plan import add_redirects, build_route_table, choose_host_sets, list_variants
from fastlb.control_plane.route_program import add_program, compile_template, name_of, pool_of
from fastlb.control_plane.session_plan import add_sessions
from fastlb.control_plane.sticky_plan import make_cookie_value, set_sticky
from fastlb.control_plane.tls.automation import NOTHING, Automatic
from fastlb.control_plane.tls.challenge import WELL_KNOWN, Challenge
from fastlb.control_plane.tls.material import NO_MATERIAL, Material
from fastlb.control_plane.tls_plan import TlsPlan
from fastlb.control_plane.weights import NO_WEIGHTS, Weights, override_weight

# The engine keeps a head together with its buffer's own record in 64 KiB.
MAX_HEAD_BYTES = 65536 - 64


def build_image(
    config: Config,
    endpoints: Mapping[str, Sequence[Endpoint]],
    generation: int,
    sticky_key: bytes = b"",
    weights: Weights = NO_WEIGHTS,
    meters: MeterNumbers = NO_METERS,
    tls: Material = NO_MATERIAL,
    ticket_keys: Sequence[bytes] = (),
    automatic: Automatic = NOTHING,
) -> int:
    """Writes one snapshot image.

    Args:
        endpoints: what every name stands for that is resolved, by the question (`BackendAddress.question`).
        generation: counts up from 1.
        sticky_key: what makes the values of sticky cookies, where a pool has them.
        weights: what the operator has put in the place of configured ones.
        meters: where its listeners, routes and pools are counted.
        tls: the certificates and keys of its listeners.
        ticket_keys: what sessions of clients are encrypted with, the newest first.
        automatic: what CAs and their responders have to do with it.

    Returns:
        A descriptor of the sealed image; the caller closes it.
    """
    writer = _core.SnapshotWriter(generation)
    settings = config.settings
    writer.set_reason_header(settings.reason_header or None)
    writer.set_max_connections(settings.max_connections)
    writer.set_forwarded_headers(settings.forwarded_headers)
    writer.set_request_id(settings.request_id)
    writer.set_python_path(settings.python_path)
    for network in settings.trusted_networks:
        writer.add_trusted_network(network)
    log_plan, log_sets = build_log_plan(config)
    writer.set_log_plan(log_plan)
    listener_meters, route_meters, pool_meters = (
        numbers or [0] * len(owners)
        for numbers, owners in ((meters.listeners, config.listeners), (meters.routes, config.routes), (meters.pools, config.pools))
    )
    config = add_redirects(config)  # which nobody counts
    host_sets, host_set_numbers = choose_host_sets(config)
    tls_plan = TlsPlan(writer, tls, automatic)
    for listener, log_set, host_set, meter in zip(config.listeners, log_sets, host_set_numbers, listener_meters, strict=True):
        listener_index = writer.add_listener(
            listener.name,
            head_timeout_ms=listener.timeouts.head_ms,
            body_timeout_ms=listener.timeouts.body_ms,
            idle_timeout_ms=listener.timeouts.idle_ms,
            write_timeout_ms=listener.timeouts.write_ms,
            max_head_bytes=min(listener.limits.head_bytes, MAX_HEAD_BYTES),
            max_target_bytes=listener.limits.target_bytes,
            max_headers=listener.limits.headers,
            max_body_bytes=listener.limits.body_bytes,
            log_set=log_set,
            host_set=host_set,
            meter=meter,
            http2_streams=listener.http2.streams if listener.http2.enabled and listener.protocol == HTTP else 0,
            http2_window_bytes=listener.http2.window_bytes,
            http2_connection_window_bytes=listener.http2.connection_window_bytes,
        )
        tls_plan.set_listener(listener_index, listener)
        if listener.proxy_protocol.is_on:
            set_proxy_protocol(writer, listener_index, listener.proxy_protocol)
    if ticket_keys:
        writer.set_ticket_keys(ticket_keys)
    pool_indexes = {}
    rows: dict[str, list[Row]] = {}
    for pool, meter in zip(config.pools, pool_meters, strict=True):
        pool_index = pool_indexes[pool.name] = writer.add_pool(
            pool.name,
            algorithm=pool.algorithm,
            attempts=pool.retry.attempts,
            replay_limit_bytes=pool.replay_limit_bytes,
            max_idle=pool.keepalive.max_idle,
            idle_timeout_ms=pool.keepalive.idle_ms,
            connect_timeout_ms=pool.timeouts.connect_ms,
            first_byte_timeout_ms=pool.timeouts.first_byte_ms,
            between_bytes_timeout_ms=pool.timeouts.between_bytes_ms,
            exchange_timeout_ms=pool.timeouts.exchange_ms,
            tunnel_timeout_ms=pool.timeouts.tunnel_ms,
            queue_max=pool.queue.max,
            queue_timeout_ms=pool.queue.timeout_ms,
            balance_permille=round(pool.balance_factor * 1000),
            slow_start_ms=pool.slow_start_ms,
            meter=meter,
        )
        retry = pool.retry
        writer.set_retry(
            pool_index, on=retry.on, unsafe=retry.unsafe, within_ms=retry.within_ms, share=retry.budget, floor=retry.budget_floor
        )
        if pool.hash_key.text != CLIENT_KEY:
            writer.set_hash_key(pool_index, compile_template(pool.hash_key))
        set_sticky(writer, pool_index, pool.sticky)
        if pool.proxy_protocol.is_on:
            writer.set_proxy_header(pool_index, version=1 if pool.proxy_protocol.version == "v1" else 2, facts=pool.proxy_protocol.tlvs)
        if pool.protocol != "http1":
            writer.set_protocol(pool_index, protocol=pool.protocol, streams=pool.http2.streams, window_bytes=pool.http2.window_bytes)
        if pool.hedge.after_ms:
            writer.set_hedge(pool_index, after_ms=pool.hedge.after_ms)
        writer.set_socket(pool_index, keepalive=pool.tcp_keepalive.numbers(), source=pool.source_address)
        set_protection(writer, pool_index, pool)
        tls_plan.set_backends(pool_index, pool)
        groups = list_groups(pool, settings, endpoints, weights)
        rows[pool.name] = [row for group in groups for row in group]
        for group in groups:
            writer.begin_group(pool_index)
            for row in group:
                writer.add_backend(
                    pool_index,
                    identity=row.identity,
                    display=row.display,
                    address=row.address,
                    weight=row.backend.weight,
                    max_in_flight=row.backend.max_in_flight,
                    table_name=row.table_name,
                    tls_name=row.backend.address.host if pool.tls.enabled else "",
                    cookie=make_cookie_value(sticky_key, row.identity) if pool.sticky.cookie and sticky_key else "",
                )
    add_sessions(writer, config, pool_indexes, rows)
    routes = {}
    for number, hsts in list_variants(config, host_sets):
        route, meter = config.routes[number], route_meters[number] if number < len(route_meters) else 0
        index = writer.add_route(pool=pool_of(route, pool_indexes), name=name_of(route), priority=route.priority, meter=meter)
        add_program(writer, index, route, pool_indexes, hsts)
        if route.mirror.pool:
            writer.set_mirror(index, pool=pool_indexes[route.mirror.pool], share=route.mirror.share)
        routes[number, hsts] = index
    writer.set_route_table(build_route_table(config, host_sets, routes, add_challenges(writer, automatic.challenges)))
    return writer.finish()


def set_proxy_protocol(writer: _core.SnapshotWriter, listener: int, options: ProxyProtocol) -> None:
    """Has a listener take PROXY headers."""
    writer.set_proxy_protocol(
        listener,
        senders=[network for network in options.senders if not isinstance(network, str)],
        from_unix=UNIX in options.senders,
        others_plain=options.others == PLAIN,
        timeout_ms=options.timeout_ms,
    )


def add_challenges(writer: _core.SnapshotWriter, challenges: Sequence[Challenge]) -> list[tuple[int, str, str]]:
    """Routes that answer what CAs look for over HTTP: index, host and path."""
    rules = []
    for one in challenges:
        if one.answer:
            index = writer.add_route(pool=None, name="acme_challenge")
            writer.set_response(index, 200, "OK", content_type="application/octet-stream", body=[one.answer.encode()])
            rules.append((index, one.domain, WELL_KNOWN + one.token))
    return rules


def list_groups(
    pool: Pool, settings: GlobalSettings, endpoints: Mapping[str, Sequence[Endpoint]], weights: Weights = NO_WEIGHTS
) -> list[list[Row]]:
    """The backends of a pool as its snapshot has them: those that this node uses, in their groups."""
    rows = [override_weight(row, pool, weights) for backend in pool.backends for row in list_rows(pool, backend, endpoints)]
    return order_rows(rows, pool, settings)


def list_rows(pool: Pool, backend: Backend, endpoints: Mapping[str, Sequence[Endpoint]]) -> list[Row]:
    """One row for an address; for a name one row per endpoint that it has, or one that gets no requests while it has none."""
    written = backend.address
    text = str(written)
    if written.unix_path:
        return [Row(backend, f"{pool.name}|{text}", text, text, _core.pack_unix(written.unix_path))]
    if not written.is_name:
        return [Row(backend, f"{pool.name}|{text}", text, text, _core.pack_address(written.host, written.port))]
    found = endpoints.get(written.question)
    if not found:
        return [Row(backend, f"{pool.name}|{text}", text, text, None)]
    if written.is_service:
        return _list_service_rows(pool, backend, found)
    return [
        Row(
            backend,
            f"{pool.name}|{text}|{one.ip}",
            f"{text} ({one.ip})",
            format_host_port(one.ip, written.port),
            _core.pack_address(one.ip, written.port),
        )
        for one in found
    ]


def _list_service_rows(pool: Pool, backend: Backend, endpoints: Sequence[Endpoint]) -> list[Row]:
    """Those of a service's records (RFC 2782): their weights take the place of the backend's where the algorithm has any, scaled to what a
    weight may be; those of a higher priority come after those of a lower one."""
    text = str(backend.address)
    heaviest = max(one.weight for one in endpoints)
    is_weighted = backend.weight and heaviest and pool.algorithm not in WITHOUT_WEIGHTS
    priorities = sorted({one.priority for one in endpoints})
    rows = []
    for one in endpoints:
        # A weight of 0 beside others means "hardly ever".
        weight = max(one.weight * min(MAX_WEIGHT, heaviest) // heaviest, 1) if is_weighted else backend.weight
        priority = min(backend.priority + priorities.index(one.priority), MAX_PRIORITY)
        address = format_host_port(one.ip, one.port)
        rows.append(
            Row(
                replace(backend, weight=weight, priority=priority),
                f"{pool.name}|{text}|{address}",
                f"{text} ({address})",
                address,
                _core.pack_address(one.ip, one.port),
            )
        )
    return rows
