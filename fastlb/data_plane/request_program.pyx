"""What happens to a request before its first attempt: it finds its route and does what that says, in the order in which it is written here.

    target decoded -> route found -> body limit -> redirect, answer or close -> pool, key -> time-outs -> new target -> mirror

Reads the snapshot's image and changes the exchange only; Engine.write_buffer is scratch. Features that a route does not use are one test of
ImageRoute.features for all of them together.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.failure cimport (FAILURE_BAD_HOST, FAILURE_BAD_TARGET, FAILURE_BODY_TOO_LARGE, FAILURE_OUT_OF_MEMORY,
                                        FAILURE_TARGET_TOO_LONG)
from fastlb.data_plane.header_edits cimport check_edits
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.image cimport range_fits, text_fits
from fastlb.data_plane.meters cimport enter_pool_meter, enter_route_meter
from fastlb.data_plane.mirror cimport choose_mirror
from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.route_table cimport find_route
from fastlb.data_plane.select.key cimport hash_bytes, hash_key
from fastlb.data_plane.system cimport memchr, unlikely
from fastlb.data_plane.target cimport has_dot_segment, request_path
from fastlb.data_plane.template cimport check_template, keep_match, put_encoded, put_template
from fastlb.data_plane.types cimport MAX_METERS, X_HEDGE, X_IDEMPOTENT
from fastlb.data_plane.types cimport (ENCODE_NOTHING, ENCODE_PATH, FRAME_LENGTH, MAX_HEAD_BYTES, POOL_ENTRY, POOL_HEDGES, POOL_NEEDS_KEY, QUEUE_PRIORITIES, ROUTE_ANSWERS,
                                      ROUTE_CHANGES_TARGET, ROUTE_HAS_LIMITS, ROUTE_HAS_TIMEOUTS, ROUTE_KEEPS_MATCH, ROUTE_MIRROR, ROUTE_NEEDS_HOST,
                                      ROUTE_REPLACES_PREFIX, ROUTE_SPLITS, Engine, Exchange, Head, ImageHeader, ImagePool, ImageRoute,
                                      ImageSection, ImageShare, Snapshot)
from fastlb.data_plane.writer cimport Writer, put

cdef enum:
    SPLIT_SEED = 1                  # another hash than that of maglev: the same key may choose a pool and a backend of it
    MAX_PHRASE_BYTES = 128          # of an answer's reason phrase and of its content type


# ---------------------------------------------------------------------------------------------------------- the image
cdef bint check_shares(const char* image, const ImageHeader* header, const ImageRoute* route) noexcept nogil:
    cdef:
        const ImageShare* share = <const ImageShare*>(image + header.shares.offset) + route.shares.offset
        uint32_t _i
    if not range_fits(&route.shares, &header.shares) or route.shares.count == 0 or not check_template(header, &route.split_by):
        return False
    for _i in range(route.shares.count):
        if share.pool >= header.pools.count:
            return False
        share += 1
    return True


cdef bint check_route(const char* image, const ImageHeader* header, const ImageRoute* route) noexcept nogil:
    # Of an image whose sections and templates' segments are known to be sound.
    if not (text_fits(header.size, &route.name) and check_edits(header, &route.request) and check_edits(header, &route.response)
            and check_template(header, &route.host) and check_template(header, &route.target) and check_template(header, &route.body)
            and text_fits(header.size, &route.prefix) and text_fits(header.size, &route.phrase)
            and text_fits(header.size, &route.content_type) and route.priority < QUEUE_PRIORITIES and route.meter < MAX_METERS):
        return False
    if route.prefix.size > MAX_HEAD_BYTES or route.phrase.size > MAX_PHRASE_BYTES or route.content_type.size > MAX_PHRASE_BYTES \
            or route.status > 999:
        return False
    if route.features & ROUTE_MIRROR and route.mirror_pool >= header.pools.count:
        return False
    if route.features & ROUTE_ANSWERS:
        return True
    if route.features & ROUTE_SPLITS and not check_shares(image, header, route):
        return False
    return route.pool < header.pools.count


# ---------------------------------------------------------------------------------------------------------- the pool
cdef uint32_t put_key(Engine* engine, Exchange* exchange, const ImageSection* template) noexcept nogil:
    # A key into engine.write_buffer; returns its size, 0 where there is none.
    cdef Writer out
    out.at = engine.write_buffer
    out.end = engine.write_buffer + MAX_HEAD_BYTES
    out.overflow = False
    put_template(engine, exchange, kept_request(engine, exchange), NULL, template, &out)
    return <uint32_t>(out.at - engine.write_buffer)


cdef void make_key(Engine* engine, Exchange* exchange) noexcept nogil:
    # What the algorithm of its pool hashes, for all attempts. A request that has no key has its turn as in round robin.
    cdef:
        const ImageSection* template = &exchange.pool.image.hash_key
        uint32_t size
    if template.count == 0:
        exchange.key = hash_key(exchange.pool.algorithm, exchange.client.peer.address, exchange.client.address_size)
        return
    size = put_key(engine, exchange, template)
    exchange.key = hash_key(exchange.pool.algorithm, engine.write_buffer, size) if size else 0


cdef void enter_pool(Engine* engine, Exchange* exchange, uint32_t pool, uint32_t head_bytes) noexcept nogil:
    # Copies what the exchange needs of its pool; its request head had so many bytes.
    cdef const ImagePool* image
    exchange.pool = &exchange.snapshot.pools[pool]
    image = exchange.pool.image
    exchange.max_attempts = <uint8_t>image.attempts
    exchange.replay_limit = image.replay_limit_bytes
    exchange.connect_timeout_ms = image.connect_timeout_ms
    exchange.first_byte_timeout_ms = image.first_byte_timeout_ms
    exchange.between_bytes_timeout_ms = image.between_bytes_timeout_ms
    exchange.tunnel_timeout_ms = image.tunnel_timeout_ms
    exchange.deadline_ms = engine.now_ms + image.exchange_timeout_ms
    exchange.started_ms = engine.now_ms
    exchange.pool.n_exchanges += 1
    enter_pool_meter(engine, exchange, image.meter, head_bytes)
    if unlikely(exchange.pool.flags & POOL_ENTRY):
        if exchange.pool.flags & POOL_NEEDS_KEY:
            make_key(engine, exchange)
        if exchange.pool.flags & POOL_HEDGES and exchange.flags & X_IDEMPOTENT:
            exchange.flags |= X_HEDGE


cdef uint32_t choose_pool(Engine* engine, Exchange* exchange) noexcept nogil:
    # One of those among which the route splits: by its key, so that the same key leads to the same pool as long as the shares stay (and
    # few keys move when they change), or at random; also where there is no key, or all who have none would be in one pool.
    cdef:
        const ImageRoute* route = exchange.route
        const ImageShare* share = <const ImageShare*>(exchange.snapshot.image + exchange.snapshot.header.shares.offset) + route.shares.offset
        uint32_t i, draw, size = put_key(engine, exchange, &route.split_by)
    draw = <uint32_t>((hash_bytes(engine.write_buffer, size, SPLIT_SEED) if size else next_random(engine)) >> 32)
    for i in range(route.shares.count - 1):
        if draw <= share[i].bound:
            return share[i].pool
    return share[route.shares.count - 1].pool


cdef void override_timeouts(Engine* engine, Exchange* exchange) noexcept nogil:
    cdef const ImageRoute* route = exchange.route
    if route.connect_timeout_ms:
        exchange.connect_timeout_ms = route.connect_timeout_ms
    if route.first_byte_timeout_ms:
        exchange.first_byte_timeout_ms = route.first_byte_timeout_ms
    if route.between_bytes_timeout_ms:
        exchange.between_bytes_timeout_ms = route.between_bytes_timeout_ms
    if route.tunnel_timeout_ms:
        exchange.tunnel_timeout_ms = route.tunnel_timeout_ms
    if route.exchange_timeout_ms:
        exchange.deadline_ms = engine.now_ms + route.exchange_timeout_ms


# ---------------------------------------------------------------------------------------------------------- the target
cdef void put_replaced(Engine* engine, Exchange* exchange, const Head* head, Writer* out) noexcept nogil:
    # The path with another prefix, and the query: as nginx's proxy_pass with a URI. It is the normalised path, encoded again if there
    # was an escape in it; most paths are normal as they come, and then these are their own bytes.
    cdef:
        const ImageRoute* route = exchange.route
        int size = 0
        const char* path = request_path(head, engine.path, &size)
        const char* raw = head.data + head.origin
        uint32_t encoding = ENCODE_PATH if memchr(raw, c"%", head.path_size) != NULL else ENCODE_NOTHING
        uint32_t gone = route.prefix_size if route.prefix_size < <uint32_t>size else <uint32_t>size
    if route.prefix.size == 0 and (gone == <uint32_t>size or path[gone] != c"/"):
        put(out, b"/", 1)
    put(out, exchange.snapshot.image + route.prefix.offset, route.prefix.size)
    put_encoded(out, path + gone, <uint32_t>size - gone, encoding)
    if head.origin_size > head.path_size + 1:
        put(out, raw + head.path_size, head.origin_size - head.path_size)


cdef uint32_t change_target(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # Makes what backends get instead of the target. 0 or a FAILURE_*.
    cdef:
        const ImageRoute* route = exchange.route
        const char* start = engine.write_buffer
        const char* query
        uint32_t size, path_size
        Writer out
    if head.origin_size and head.data[head.origin] == c"*":
        return 0                                # OPTIONS of the whole server
    out.at = engine.write_buffer
    out.end = engine.write_buffer + MAX_HEAD_BYTES
    out.overflow = False
    if route.features & ROUTE_REPLACES_PREFIX:
        put_replaced(engine, exchange, head, &out)
    else:
        put_template(engine, exchange, head, NULL, &route.target, &out)
    if out.overflow:
        return FAILURE_TARGET_TOO_LONG
    size = path_size = <uint32_t>(out.at - start)
    query = <const char*>memchr(start, c"?", size)
    if query != NULL:
        path_size = <uint32_t>(query - start)
        if path_size + 1 == size:
            size = path_size                    # "?{query}" without one
    if path_size == 0 or start[0] != c"/" or has_dot_segment(start, path_size):
        # "/app../x" without "/app" is "/../x": what leaves the place that it was given is refused.
        return FAILURE_BAD_TARGET
    return 0 if append_bytes(&engine.buffers, &exchange.target, start, size) else <uint32_t>FAILURE_OUT_OF_MEMORY


# ---------------------------------------------------------------------------------------------------------- the program
cdef inline bint is_too_large(const Exchange* exchange, const Head* head) noexcept nogil:
    return exchange.max_body_bytes != 0 and head.framing == FRAME_LENGTH and <uint64_t>head.content_length > exchange.max_body_bytes


cdef uint32_t run_program(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # Routes the request. 0 with exchange.pool set; OWN_ANSWER: the route answers by itself; or a FAILURE_*.
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
    enter_route_meter(engine, exchange, exchange.route.meter)
    exchange.max_body_bytes = exchange.client.listener.settings.max_body_bytes
    if unlikely(exchange.route.features):
        return run_features(engine, exchange, head)
    if unlikely(is_too_large(exchange, head)):
        return FAILURE_BODY_TOO_LARGE
    enter_pool(engine, exchange, exchange.route.pool, exchange.request_head.end)
    return 0


cdef uint32_t run_features(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # The rest of the program where a route does something that most do not. As run_program.
    cdef:
        const ImageRoute* route = exchange.route
        uint32_t features = route.features, failure
    if features & ROUTE_HAS_LIMITS:
        exchange.max_body_bytes = route.max_body_bytes
    if is_too_large(exchange, head):
        return FAILURE_BODY_TOO_LARGE
    if features & ROUTE_KEEPS_MATCH and not keep_match(engine, exchange):
        return FAILURE_OUT_OF_MEMORY
    if features & ROUTE_ANSWERS:
        if features & ROUTE_NEEDS_HOST and (head.host_size == 0 or head.data[head.host] == c":" or head.data[head.host] == c"."):
            return FAILURE_BAD_HOST             # it would lead to "https:///path"
        return OWN_ANSWER
    enter_pool(engine, exchange, choose_pool(engine, exchange) if features & ROUTE_SPLITS else route.pool, exchange.request_head.end)
    if features & ROUTE_HAS_TIMEOUTS:
        override_timeouts(engine, exchange)
    if features & ROUTE_CHANGES_TARGET:
        failure = change_target(engine, exchange, head)
        if failure:
            return failure
    if features & ROUTE_MIRROR:
        choose_mirror(engine, exchange, head)
    return 0
