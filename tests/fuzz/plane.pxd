"""An engine that runs a snapshot without sockets, for targets that look at what is sent on."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastlb.data_plane.engine cimport engine_open
from fastlb.data_plane.snapshot cimport load_snapshot, map_image
from fastlb.data_plane.types cimport Connection, Engine, Exchange


cdef inline Engine* open_plane(int image_fd) noexcept nogil:
    # Owned by the caller. NULL: no memory, no descriptors, or a bad image.
    cdef:
        Engine* engine = <Engine*>calloc(1, sizeof(Engine))
        const char* image
        size_t size = 0
        int error = 0
    if engine == NULL or engine_open(engine, 4, 256, 0) != 0:
        free(engine)
        return NULL
    image = map_image(image_fd, &size, &error)
    engine.snapshot = load_snapshot(engine, image, size) if image != NULL else NULL
    return engine if engine.snapshot != NULL else NULL


cdef inline void begin(Engine* engine, Exchange* exchange, Connection* client) noexcept nogil:
    # A blank exchange of a client at 192.0.2.7.
    memset(exchange, 0, sizeof(Exchange))
    memset(client, 0, sizeof(Connection))
    memcpy(client.address, b"192.0.2.7", 9)
    client.address_size = <uint8_t>9
    exchange.snapshot = engine.snapshot
    exchange.client = client
