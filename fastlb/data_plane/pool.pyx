"""The pools of a snapshot: what their part of an image must be, and the groups that picks run on.

A group is a run of a pool's backends, tried before those of the next; its tables are the image's, shared by all workers, and what picks
move (cursors, schedules) is this worker's own. Nothing here is called per request.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.backend_table cimport drop_backend, hold_backend
from fastlb.data_plane.failure cimport RETRY_BITS
from fastlb.data_plane.image cimport fits, range_fits, text_fits
from fastlb.data_plane.queue cimport QUEUE_MARK
from fastlb.data_plane.select.weighted_round_robin cimport NO_CLASSES
from fastlb.data_plane.sticky cimport load_sticky
from fastlb.data_plane.transport cimport check_socket
from fastlb.data_plane.types cimport (ALGORITHM_CONSISTENT_HASH, ALGORITHM_END, ALGORITHM_HASH, ALGORITHM_IP_HASH, ALGORITHM_LEAST_TIME,
                                      ALGORITHM_MAGLEV, ALGORITHM_PEAK_EWMA, ALGORITHM_RANDOM_TWO_CHOICES, ALGORITHM_USER,
                                      ALGORITHM_WEIGHTED_ROUND_ROBIN, FASTLB_PICKER_VERSION,
                                      MAX_ROWS, NO_BACKEND, POOL_NEEDS_KEY, POOL_NOTES_LATENCY, POOL_SLOW_START, Engine, Group, ImageAlias,
                                      ImageGroup, ImageHeader, ImagePool, ImageRingPoint, ImageSection, PickContext, Pool, UserPicker, WeightClass)
from fastlb.data_plane.types cimport (BACKEND_PROTOCOLS, MAX_HTTP2_STREAMS, MAX_HTTP2_WINDOW_BYTES, MIN_HTTP2_WINDOW_BYTES, POOL_HTTP2, POOL_SENDS_HEADER, PROTOCOL_AUTO, PROXY_SENDS_BINARY, PROXY_SENDS_FLAGS, PROXY_SENDS_LINE,
                                      PROTOCOL_HTTP1)
from fastlb.data_plane.types cimport (LIMIT_KINDS, MAX_IDENTITY_BYTES, NO_INDEX, POOL_HEDGES, POOL_LIMITS, POOL_PANICS, POOL_PASSIVE_HEALTH, POOL_STICKY,
                                      ImageHealth, ImageText)


cdef bint check_numbers(const char* image, size_t size, const ImageSection* section, uint32_t below) noexcept nogil:
    # A section of uint32, each below `below`.
    cdef:
        const uint32_t* numbers = <const uint32_t*>(image + section.offset)
        uint32_t i
    if not fits(size, section, sizeof(uint32_t)):
        return False
    for i in range(section.count):
        if numbers[i] >= below:
            return False
    return True


cdef bint check_tables(const char* image, size_t size, uint32_t algorithm, const ImageGroup* group) noexcept nogil:
    # What the algorithm looks at: as large as it has to be, and every index in it leads to a backend of the group.
    cdef:
        const char* table = image + group.table.offset
        uint32_t i
    if algorithm == ALGORITHM_WEIGHTED_ROUND_ROBIN:
        return group.table.count == group.n_backends and check_numbers(image, size, &group.table, group.n_backends)
    if algorithm == ALGORITHM_CONSISTENT_HASH:
        if not fits(size, &group.table, sizeof(ImageRingPoint)) or group.index_bits > 31 or group.index.count != <uint32_t>1 << group.index_bits:
            return False
        for i in range(group.table.count):
            if (<const ImageRingPoint*>table)[i].backend >= group.n_backends:
                return False
        return check_numbers(image, size, &group.index, group.table.count + 1)
    if algorithm == ALGORITHM_MAGLEV:
        if not fits(size, &group.table, sizeof(uint16_t)):
            return False
        for i in range(group.table.count):
            if (<const uint16_t*>table)[i] >= group.n_backends:
                return False
    if algorithm == ALGORITHM_RANDOM_TWO_CHOICES or algorithm == ALGORITHM_PEAK_EWMA:
        if group.table.count == 0:
            return True
        if group.table.count != group.n_backends or not fits(size, &group.table, sizeof(ImageAlias)):
            return False
        for i in range(group.table.count):
            if (<const ImageAlias*>table)[i].other >= group.n_backends:
                return False
    return True


cdef inline bint is_pool_row(const char* image, const ImageText* identity) noexcept nogil:
    # An identity that no backend has, of a text that fits and has a size.
    return identity.size <= MAX_IDENTITY_BYTES and image[identity.offset] == QUEUE_MARK


cdef bint check_health(const char* image, size_t size, const ImageHealth* health) noexcept nogil:
    if not text_fits(size, &health.row):
        return False
    if health.row.size == 0:
        return True
    return is_pool_row(image, &health.row) and health.counts & ~<uint32_t>RETRY_BITS == 0 and health.window_ms != 0 \
        and 0 < health.ejection_ms <= health.max_ejection_ms and health.max_ejected_permille <= 1000 and health.error_permille <= 1000


cdef bint check_pool(const char* image, size_t size, const ImagePool* pool) noexcept nogil:
    # Its backends, which are of the image, are those of its groups, one after the other.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageGroup* groups = <const ImageGroup*>(image + header.groups.offset)
        uint32_t i
        uint64_t n_backends = 0
    if pool.algorithm >= ALGORITHM_END or not range_fits(&pool.groups, &header.groups) or pool.groups.count == 0:
        return False
    for i in range(pool.groups.offset, pool.groups.offset + pool.groups.count):
        n_backends += groups[i].n_backends
        if n_backends > pool.backends.count or not check_tables(image, size, pool.algorithm, &groups[i]):
            return False
    if not check_health(image, size, &pool.health) or pool.panic_permille > 1000 or not check_socket(&pool.socket):
        return False
    for i in range(LIMIT_KINDS):
        if not text_fits(size, &pool.limits[i].row) or (pool.limits[i].most != 0 and pool.limits[i].row.size == 0) \
                or (pool.limits[i].row.size != 0 and not is_pool_row(image, &pool.limits[i].row)):
            return False
    # A PROXY header is about one client: its connection serves nobody else, at no time and at the same time neither.
    if pool.proxy_header != 0 and (
            pool.proxy_header & ~<uint32_t>PROXY_SENDS_FLAGS or pool.max_idle != 0 or pool.protocol != PROTOCOL_HTTP1
            or (pool.proxy_header != PROXY_SENDS_LINE and pool.proxy_header & (PROXY_SENDS_LINE | PROXY_SENDS_BINARY) != PROXY_SENDS_BINARY)):
        return False
    if pool.protocol >= BACKEND_PROTOCOLS or (pool.protocol != PROTOCOL_HTTP1 and (
            pool.http2_streams - 1 >= <uint32_t>MAX_HTTP2_STREAMS or not MIN_HTTP2_WINDOW_BYTES <= pool.http2_window_bytes <= MAX_HTTP2_WINDOW_BYTES)) \
            or (pool.protocol == PROTOCOL_AUTO and pool.tls == <uint32_t>NO_INDEX):
        return False
    if not text_fits(size, &pool.picker) or (pool.algorithm == ALGORITHM_USER and pool.picker.size == 0):
        return False
    return n_backends == pool.backends.count and n_backends <= MAX_ROWS  # so that a uint16 names each


cdef bint hold_pool_rows(Engine* engine, const char* image, Pool* pool, int* error) noexcept nogil:
    # The rows of its own, but for its queue's. False: *error says why, with what is held left for drop_pool_rows.
    cdef:
        const ImagePool* from_image = pool.image
        uint32_t i
    if from_image.health.row.size != 0:
        pool.health = hold_backend(&engine.backends, image + from_image.health.row.offset, from_image.health.row.size, error)
        if pool.health == NULL:
            return False
    for i in range(LIMIT_KINDS):
        if from_image.limits[i].most != 0:
            pool.limits[i] = hold_backend(&engine.backends, image + from_image.limits[i].row.offset, from_image.limits[i].row.size, error)
            if pool.limits[i] == NULL:
                return False
    return True


cdef void drop_pool_rows(Engine* engine, Pool* pool) noexcept nogil:
    cdef uint32_t i
    if pool.health != NULL:
        drop_backend(&engine.backends, pool.health)
        pool.health = NULL
    for i in range(LIMIT_KINDS):
        if pool.limits[i] != NULL:
            drop_backend(&engine.backends, pool.limits[i])
            pool.limits[i] = NULL


cdef bint load_group(const char* image, const ImageGroup* from_image, const Pool* pool, Group* group) noexcept nogil:
    # Its backends are there. False: out of memory, with what was made left for drop_group.
    cdef:
        uint32_t i
        uint32_t n = from_image.n_backends
    group.n_backends = n
    group.same_weight = group.backends[0].weight if n else 0
    for i in range(n):
        group.total_weight += group.backends[i].weight
        group.max_weight = max(group.max_weight, group.backends[i].weight)
        if group.backends[i].weight != group.same_weight:
            group.same_weight = 0
    if pool.algorithm == ALGORITHM_WEIGHTED_ROUND_ROBIN:
        group.by_weight = <const uint32_t*>(image + from_image.table.offset)
        group.members = <uint32_t*>calloc(n + 1, sizeof(uint32_t))
        group.classes = <WeightClass*>calloc(n + 1, sizeof(WeightClass))
        group.n_classes = NO_CLASSES
        return group.members != NULL and group.classes != NULL
    elif pool.algorithm == ALGORITHM_CONSISTENT_HASH:
        group.ring = <const ImageRingPoint*>(image + from_image.table.offset)
        group.n_ring = from_image.table.count
        group.ring_index = <const uint32_t*>(image + from_image.index.offset)
        group.ring_shift = 32 - from_image.index_bits
    elif pool.algorithm == ALGORITHM_MAGLEV:
        group.slots = <const uint16_t*>(image + from_image.table.offset)
        group.n_slots = from_image.table.count
    elif pool.algorithm == ALGORITHM_RANDOM_TWO_CHOICES or pool.algorithm == ALGORITHM_PEAK_EWMA:
        if from_image.table.count != 0:
            group.aliases = <const ImageAlias*>(image + from_image.table.offset)
    elif pool.algorithm == ALGORITHM_LEAST_TIME:
        group.costs = <double*>calloc(n + 1, sizeof(double))
        return group.costs != NULL              # costs_ms is 0: read at the first pick
    elif pool.algorithm == ALGORITHM_IP_HASH or pool.algorithm == ALGORITHM_HASH:
        group.weights_below = <uint32_t*>calloc(n + 1, sizeof(uint32_t))
        if group.weights_below == NULL:
            return False
        for i in range(1, n):
            group.weights_below[i] = group.weights_below[i - 1] + group.backends[i - 1].weight
    return True


cdef void drop_group(Group* group) noexcept nogil:
    free(group.members)
    group.members = NULL
    free(group.classes)
    group.classes = NULL
    free(group.weights_below)
    group.weights_below = NULL
    free(group.costs)
    group.costs = NULL


cdef int32_t pick_nobody(const PickContext* context) noexcept nogil:
    return NO_BACKEND


cdef bint open_user_picker(Engine* engine, Pool* pool) noexcept nogil:
    # Its function comes before the snapshot can be committed. False: out of memory, with what was made left for drop_pool.
    cdef:
        UserPicker* picker = <UserPicker*>calloc(1, sizeof(UserPicker))
        size_t n = pool.n_backends + 1
        uint32_t i
    pool.user_picker = picker
    if picker == NULL:
        return False
    picker.weights = <uint32_t*>calloc(n, sizeof(uint32_t))
    picker.eligible = <uint8_t*>calloc(n, sizeof(uint8_t))
    picker.in_flight = <int64_t*>calloc(n, sizeof(int64_t))
    if picker.weights == NULL or picker.eligible == NULL or picker.in_flight == NULL:
        return False
    for i in range(pool.n_backends):
        picker.weights[i] = pool.backends[i].weight
    picker.pick = pick_nobody
    picker.context.version = FASTLB_PICKER_VERSION
    picker.context.eligible = picker.eligible
    picker.context.in_flight = picker.in_flight
    picker.rejected = &engine.counters.picks_rejected
    return True


cdef void drop_pool(Pool* pool) noexcept nogil:
    # What it owns besides its groups.
    cdef UserPicker* picker = pool.user_picker
    if picker == NULL:
        return
    pool.user_picker = NULL
    free(picker.weights)
    free(picker.eligible)
    free(picker.in_flight)
    free(picker)


cdef bint load_pool(Engine* engine, const char* image, Pool* pool) noexcept nogil:
    # Its image, backends and room for its groups are there. False: out of memory.
    cdef:
        const ImageGroup* groups = <const ImageGroup*>(image + (<const ImageHeader*>image).groups.offset) + pool.image.groups.offset
        uint32_t i, first = 0
    pool.n_backends = pool.image.backends.count
    pool.n_groups = pool.image.groups.count
    pool.algorithm = <unsigned char>pool.image.algorithm
    pool.slow_start_ms = pool.image.slow_start_ms
    pool.balance_permille = pool.image.balance_permille
    pool.flags = POOL_SLOW_START if pool.slow_start_ms != 0 else 0
    if ALGORITHM_IP_HASH <= pool.algorithm <= ALGORITHM_MAGLEV or pool.algorithm == ALGORITHM_USER:
        pool.flags |= POOL_NEEDS_KEY
    if pool.algorithm == ALGORITHM_PEAK_EWMA or pool.algorithm == ALGORITHM_LEAST_TIME:
        pool.flags |= POOL_NOTES_LATENCY
    if pool.image.hedge_after_ms != 0:
        pool.flags |= POOL_HEDGES
    if pool.image.health.row.size != 0:
        pool.flags |= POOL_PASSIVE_HEALTH
    if pool.image.panics:
        pool.flags |= POOL_PANICS
    if pool.image.protocol != PROTOCOL_HTTP1:
        pool.flags |= POOL_HTTP2
    if pool.image.proxy_header != 0:
        pool.flags |= POOL_SENDS_HEADER
    for i in range(LIMIT_KINDS):
        if pool.image.limits[i].most != 0:
            pool.flags |= POOL_LIMITS
    if pool.image.sticky != <uint32_t>NO_INDEX:
        pool.flags |= POOL_STICKY
        if not load_sticky(image, pool):
            return False
    pool.random = engine.random[0]              # each worker its own; pools need not differ
    pool.now_ms = &engine.now_ms
    pool.state_changes = &engine.shared.header.state_changes
    if pool.algorithm == ALGORITHM_USER and not open_user_picker(engine, pool):
        return False
    for i in range(pool.n_groups):
        pool.groups[i].first = first
        pool.groups[i].backends = pool.backends + first
        if not load_group(image, &groups[i], pool, &pool.groups[i]):
            return False
        first += groups[i].n_backends
    return True
