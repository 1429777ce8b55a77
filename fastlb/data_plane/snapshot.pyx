"""Compiled configuration: reading an image, and the running arrays built over it.

The image is position-independent (offsets, no pointers), sealed, and written by SnapshotWriter in _core.pyx alone. A Snapshot
is one mapping of it with dense pool arrays whose rows point at the backends' running rows. It is counted by the engine and by
exchanges that may still retry; nothing in it changes but what picks move in the pools' groups: cursors and schedules.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.access_log cimport check_log_plan, drop_log_plan, load_log_plan
from fastlb.data_plane.backend_table cimport drop_backend, hold_backend, hold_queue
from fastlb.data_plane.failure cimport RETRY_BITS
from fastlb.data_plane.header_edits cimport check_operations
from fastlb.data_plane.image cimport fits, range_fits, text_fits
from fastlb.data_plane.pool cimport check_pool, drop_group, drop_pool, drop_pool_rows, hold_pool_rows, load_pool
from fastlb.data_plane.queue cimport QUEUE_MARK
from fastlb.data_plane.retry_budget cimport MAX_RETRY_FLOOR, RETRY_TOKENS, open_budget
from fastlb.data_plane.request_program cimport check_route
from fastlb.data_plane.route_table cimport RegexSet, check_route_table, drop_regexes, free_regexes, load_regexes
from fastlb.data_plane.session_image cimport check_sessions
from fastlb.data_plane.sticky cimport check_sticky
from fastlb.data_plane.system cimport ENOMEM, MAP_FAILED, MAP_SHARED, PROT_READ, SEEK_END, errno, lseek, memset, mmap, munmap
from fastlb.data_plane.template cimport check_segments, check_template
from fastlb.data_plane.tls cimport TlsSet, drop_tls_set, free_tls, load_tls
from fastlb.data_plane.tls_image cimport check_tls
from fastlb.data_plane.types cimport MAX_PROXY_TIMEOUT_MS, PROXY_FLAGS, ImageSection
from fastlb.data_plane.types cimport MAX_HTTP2_CONNECTION_WINDOW_BYTES, MAX_HTTP2_STREAMS, MAX_HTTP2_WINDOW_BYTES
from fastlb.data_plane.types cimport (MAX_HEAD_BYTES, MAX_HEADERS, MAX_IDENTITY_BYTES, NO_INDEX, Backend, Engine, Group,
                                      ImageBackend, ImageGroup, ImageHeader, ImageHeaderOperation, ImageListener, ImageLogPlan, ImageNetwork,
                                      ImagePool, ImageRoute, ImageRouteTable, ImageSticky, Pool, PoolBackend, Snapshot)
from fastlb.data_plane.types cimport MAX_LISTENER_NAME_BYTES, MAX_METERS, ROW_BARRED, ImageSegment, ImageShare
from fastlb.data_plane.types cimport ImageBackendTls, ImageCertificate, ImageTicketKey, ImageSniChoice, ImageTls, ImageTlsIdentity, ImageName


cdef bint check_networks(const char* image, const ImageSection* section) noexcept nogil:
    # Of a section that is known to lie inside the image.
    cdef:
        const ImageNetwork* networks = <const ImageNetwork*>(image + section.offset)
        uint32_t i
    for i in range(section.count):
        if networks[i].prefix_bits > 128:
            return False
    return True


cdef int check_image(const char* image, size_t size) noexcept nogil:
    # 0, or -1: not an image of this layout, or damaged. Everything an index or offset can reach is checked here once, so that
    # no later code has to.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageRoute* routes
        const ImagePool* pools
        const ImageBackend* backends
        const ImageListener* listeners
        uint32_t i, n_log_sets = 0, n_host_sets
    if size < sizeof(ImageHeader) or header.magic != <uint64_t>IMAGE_MAGIC or header.layout_version != IMAGE_LAYOUT:
        return -1
    if header.size != size or size > 0x7FFFFFFF:
        return -1
    if not (fits(size, &header.operations, sizeof(ImageHeaderOperation)) and fits(size, &header.networks, sizeof(ImageNetwork))
            and fits(size, &header.listeners, sizeof(ImageListener))
            and fits(size, &header.route_table, 1) and fits(size, &header.routes, sizeof(ImageRoute)) and fits(size, &header.pools, sizeof(ImagePool))
            and fits(size, &header.backends, sizeof(ImageBackend)) and fits(size, &header.groups, sizeof(ImageGroup)) and fits(size, &header.log_plan, 1) and fits(size, &header.segments, sizeof(ImageSegment))
            and fits(size, &header.shares, sizeof(ImageShare))
            and fits(size, &header.stickies, sizeof(ImageSticky)) and text_fits(size, &header.reason_header)
            and text_fits(size, &header.python_path)
            and fits(size, &header.certificates, sizeof(ImageCertificate)) and fits(size, &header.tls_identities, sizeof(ImageTlsIdentity))
            and fits(size, &header.names, sizeof(ImageName)) and fits(size, &header.tls, sizeof(ImageTls))
            and fits(size, &header.ticket_keys, sizeof(ImageTicketKey))
            and fits(size, &header.backend_tls, sizeof(ImageBackendTls)) and fits(size, &header.sni_choices, sizeof(ImageSniChoice))
            and fits(size, &header.senders, sizeof(ImageNetwork))):
        return -1
    if header.reason_header.size > 128:
        return -1
    if not check_route_table(image + header.route_table.offset, header.route_table.count, header.routes.count):
        return -1
    n_host_sets = (<const ImageRouteTable*>(image + header.route_table.offset)).host_sets.count
    if not check_segments(image, header) or not check_operations(image, header) or not check_tls(image, header):
        return -1
    if header.log_plan.count != 0:
        if not check_log_plan(image + header.log_plan.offset, header.log_plan.count):
            return -1
        n_log_sets = (<const ImageLogPlan*>(image + header.log_plan.offset)).sets.count
    listeners = <const ImageListener*>(image + header.listeners.offset)
    for i in range(header.listeners.count):
        if (listeners[i].log_set != <uint32_t>NO_INDEX and listeners[i].log_set >= n_log_sets) or listeners[i].host_set >= n_host_sets \
                or listeners[i].meter >= <uint32_t>MAX_METERS:
            return -1
        if (not text_fits(size, &listeners[i].name) or listeners[i].name.size > MAX_LISTENER_NAME_BYTES or listeners[i].settings.head.max_fields - 1 >= <uint32_t>MAX_HEADERS
                or listeners[i].settings.head.max_bytes > <uint32_t>MAX_HEAD_BYTES):
            return -1
        if listeners[i].settings.http2_streams > MAX_HTTP2_STREAMS or listeners[i].settings.http2_window_bytes > MAX_HTTP2_WINDOW_BYTES \
                or listeners[i].settings.http2_connection_window_bytes > MAX_HTTP2_CONNECTION_WINDOW_BYTES:
            return -1
        if not range_fits(&listeners[i].senders, &header.senders) or listeners[i].settings.proxy_timeout_ms > MAX_PROXY_TIMEOUT_MS \
                or listeners[i].settings.proxy_flags & ~<uint32_t>PROXY_FLAGS:
            return -1
    if not check_networks(image, &header.networks) or not check_networks(image, &header.senders):
        return -1
    routes = <const ImageRoute*>(image + header.routes.offset)
    for i in range(header.routes.count):
        if not check_route(image, header, &routes[i]):
            return -1
    pools = <const ImagePool*>(image + header.pools.offset)
    for i in range(header.pools.count):
        if not text_fits(size, &pools[i].name) or not range_fits(&pools[i].backends, &header.backends) \
                or pools[i].meter >= <uint32_t>MAX_METERS \
                or not 0 < pools[i].attempts < 256 or pools[i].retry_on & ~<uint32_t>RETRY_BITS \
                or pools[i].retry_share_ppm > RETRY_TOKENS or pools[i].retry_floor > MAX_RETRY_FLOOR \
                or not check_template(header, &pools[i].hash_key) or not check_pool(image, size, &pools[i]) or not check_sticky(image, size, &pools[i]):
            return -1
        if pools[i].queue.size != 0 and (not text_fits(size, &pools[i].queue) or pools[i].queue.size > MAX_IDENTITY_BYTES
                                         or image[pools[i].queue.offset] != QUEUE_MARK or pools[i].queue_max == 0):
            return -1
    if not check_sessions(image, header):
        return -1
    backends = <const ImageBackend*>(image + header.backends.offset)
    for i in range(header.backends.count):
        if not text_fits(size, &backends[i].identity) or not text_fits(size, &backends[i].display) or backends[i].address_size > 110 \
                or backends[i].identity.size > MAX_IDENTITY_BYTES:
            return -1
    return 0


cdef const char* map_image(int image_fd, size_t* size, int* error) noexcept nogil:
    # Maps an image and checks it: the caller's to unmap, unless load_snapshot takes it over. Touches nothing else, so any thread
    # may do it. NULL: *error is an errno, or 0 for a damaged image.
    cdef:
        int64_t found = lseek(image_fd, 0, SEEK_END)    # not fstat, see system.pxd
        void* image
    error[0] = 0
    if found < 0:
        error[0] = errno
        return NULL
    if found < <int64_t>sizeof(ImageHeader):
        return NULL
    image = mmap(NULL, <size_t>found, PROT_READ, MAP_SHARED, image_fd, 0)
    if image == MAP_FAILED:
        error[0] = errno
        return NULL
    if check_image(<const char*>image, <size_t>found) != 0:
        munmap(image, <size_t>found)
        return NULL
    size[0] = <size_t>found
    return <const char*>image


cdef Snapshot* load_snapshot(Engine* engine, const char* image, size_t size, RegexSet* compiled, TlsSet* tls, int* error) noexcept nogil:
    # Takes over a mapped image with its compiled patterns and contexts of TLS (NULL or empty: compiled here) and builds its running arrays:
    # one reference, the caller's. NULL: *error is ENOMEM, EINVAL (a regular expression), BAD_TLS or NO_SHARED_ROW, with the image still the
    # caller's. Does not change what the engine uses now.
    cdef:
        Snapshot* snapshot
        const ImageHeader* header
        const ImagePool* pools
        const ImageBackend* backends
        Backend* row
        PoolBackend* entry
        RegexSet none
        TlsSet no_tls
        uint32_t i
    header = <const ImageHeader*>image
    snapshot = <Snapshot*>calloc(1, sizeof(Snapshot))
    if snapshot != NULL:
        snapshot.pools = <Pool*>calloc(header.pools.count + 1, sizeof(Pool))
        snapshot.backends = <PoolBackend*>calloc(header.backends.count + 1, sizeof(PoolBackend))
        snapshot.groups = <Group*>calloc(header.groups.count + 1, sizeof(Group))
    if snapshot == NULL or snapshot.pools == NULL or snapshot.backends == NULL or snapshot.groups == NULL:
        if snapshot != NULL:
            free(snapshot.pools)
            free(snapshot.backends)
            free(snapshot.groups)
            free(snapshot)
        error[0] = ENOMEM
        return NULL
    snapshot.image = image
    snapshot.header = header
    snapshot.image_size = size
    snapshot.references = 1
    snapshot.n_pools = header.pools.count
    snapshot.n_groups = header.groups.count
    engine.counters.snapshots_opened += 1
    none.regexes = NULL
    none.n_regexes = 0
    error[0] = load_regexes(engine, snapshot, compiled if compiled != NULL else &none)
    if error[0]:
        free_regexes(&none)
        snapshot.image_size = 0                 # stays the caller's
        drop_snapshot(engine, snapshot)
        return NULL
    memset(&no_tls, 0, sizeof(no_tls))
    error[0] = load_tls(engine, snapshot, tls if tls != NULL else &no_tls)
    if error[0]:
        free_tls(&no_tls)
        snapshot.image_size = 0                 # stays the caller's
        drop_snapshot(engine, snapshot)
        return NULL
    if header.log_plan.count != 0:
        snapshot.log_plan = load_log_plan(image + header.log_plan.offset)
        if snapshot.log_plan == NULL:
            error[0] = ENOMEM
            snapshot.image_size = 0             # stays the caller's
            drop_snapshot(engine, snapshot)
            return NULL
    pools = <const ImagePool*>(snapshot.image + header.pools.offset)
    backends = <const ImageBackend*>(snapshot.image + header.backends.offset)
    for i in range(header.backends.count):
        row = hold_backend(&engine.backends, snapshot.image + backends[i].identity.offset, backends[i].identity.size, error)
        if row == NULL:
            snapshot.image_size = 0             # stays the caller's
            drop_snapshot(engine, snapshot)
            return NULL
        entry = &snapshot.backends[i]
        entry.row = row
        entry.shared = row.shared
        entry.weight = backends[i].weight
        entry.max_in_flight = backends[i].max_in_flight
        entry.eligible = backends[i].weight > 0 and backends[i].address_size > 0
        entry.barred_by = ROW_BARRED
    for i in range(header.pools.count):
        snapshot.pools[i].image = &pools[i]
        if pools[i].tls != <uint32_t>NO_INDEX:
            snapshot.pools[i].tls = snapshot.backend_tls[pools[i].tls]
        snapshot.pools[i].backends = &snapshot.backends[pools[i].backends.offset]
        snapshot.pools[i].groups = &snapshot.groups[pools[i].groups.offset]
        if not load_pool(engine, image, &snapshot.pools[i]):
            error[0] = ENOMEM
            snapshot.image_size = 0             # stays the caller's
            drop_snapshot(engine, snapshot)
            return NULL
        open_budget(&snapshot.pools[i].budget, pools[i].retry_floor, engine.now_ms)
        if not hold_pool_rows(engine, image, &snapshot.pools[i], error):
            snapshot.image_size = 0             # stays the caller's
            drop_snapshot(engine, snapshot)
            return NULL
        if pools[i].queue.size != 0:
            snapshot.pools[i].queue = hold_queue(&engine.backends, snapshot.image + pools[i].queue.offset, pools[i].queue.size, error)
            if snapshot.pools[i].queue == NULL:
                snapshot.image_size = 0         # stays the caller's
                drop_snapshot(engine, snapshot)
                return NULL
    return snapshot


cdef void drop_snapshot(Engine* engine, Snapshot* snapshot) noexcept nogil:
    # One reference less; the last one unmaps it and lets go of its backends' rows.
    cdef uint32_t i
    snapshot.references -= 1
    if snapshot.references > 0:
        return
    engine.counters.snapshots_closed += 1
    for i in range(snapshot.header.backends.count):
        if snapshot.backends[i].row != NULL:
            drop_backend(&engine.backends, snapshot.backends[i].row)
            snapshot.backends[i].row = NULL
    for i in range(snapshot.n_pools):
        if snapshot.pools[i].queue != NULL:
            drop_backend(&engine.backends, snapshot.pools[i].queue.row)
            snapshot.pools[i].queue = NULL
        drop_pool_rows(engine, &snapshot.pools[i])
        free(snapshot.pools[i].sticky_rows)
        snapshot.pools[i].sticky_rows = NULL
    drop_log_plan(engine, snapshot.log_plan)
    drop_regexes(snapshot)
    drop_tls_set(snapshot)
    if snapshot.image_size != 0:
        munmap(<void*>snapshot.image, snapshot.image_size)
    for i in range(snapshot.n_groups):
        drop_group(&snapshot.groups[i])
    for i in range(snapshot.n_pools):
        drop_pool(&snapshot.pools[i])
    free(snapshot.pools)
    free(snapshot.backends)
    free(snapshot.groups)
    free(snapshot)
