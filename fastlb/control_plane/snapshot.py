"""From a configuration and the addresses of its names to a snapshot image, which `Engine.apply` maps.

This is the only place that knows both the schema and the image. It decides nothing: defaults, checks and implied routes are the loader's.
"""

from collections.abc import Mapping, Sequence

from fastlb import _core
from fastlb.control_plane.config.schema import Backend, Config
from fastlb.control_plane.log_plan import build_log_plan
from fastlb.control_plane.sticky_plan import make_cookie_value, set_sticky

# The engine keeps a head together with its buffer's own record in 64 KiB.
MAX_HEAD_BYTES = 65536 - 64


def build_image(config: Config, addresses: Mapping[str, Sequence[str]], generation: int, sticky_key: bytes = b"") -> int:
    """Writes one snapshot image.

    Args:
        addresses: the IP addresses of every name that is resolved.
        generation: counts up from 1.
        sticky_key: what makes the values of sticky cookies, where a pool has them.

    Returns:
        A descriptor of the sealed image; the caller closes it.
    """
    writer = _core.SnapshotWriter(generation)
    settings = config.settings
    writer.set_reason_header(settings.reason_header or None)
    writer.set_max_connections(settings.max_connections)
    writer.set_forwarded_headers(settings.forwarded_headers)
    writer.set_request_id(settings.request_id)
    for network in settings.trusted_networks:
        writer.add_trusted_network(network)
    log_plan, log_sets = build_log_plan(config)
    writer.set_log_plan(log_plan)
    for listener, log_set in zip(config.listeners, log_sets, strict=True):
        writer.add_listener(
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
        )
    pool_indexes = {}
    for pool in config.pools:
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
        )
        retry = pool.retry
        writer.set_retry(
            pool_index, on=retry.on, unsafe=retry.unsafe, within_ms=retry.within_ms, share=retry.budget, floor=retry.budget_floor
        )
        set_sticky(writer, pool_index, pool.sticky)
        for backend in pool.backends:
            _add_backend(writer, pool_index, pool.name, backend, addresses, sticky_key if pool.sticky.cookie else b"")
    for route in config.routes:
        for host in route.hosts:
            index = writer.add_route(host=host, path_prefix=route.path, pool=pool_indexes[route.pool], priority=route.priority)
            if route.mirror.pool:
                writer.set_mirror(index, pool=pool_indexes[route.mirror.pool], share=route.mirror.share)
    return writer.finish()


def _add_backend(
    writer: _core.SnapshotWriter, pool: int, pool_name: str, backend: Backend, addresses: Mapping[str, Sequence[str]], sticky_key: bytes
) -> None:
    """One row for an address; for a name one row per address that it has, or one that gets no requests while it has none."""
    written = backend.address
    rows: list[tuple[str, str, bytes | None]]  # identity, display, address
    if written.unix_path:
        rows = [(str(written), str(written), _core.pack_unix(written.unix_path))]
    elif not written.is_name:
        rows = [(str(written), str(written), _core.pack_address(written.host, written.port))]
    elif not addresses.get(written.host):
        rows = [(str(written), str(written), None)]
    else:
        ips = addresses[written.host]
        rows = [(f"{written}|{ip}", f"{written} ({ip})", _core.pack_address(ip, written.port)) for ip in ips]
    for identity, display, address in rows:
        writer.add_backend(
            pool,
            identity=f"{pool_name}|{identity}",
            display=display,
            address=address,
            weight=backend.weight,
            max_in_flight=backend.max_in_flight,
            cookie=make_cookie_value(sticky_key, f"{pool_name}|{identity}") if sticky_key else "",
        )
