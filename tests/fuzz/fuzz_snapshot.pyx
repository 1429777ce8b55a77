"""Snapshot images: what check_image accepts must be safe to run on. Input: an image; its magic, layout and size are set here.

Promises: every pool, backend and route is of the image; a request and a local answer can be written, a client can be looked up,
listeners can take its settings; and the engine goes on to the next image.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from fastlb.data_plane.access_log cimport log_request_head, log_response_head, open_log, write_log
from fastlb.data_plane.engine cimport engine_commit, engine_prepare
from fastlb.data_plane.failure cimport FAILURE_NO_ROUTE
from fastlb.data_plane.header_operations cimport is_trusted
from fastlb.data_plane.http1_head cimport parse_request, parse_response
from fastlb.data_plane.http1_serialise cimport write_local, write_request, write_response
from fastlb.data_plane.log_writer cimport wake_log_writer
from fastlb.data_plane.route_table cimport find_route
from fastlb.data_plane.select.dispatch cimport pick
from fastlb.data_plane.shared_table cimport add_image_rows, sweep_rows
from fastlb.data_plane.snapshot cimport IMAGE_LAYOUT, IMAGE_MAGIC, check_image, map_image
from fastlb.data_plane.types cimport (MAX_HEAD_BYTES, MAX_HEADERS, METHOD_GET, NO_BACKEND, NO_INDEX, Backend, Connection, Engine, Exchange, Head,
                                      HeadLimits, ImageHeader, ImagePool, ImageRoute, Listener, Snapshot, Socket)
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


cdef void route(const Snapshot* snapshot, const char* host, uint32_t host_size) noexcept nogil:
    cdef:
        uint32_t pool = find_route(snapshot, host, host_size, b"/api/x", 6)
        int32_t tried[2]
        int32_t number
    if pool == <uint32_t>NO_INDEX:
        return
    expect(pool < snapshot.n_pools, b"a route leads to a pool of the image")
    number = pick(&snapshot.pools[pool], 0, tried, 0)
    if number == NO_BACKEND:
        return
    expect(<uint32_t>number < snapshot.pools[pool].n_backends, b"a pick is a backend of its pool")
    tried[0] = number
    number = pick(&snapshot.pools[pool], 0, tried, 1)
    expect(number != tried[0], b"what was tried is not picked again")


cdef void read_from(Snapshot* snapshot, const char* old, const char* image) noexcept nogil:
    # The sanitizer knows where a block of malloc ends; a mapping has the rest of a page behind it.
    cdef uint32_t i
    for i in range(snapshot.n_pools):
        snapshot.pools[i].image = <const ImagePool*>(image + (<const char*>snapshot.pools[i].image - old))
    snapshot.image = image
    snapshot.header = <const ImageHeader*>image


cdef void use(Engine* engine) noexcept nogil:
    cdef:
        Exchange exchange
        Connection client
        Backend backend
        Head head, response
        HeadLimits limits
        Listener named
        uint32_t i
        Listener* listener = engine.listeners
    limits.max_bytes = limits.max_target_bytes = 4096
    limits.max_fields = 10
    route(engine.snapshot, b"shop.Example.com:80", 19)
    route(engine.snapshot, b"[::1]", 5)
    route(engine.snapshot, b"", 0)
    begin(engine, &exchange, &client)
    is_trusted(engine, &exchange)
    memset(&backend, 0, sizeof(backend))
    memset(&named, 0, sizeof(named))
    expect(parse_request(&head, REQUEST, <uint32_t>strlen(REQUEST), &limits) > 0, b"the request of this target is whole")
    client.listener = &named
    parse_response(&response, RESPONSE, <uint32_t>strlen(RESPONSE), &limits, METHOD_GET)
    for i in range(engine.snapshot.header.routes.count):
        exchange.route = <const ImageRoute*>(engine.snapshot.image + engine.snapshot.header.routes.offset) + i
        exchange.pool = &engine.snapshot.pools[exchange.route.pool]
        write_request(engine, &exchange, &head, &backend)
        write_response(engine, &exchange, &response, False, False)
    write_local(engine, &exchange, FAILURE_NO_ROUTE, False)
    while listener != NULL:
        expect(listener.settings.head.max_bytes <= <uint32_t>MAX_HEAD_BYTES and listener.settings.head.max_fields <= <uint32_t>MAX_HEADERS,
               b"a listener's limits are within the hard ones")
        if listener.log_set != NULL:
            client.listener = listener
            open_log(engine, &exchange)
            if exchange.log != NULL:
                log_request_head(engine, &exchange, &head)
                log_response_head(engine, &exchange, &head)
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
    return engine_prepare(engine, image, size) == 0 and engine_commit(engine, sockets, n_listeners, removed, n_removed) == 0 \
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
        expect(take(input_image, n_listeners, removed, &n_removed), b"an image that passes is taken")
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
    cdef ImageHeader header
    import struct

    from tests.fuzz.images import make_image, read_image

    for hosts in ([], [""], ["shop.example.com"], ["*.example.com", "[::1]", "", "a.example"]):
        for listeners in (0, 1, 3):
            image = read_image(make_image(hosts=hosts, networks=["10.0.0.0/8", "192.0.2.0/23", "2001:db8::/32"], listeners=listeners))
            yield image
        # A table without an empty slot is several words away from a good one: too far to be found by chance.
        full = bytearray(image)
        memcpy(&header, <const char*><bytes>image, sizeof(header))
        struct.pack_into(f"<{header.host_slots.count}I", full, header.host_slots.offset, *[1] * header.host_slots.count)
        yield bytes(full)
    yield read_image(make_image(operations=False))
