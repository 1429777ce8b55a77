"""What happens to a request before its first attempt: it finds its route and does what that says, in the order in which it is written here.

Reads the snapshot's image and changes the exchange only. Features that a route does not use are one test of ImageRoute.features for all
of them together.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.failure cimport FAILURE_BAD_TARGET
from fastlb.data_plane.header_edits cimport check_edits
from fastlb.data_plane.image cimport text_fits
from fastlb.data_plane.mirror cimport choose_mirror
from fastlb.data_plane.route_table cimport find_route
from fastlb.data_plane.select.key cimport hash_key
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.target cimport request_path
from fastlb.data_plane.template cimport check_template
from fastlb.data_plane.types cimport X_HEDGE, X_IDEMPOTENT
from fastlb.data_plane.types cimport (POOL_NEEDS_KEY, QUEUE_PRIORITIES, ROUTE_MIRROR, Engine, Exchange, Head, ImageHeader, ImagePool,
                                      ImageRoute, Snapshot)


cdef bint check_route(const ImageHeader* header, const ImageRoute* route) noexcept nogil:
    # Of an image whose sections and templates' segments are known to be sound.
    return text_fits(header.size, &route.name) and route.pool < header.pools.count and check_edits(header, &route.request) \
        and check_edits(header, &route.response) and check_template(header, &route.host) \
        and route.priority < QUEUE_PRIORITIES \
        and (not route.features & ROUTE_MIRROR or route.mirror_pool < header.pools.count)


cdef void enter_pool(Engine* engine, Exchange* exchange, uint32_t pool) noexcept nogil:
    # Copies what the exchange needs of its pool.
    cdef const ImagePool* image
    exchange.pool = &exchange.snapshot.pools[pool]
    image = exchange.pool.image
    if unlikely(exchange.pool.flags & POOL_NEEDS_KEY):
        exchange.key = hash_key(exchange.pool.algorithm, exchange.client.address, exchange.client.address_size)
    exchange.max_attempts = <uint8_t>image.attempts
    exchange.replay_limit = image.replay_limit_bytes
    exchange.connect_timeout_ms = image.connect_timeout_ms
    exchange.first_byte_timeout_ms = image.first_byte_timeout_ms
    exchange.between_bytes_timeout_ms = image.between_bytes_timeout_ms
    exchange.tunnel_timeout_ms = image.tunnel_timeout_ms
    exchange.deadline_ms = engine.now_ms + image.exchange_timeout_ms
    exchange.started_ms = engine.now_ms
    exchange.pool.n_exchanges += 1
    if unlikely(image.hedge_after_ms != 0) and exchange.flags & X_IDEMPOTENT:
        exchange.flags |= X_HEDGE


cdef uint32_t run_program(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # Routes the request. 0 with exchange.pool set, or a FAILURE_*.
    cdef:
        Snapshot* snapshot = exchange.snapshot
        int path_size = 0
        const char* path = request_path(head, engine.path, &path_size)
        uint32_t failure
    if unlikely(path == NULL):
        return FAILURE_BAD_TARGET
    failure = find_route(engine, exchange, head, path, <uint32_t>path_size)
    if failure:
        return failure
    exchange.route = <const ImageRoute*>(snapshot.image + snapshot.header.routes.offset) + engine.match.route
    enter_pool(engine, exchange, exchange.route.pool)
    if unlikely(exchange.route.features):
        run_features(engine, exchange, head)
    return 0


cdef void run_features(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # What most routes do not do.
    if exchange.route.features & ROUTE_MIRROR:
        choose_mirror(engine, exchange, head)
