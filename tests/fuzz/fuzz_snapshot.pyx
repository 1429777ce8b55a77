"""Snapshot images: what check_image accepts must be safe to run on. Input: an image; its magic, layout and size are set here.

Promises: every pool, backend and route is of the image; a request and a local answer can be written, a client can be looked up,
listeners can take its settings; and the engine goes on to the next image.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from fastlb.data_plane.buffer cimport return_buffer, take_buffer
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.sticky cimport begin_sticky, note_sticky_answer, pick_sticky
from fastlb.data_plane.types cimport LIMIT_KINDS, POOL_PASSIVE_HEALTH, POOL_STICKY, Attempt, Buffer, LimitKind, Pool
from fastlb.data_plane.access_log cimport log_request_head, log_response_head, open_log, write_log
from fastlb.data_plane.buffer cimport return_buffer
from fastlb.data_plane.engine cimport engine_commit, engine_prepare
from fastlb.data_plane.failure cimport FAILURE_NO_ROUTE, FAILURE_REGEX_LIMIT, RETRY_ON_CONNECT
from fastlb.data_plane.limits cimport give_place_back, take_place
from fastlb.data_plane.passive_health cimport bring_back, is_counted, note_failure
from fastlb.data_plane.states cimport look_at_states
from fastlb.data_plane.trust cimport is_trusted
from fastlb.data_plane.http1_head cimport parse_request, parse_response
from fastlb.data_plane.http1_serialise cimport write_answer, write_local, write_request, write_response
from fastlb.data_plane.log_writer cimport wake_log_writer
from fastlb.data_plane.request_program cimport OWN_ANSWER, run_features
from fastlb.data_plane.route_table cimport find_route
from fastlb.data_plane.select.dispatch cimport pick
from fastlb.data_plane.shared_table cimport add_image_rows, sweep_rows
from fastlb.data_plane.snapshot cimport IMAGE_LAYOUT, IMAGE_MAGIC, check_image, map_image
from fastlb.data_plane.types cimport (MAX_HEAD_BYTES, MAX_HEADERS, METHOD_GET, NO_BACKEND, NO_INDEX, ROUTE_ANSWERS, Attempt, Backend, Connection,
                                      Engine, Exchange, Head, HeadLimits, ImageHeader, ImagePool, ImageRoute, ImageRouteTable, Listener, Snapshot, Socket)
from tests.fuzz.expect cimport expect
from tests.fuzz.plane cimport begin, open_plane

cdef extern from "<unistd.h>" nogil:
    int ftruncate(int fd, int64_t size)
    ssize_t pwrite(int fd, const void* data, size_t size, int64_t offset)

cdef enum:
    MAX_LISTENERS = 4

cdef Engine* engine
cdef int base_image                 # applied behind each input, so that no input leaves anything to the next one
cdef int input_image                # a memfd that is written anew for each input
cdef Socket sockets[MAX_LISTENERS]
cdef const char* REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: b\r\nX-Request-Id: c\r\nConnection: d\r\n\r\n"
cdef const char* RESPONSE = b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 0\r\n\r\n"
cdef const char* STUCK = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; id=aaaaaaaaaaaaaaaaaaaaaa; b=2\r\nCookie: id=7\r\nX-Forwarded-Proto: https\r\n\r\n"
cdef const char* ANSWER = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: id=7; Path=/\r\nContent-Length: 0\r\n\r\n"
cdef const char* ROUTED[4]          # what the seeds' routes look at
ROUTED[0] = b"GET /api/v2/x.php?beta=%31&q=a+b HTTP/1.1\r\nHost: shop.Example.com:80\r\nX-Canary: true\r\nCookie: group=b; id=\"7\"\r\n\r\n"
ROUTED[1] = b"PURGE /api/ HTTP/1.1\r\nHost: [::1]\r\n\r\n"
ROUTED[2] = b"POST /exact?beta HTTP/1.0\r\n\r\n"
ROUTED[3] = b"GET / HTTP/1.1\r\nHost: a.b.example.com.\r\nCookie: group=\r\nCookie: =\r\n\r\n"


cdef void route(Engine* engine, Exchange* exchange, const char* text) noexcept nogil:
    cdef:
        const Snapshot* snapshot = engine.snapshot
        const ImageRoute* routes = <const ImageRoute*>(snapshot.image + snapshot.header.routes.offset)
        Head head
        HeadLimits limits
        int32_t tried[2]
        int32_t number
        uint32_t pool, failure
    limits.max_bytes = limits.max_target_bytes = 4096
    limits.max_fields = 10
    expect(parse_request(&head, text, <uint32_t>strlen(text), &limits) > 0, b"the requests of this target are whole")
    failure = find_route(engine, exchange, &head, head.data + head.origin, head.path_size)
    if failure != 0:
        expect(failure == FAILURE_NO_ROUTE or failure == FAILURE_REGEX_LIMIT, b"these requests have few parameters")
        return
    expect(engine.match.route < snapshot.header.routes.count, b"a match is a route of the image")
    for pool in range(engine.match.n_groups):
        expect(engine.match.groups[2 * pool] == <uint32_t>NO_INDEX or
               engine.match.groups[2 * pool] <= engine.match.groups[2 * pool + 1] <= head.path_size, b"groups lie in the path")
    if routes[engine.match.route].features & ROUTE_ANSWERS:
        return                                  # without a pool
    pool = routes[engine.match.route].pool
    expect(pool < snapshot.n_pools, b"a route leads to a pool of the image")
    number = pick(&snapshot.pools[pool], <uint64_t>0x9E3779B97F4A7C15, tried, 0)
    if number == NO_BACKEND:
        return
    expect(<uint32_t>number < snapshot.pools[pool].n_backends, b"a pick is a backend of its pool")
    tried[0] = number
    number = pick(&snapshot.pools[pool], <uint64_t>0x9E3779B97F4A7C15, tried, 1)
    expect(number != tried[0], b"what was tried is not picked again")


cdef void stick(Engine* engine, Exchange* exchange) noexcept nogil:
    # A client with a cookie comes to the exchange's pool, and gets an answer.
    cdef:
        Buffer* kept = take_buffer(&engine.buffers, <uint32_t>strlen(STUCK))
        uint32_t failure = 0
        int32_t number
        Attempt attempt
        Head response
        HeadLimits limits
    if exchange.pool == NULL or not exchange.pool.flags & POOL_STICKY:     # NULL: the route answers by itself
        return_buffer(&engine.buffers, kept)
        return
    memcpy(kept.data, STUCK, strlen(STUCK))
    kept.end = <uint32_t>strlen(STUCK)
    exchange.request_head = kept
    engine.request.data = NULL
    begin_sticky(engine, exchange, kept_request(engine, exchange))
    expect(engine.request.size == kept.end <= strlen(STUCK), b"the kept head is the parsed one")
    number = pick_sticky(exchange, &failure)
    expect(number < <int32_t>exchange.pool.n_backends, b"a client belongs to a backend of its pool")
    if exchange.pool.n_backends:
        memset(&attempt, 0, sizeof(attempt))
        attempt.pick = <int32_t>exchange.pool.n_backends - 1
        attempt.backend = exchange.pool.backends[attempt.pick].row
        exchange.attempt = &attempt
        limits.max_bytes = limits.max_target_bytes = 4096
        limits.max_fields = 10
        parse_response(&response, ANSWER, <uint32_t>strlen(ANSWER), &limits, METHOD_GET)
        note_sticky_answer(engine, exchange, &response)
        write_response(engine, exchange, &response, False, False)
        exchange.attempt = NULL
    exchange.flags = 0
    exchange.request_head = NULL
    engine.request.data = NULL
    return_buffer(&engine.buffers, kept)


cdef void read_from(Snapshot* snapshot, const char* old, const char* image) noexcept nogil:
    # The sanitizer knows where a block of malloc ends; a mapping has the rest of a page behind it.
    cdef uint32_t i
    for i in range(snapshot.n_pools):
        snapshot.pools[i].image = <const ImagePool*>(image + (<const char*>snapshot.pools[i].image - old))
    snapshot.image = image
    snapshot.header = <const ImageHeader*>image


cdef void protect(Engine* engine) noexcept nogil:
    # Every pool's limits, and a failure of every backend of those with passive health.
    cdef:
        Pool* pool
        Backend* place
        Backend* row
        uint32_t i, k
    for i in range(engine.snapshot.n_pools):
        pool = &engine.snapshot.pools[i]
        for k in range(LIMIT_KINDS):
            place = NULL
            if take_place(engine, pool, <LimitKind>k, &place) and place != NULL:
                expect(0 < place.shared.in_flight <= pool.image.limits[k].most, b"a limit holds")
                give_place_back(engine, &place)
        if pool.flags & POOL_PASSIVE_HEALTH:
            for k in range(pool.n_backends):
                row = pool.backends[k].row
                if is_counted(row, RETRY_ON_CONNECT):
                    note_failure(engine, row)
    look_at_states(engine)
    for i in range(engine.snapshot.n_pools):
        pool = &engine.snapshot.pools[i]
        for k in range(pool.n_backends):
            if pool.backends[k].row.pool != NULL and pool.flags & POOL_PASSIVE_HEALTH:
                bring_back(engine, pool.backends[k].row)


cdef void use(Engine* engine) noexcept nogil:
    cdef:
        Exchange exchange
        Attempt attempt
        Connection client
        Backend backend
        Head head, response
        HeadLimits limits
        Listener named
        Buffer raw
        uint32_t i, body_size = 0
        Listener* listener = engine.listeners
    limits.max_bytes = limits.max_target_bytes = 4096
    limits.max_fields = 10
    memset(&attempt, 0, sizeof(attempt))
    begin(engine, &exchange, &client)
    is_trusted(engine, &exchange)
    memset(&backend, 0, sizeof(backend))
    memset(&named, 0, sizeof(named))
    memset(&raw, 0, sizeof(raw))
    raw.data = <char*>REQUEST
    raw.end = <uint32_t>strlen(REQUEST)
    expect(parse_request(&head, REQUEST, <uint32_t>strlen(REQUEST), &limits) > 0, b"the request of this target is whole")
    client.listener = &named
    for named.host_set in range((<const ImageRouteTable*>(engine.snapshot.image + engine.snapshot.header.route_table.offset)).host_sets.count):
        for i in range(4):
            route(engine, &exchange, ROUTED[i])
    parse_response(&response, RESPONSE, <uint32_t>strlen(RESPONSE), &limits, METHOD_GET)
    for i in range(engine.snapshot.header.routes.count):
        exchange.route = <const ImageRoute*>(engine.snapshot.image + engine.snapshot.header.routes.offset) + i
        exchange.pool = NULL
        exchange.max_attempts = 0
        exchange.request_head = &raw            # what is counted of a request
        if run_features(engine, &exchange, &head) == <uint32_t>OWN_ANSWER:
            write_answer(engine, &exchange, &head, False, &body_size)
        return_buffer(&engine.buffers, exchange.matched)
        exchange.matched = NULL
        return_buffer(&engine.buffers, exchange.target)
        exchange.target = NULL
        write_request(engine, &exchange, &head, &backend)
        write_response(engine, &exchange, &response, False, False)
        exchange.request_head = NULL
        stick(engine, &exchange)
    write_local(engine, &exchange, FAILURE_NO_ROUTE, False)
    protect(engine)
    while listener != NULL:
        expect(listener.settings.head.max_bytes <= <uint32_t>MAX_HEAD_BYTES and listener.settings.head.max_fields <= <uint32_t>MAX_HEADERS,
               b"a listener's limits are within the hard ones")
        if listener.log_set != NULL:
            client.listener = listener
            open_log(engine, &exchange)
            if exchange.log != NULL:
                exchange.attempt = &attempt
                log_request_head(engine, &exchange, &head)
                log_response_head(engine, &exchange, &head)
                exchange.attempt = NULL
                write_log(engine, &exchange)
            wake_log_writer(engine.log.writer)
        listener = listener.next


cdef bint take(int image_fd, uint32_t n_listeners, int* removed, uint32_t* n_removed) noexcept nogil:
    cdef:
        size_t size
        int error = 0
        const char* image = map_image(image_fd, &size, &error)
    if image == NULL or add_image_rows(engine.shared, image, 0) != 0:
        return False
    return engine_prepare(engine, image, size, NULL, NULL) == 0 and engine_commit(engine, sockets, n_listeners, removed, n_removed) == 0 \
        and sweep_rows(engine.shared, image) >= 0


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        char* image
        const char* mapping
        ImageHeader* header
        int removed[2 * MAX_LISTENERS]
        uint32_t n_removed = 0, n_listeners
        int result
    if size < sizeof(ImageHeader) or size > 0x10000:
        return 0
    image = <char*>malloc(size)
    memcpy(image, data, size)
    header = <ImageHeader*>image
    header.magic = <uint64_t>IMAGE_MAGIC
    header.layout_version = IMAGE_LAYOUT
    header.size = <uint32_t>size
    result = check_image(image, size)
    n_listeners = header.listeners.count
    if result == 0 and n_listeners <= MAX_LISTENERS:
        expect(ftruncate(input_image, 0) == 0 and pwrite(input_image, image, size, 0) == <ssize_t>size, b"the image is written")
        if not take(input_image, n_listeners, removed, &n_removed):
            expect((<const ImageRouteTable*>(image + header.route_table.offset)).regexes.count != 0, b"an image that passes is taken")
            free(image)
            return 0
        mapping = engine.snapshot.image
        read_from(engine.snapshot, mapping, image)
        use(engine)
        read_from(engine.snapshot, image, mapping)
        expect(take(base_image, 0, removed, &n_removed), b"the next image is taken")
        expect(n_removed == n_listeners, b"every listener is handed back")
    free(image)
    return 0


address = <size_t><void*>fuzz_one


def prepare():
    global engine, base_image, input_image
    import os
    import socket

    from tests.fuzz.images import make_image

    base_image = make_image()
    input_image = os.memfd_create("fuzz")
    for number in range(MAX_LISTENERS):
        opened = socket.create_server(("127.0.0.1", 0))
        opened.setblocking(False)
        sockets[number].fd, sockets[number].listener = opened.detach(), number
    engine = open_plane(base_image)
    if engine == NULL:
        raise MemoryError


prepare()


def make_seeds():
    cdef:
        ImageHeader header
        ImageRouteTable table
    import struct

    from tests.fuzz.images import make_image, read_image

    for hosts in ([], [""], ["shop.example.com"], ["*.example.com", "[::1]", "", "a.example"]):
        for listeners in (0, 1, 3):
            image = read_image(make_image(hosts=hosts, networks=["10.0.0.0/8", "192.0.2.0/23", "2001:db8::/32"], listeners=listeners))
            yield image
    for sticky in (("cookie", "learn"), ("source", "cookie")):
        yield read_image(make_image(networks=["192.0.2.0/23"], sticky=sticky))
    for hosts in ([""], ["*.example.com", "[::1]", "", "a.example"]):
        image = read_image(make_image(hosts=hosts, networks=["10.0.0.0/8"], listeners=3))
        # Tables without an empty slot are several words away from good ones: too far to be found by chance.
        memcpy(&header, <const char*><bytes>image, sizeof(header))
        memcpy(&table, <const char*><bytes>image + header.route_table.offset, sizeof(table))
        full = bytearray(image)
        for slot in range(table.host_slots.count):
            struct.pack_into("<I", full, header.route_table.offset + table.host_slots.offset + 8 * slot + 4, 1)
        yield bytes(full)
        full = bytearray(image)
        for slot in range(table.location_slots.count):
            struct.pack_into("<I", full, header.route_table.offset + table.location_slots.offset + 16 * slot + 12, 1)
        yield bytes(full)
    yield read_image(make_image(operations=False))
    for algorithms in (("weighted_round_robin", "consistent_hash"), ("ip_hash", "hash"), ("random_two_choices", "peak_ewma"),
                       ("least_time", "least_connections"), ("module:name", "round_robin")):     # a table of maglev is larger than an input may be
        yield read_image(make_image(algorithms=algorithms))
