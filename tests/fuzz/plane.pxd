"""An engine that runs a snapshot without sockets, for targets that look at what is sent on."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastlb.data_plane.engine cimport engine_open
from fastlb.data_plane.shared_table cimport add_image_rows, create_shared, open_worker
from fastlb.data_plane.snapshot cimport load_snapshot, map_image
from fastlb.data_plane.types cimport Connection, Engine, Exchange, ImageRoute, SharedTable


cdef inline Engine* open_plane(int image_fd) noexcept nogil:
    # Owned by the caller. NULL: no memory, no descriptors, or a bad image.
    cdef:
        Engine* engine = <Engine*>calloc(1, sizeof(Engine))
        SharedTable* shared = <SharedTable*>calloc(1, sizeof(SharedTable))
        const char* image
        size_t size = 0
        int error = 0
    if engine == NULL or shared == NULL or create_shared(shared, b"fuzz") != 0 or not open_worker(shared, 0, 1) \
            or engine_open(engine, 4, 256, 0, shared, 0, -1) != 0:
        free(engine)
        free(shared)
        return NULL
    image = map_image(image_fd, &size, &error)
    if image != NULL and add_image_rows(shared, image, 0) == 0:
        engine.snapshot = load_snapshot(engine, image, size, NULL, NULL, &error)
    return engine if engine.snapshot != NULL else NULL


cdef inline void begin(Engine* engine, Exchange* exchange, Connection* client) noexcept nogil:
    # A blank exchange of a client at 192.0.2.7, which has no listener, on the first route of the image, if it has any.
    memset(exchange, 0, sizeof(Exchange))
    memset(client, 0, sizeof(Connection))
    memcpy(client.peer.address, b"192.0.2.7", 9)
    client.address_size = <uint8_t>9
    client.peer.ip[10] = client.peer.ip[11] = 0xFF
    memcpy(client.peer.ip + 12, b"\xc0\x00\x02\x07", 4)
    client.peer.ip_version = 4
    exchange.snapshot = engine.snapshot
    exchange.client = client
    if engine.snapshot.header.routes.count:
        exchange.route = <const ImageRoute*>(engine.snapshot.image + engine.snapshot.header.routes.offset)
