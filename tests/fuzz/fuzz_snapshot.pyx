"""Snapshot images: what check_image accepts must be safe to route with. Input: an image, then (after its own size) a host and a path.

The magic, layout and size of the header are set here, so that the fuzzer need not guess them.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastlb.data_plane.route_table cimport find_route
from fastlb.data_plane.snapshot cimport IMAGE_LAYOUT, IMAGE_MAGIC, check_image
from fastlb.data_plane.types cimport NO_INDEX, ImageHeader, Snapshot
from tests.fuzz.expect cimport expect


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        char* image
        ImageHeader* header
        Snapshot snapshot
        uint32_t pool
    if size < sizeof(ImageHeader) or size > 0x10000:
        return 0
    image = <char*>malloc(size)                 # malloc aligns as mmap does, as far as the structs need
    memcpy(image, data, size)
    header = <ImageHeader*>image
    header.magic = <uint64_t>IMAGE_MAGIC
    header.layout_version = IMAGE_LAYOUT
    header.size = <uint32_t>size
    if check_image(image, size) == 0:
        memset(&snapshot, 0, sizeof(snapshot))
        snapshot.image = image
        snapshot.header = header
        pool = find_route(&snapshot, b"shop.Example.com:80", 19, b"/api/x", 6)
        expect(pool == <uint32_t>NO_INDEX or pool < header.pools.count, b"a route leads to a pool of the image")
        pool = find_route(&snapshot, b"[::1]", 5, b"/", 1)
        expect(pool == <uint32_t>NO_INDEX or pool < header.pools.count, b"a route leads to a pool of the image")
    free(image)
    return 0


address = <size_t><void*>fuzz_one


def make_seeds():
    # Written by the real writer at every run, so that they never lag behind the layout.
    import ipaddress
    import os

    from fastlb import _core

    times = {f"{name}_timeout_ms": 1000 for name in ("connect", "first_byte", "between_bytes", "exchange", "tunnel", "idle")}
    limits = {"max_head_bytes": 32768, "max_target_bytes": 8192, "max_headers": 100, "max_body_bytes": 0}
    for hosts in ([], ["shop.example.com"], ["*.example.com", "[::1]", "", "a.example"]):
        writer = _core.SnapshotWriter(1)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.set_forwarded_headers(bool(hosts))
        writer.set_request_id(bool(hosts))
        writer.add_trusted_network(ipaddress.ip_network("10.0.0.0/8"))
        writer.add_bind(writer.add_listener("web", head_timeout_ms=1, body_timeout_ms=1, idle_timeout_ms=1, write_timeout_ms=1, **limits))
        pool = writer.add_pool("api", algorithm="weighted_least_connections", attempts=3, replay_limit_bytes=65536, max_idle=8, **times)
        writer.add_backend(pool, identity="api|127.0.0.1:80", display="127.0.0.1:80", address=_core.pack_address("127.0.0.1", 80), weight=3,
                           max_in_flight=0)
        for host in hosts:
            writer.add_route(host=host, path_prefix="/", pool=pool)
            writer.add_route(host=host, path_prefix="/api/", pool=pool)
        image = writer.finish()
        yield os.pread(image, 1 << 20, 0)
        os.close(image)
