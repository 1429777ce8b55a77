"""The tables of a group: ketama ring, Maglev's slots, alias table. Built once, by SnapshotWriter, into the image that all workers map.

They are of all backends that have a weight, whatever their state: one that goes down or comes up moves nothing, picks step over it. What a
function writes is the caller's memory, as large as the count_ function beside it says. No state; nothing here is called per request.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.select.key cimport crc32, hash_bytes
from fastlb.data_plane.types cimport ImageAlias, ImageRingPoint

cdef extern from "<stdlib.h>" nogil:
    void qsort(void* base, size_t count, size_t size, int (*compare)(const void*, const void*) noexcept nogil)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char* a, const char* b, size_t size)


# ---------------------------------------------------------------------------------------------------------------- ring
cdef uint64_t sum_weights(const TableBackend* backends, uint32_t n) noexcept nogil:
    cdef:
        uint64_t total = 0
        uint32_t i
    for i in range(n):
        total += backends[i].weight
    return total


cdef uint32_t count_points(uint32_t weight, uint64_t total) noexcept nogil:
    # Of one backend, among weights of this sum.
    if weight == 0:
        return 0
    if total * POINTS_PER_WEIGHT <= MOST_POINTS:
        return weight * POINTS_PER_WEIGHT
    return max(<uint32_t>(<uint64_t>weight * MOST_POINTS // total), <uint32_t>1)


cdef uint32_t count_ring_points(const TableBackend* backends, uint32_t n) noexcept nogil:
    # Room for build_ring.
    cdef:
        uint64_t total = sum_weights(backends, n)
        uint32_t i, points = 0
    for i in range(n):
        points += count_points(backends[i].weight, total)
    return points


cdef int compare_points(const void* left, const void* right) noexcept nogil:
    cdef:
        const ImageRingPoint* a = <const ImageRingPoint*>left
        const ImageRingPoint* b = <const ImageRingPoint*>right
    if a.hash != b.hash:
        return -1 if a.hash < b.hash else 1
    return -1 if a.backend < b.backend else <int>(a.backend > b.backend)


cdef uint32_t hash_server(const TableBackend* backend) noexcept nogil:
    # What nginx begins a server's points with: the CRC-32 of host, zero byte, port. What follows the last colon is a port if it is digits
    # only; a Unix socket is its path.
    cdef:
        const char* name = backend.name
        uint32_t size = backend.name_size, host_size = backend.name_size, port = backend.name_size
        uint32_t at = size
    if size >= 5 and strncasecmp(name, b"unix:", 5) == 0:
        name += 5
        host_size = port = size = size - 5
    else:
        while at > 0:
            at -= 1
            if name[at] == 58:                  # ":"
                host_size = at
                port = at + 1
                break
            if not 48 <= name[at] <= 57:
                break
    return crc32(crc32(crc32(0, name, host_size), b"", 1), name + port, size - port)


cdef uint32_t build_ring(const TableBackend* backends, uint32_t n, ImageRingPoint* points) noexcept nogil:
    # nginx's: each point is the CRC-32 of the server and of the point before it. Sorted; of equal ones the first backend's stays. How many.
    # Source: nginx/nginx ngx_http_upstream_hash_module.c, ngx_http_upstream_update_chash.
    cdef:
        uint64_t total = sum_weights(backends, n)
        uint32_t i, hash, server, _k, used = 0, kept = 0
        char before[4]
    for i in range(n):
        server = hash_server(&backends[i])
        hash = 0
        for _k in range(count_points(backends[i].weight, total)):
            before[0], before[1], before[2], before[3] = <char>hash, <char>(hash >> 8), <char>(hash >> 16), <char>(hash >> 24)
            hash = crc32(server, before, 4)
            points[used].hash = hash
            points[used].backend = i
            used += 1
    qsort(points, used, sizeof(ImageRingPoint), compare_points)
    for i in range(used):
        if kept == 0 or points[kept - 1].hash != points[i].hash:
            points[kept] = points[i]
            kept += 1
    return kept


cdef uint32_t count_index_bits(uint32_t n_points) noexcept nogil:
    # So that a word of the index stands for about two points: a look-up is a word and a step or two.
    cdef uint32_t bits = 0
    while (<uint64_t>2 << bits) < n_points and bits < 31:
        bits += 1
    return bits


cdef void build_ring_index(const ImageRingPoint* points, uint32_t n_points, uint32_t bits, uint32_t* index) noexcept nogil:
    # index[top]: the first point whose highest `bits` are `top` or more. 2^bits words.
    cdef:
        uint32_t at = 0, top
    for top in range(<uint32_t>1 << bits):
        while at < n_points and <uint32_t>(<uint64_t>points[at].hash >> (32 - bits)) < top:
            at += 1
        index[top] = at


# ---------------------------------------------------------------------------------------------------------------- maglev
cdef extern from *:
    """
    /* Primes. Few, because another size moves every key: 655, 6553 and 50000 backends of weight 1. */
    static const unsigned int fastlb_maglev_sizes[] = {65537, 655373, 5000011};
    """
    const uint32_t MAGLEV_SIZES "fastlb_maglev_sizes"[3]


cdef uint64_t divisor(uint64_t a, uint64_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef uint32_t count_maglev_slots(const TableBackend* backends, uint32_t n) noexcept nogil:
    # A prime; 0 where there is no weight.
    cdef:
        uint64_t unit = 0, total = sum_weights(backends, n)
        uint32_t i
    if total == 0:
        return 0
    for i in range(n):
        unit = divisor(backends[i].weight, unit)
    for i in range(2):
        if total // unit * MAGLEV_SLOTS_PER_WEIGHT <= MAGLEV_SIZES[i]:
            return MAGLEV_SIZES[i]
    return MAGLEV_SIZES[2]


cdef int fill_maglev(const uint32_t* offsets, const uint32_t* skips, const uint32_t* weights, uint32_t n, uint32_t n_slots,
                     uint16_t* slots) noexcept nogil:
    # Backends take free slots in turn, each in the order of its own permutation: (offset + j * skip) mod n_slots. In a round each gets as many
    # turns as its weight is of the highest, what is left over counting on. There is a weight, and n_slots is prime. 0, or -1: out of memory.
    # Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4.
    cdef:
        uint32_t* next_slot = <uint32_t*>malloc((<size_t>n + 1) * sizeof(uint32_t))
        uint32_t* turns = <uint32_t*>calloc(<size_t>n + 1, sizeof(uint32_t))
        unsigned char* taken = <unsigned char*>calloc(n_slots, 1)
        uint32_t i, slot, filled = 0, highest = 0
        int result = -1
    if next_slot != NULL and turns != NULL and taken != NULL:
        result = 0
        for i in range(n):
            next_slot[i] = offsets[i]
            highest = max(highest, weights[i])
        while filled < n_slots:
            for i in range(n):
                turns[i] += weights[i]
                if turns[i] < highest:
                    continue
                turns[i] -= highest
                slot = next_slot[i]
                while taken[slot]:
                    slot = <uint32_t>((<uint64_t>slot + skips[i]) % n_slots)
                taken[slot] = 1
                slots[slot] = <uint16_t>i
                next_slot[i] = slot
                filled += 1
                if filled == n_slots:
                    break
    free(next_slot)
    free(turns)
    free(taken)
    return result


cdef int build_maglev(const TableBackend* backends, uint32_t n, uint32_t n_slots, uint16_t* slots) noexcept nogil:
    # 0, or -1: out of memory. Nothing is written where n_slots is 0.
    cdef:
        uint32_t* numbers = <uint32_t*>malloc((3 * <size_t>n + 1) * sizeof(uint32_t))
        uint32_t i
        int result = -1
    if n_slots == 0:
        result = 0
    elif numbers != NULL:
        for i in range(n):
            numbers[i] = <uint32_t>(hash_bytes(backends[i].name, backends[i].name_size, 1) % n_slots)
            numbers[n + i] = <uint32_t>(hash_bytes(backends[i].name, backends[i].name_size, 2) % (n_slots - 1)) + 1
            numbers[2 * n + i] = backends[i].weight
        result = fill_maglev(numbers, numbers + n, numbers + 2 * n, n, n_slots, slots)
    free(numbers)
    return result


# ---------------------------------------------------------------------------------------------------------------- alias table
cdef int build_aliases(const TableBackend* backends, uint32_t n, ImageAlias* aliases) noexcept nogil:
    # Vose's alias method, in integers: one draw of a slot and one of its own or its alias gives each backend its weight. There is a weight.
    # 0, or -1: out of memory. Source: M. D. Vose, "A Linear Algorithm for Generating Random Numbers with a Given Distribution" (1991).
    cdef:
        uint64_t total = sum_weights(backends, n)
        uint64_t* shares = <uint64_t*>malloc((<size_t>n + 1) * sizeof(uint64_t))     # of a slot, in parts of `total`
        uint32_t* waiting = <uint32_t*>malloc((<size_t>n + 1) * sizeof(uint32_t))    # small ones from the front, large ones from the back
        uint32_t i, small, large, n_small = 0, n_large = 0
        int result = -1
    if shares != NULL and waiting != NULL:
        result = 0
        for i in range(n):
            shares[i] = <uint64_t>backends[i].weight * n
            aliases[i].threshold = 0xFFFFFFFF
            aliases[i].other = i
            if shares[i] < total:
                waiting[n_small] = i
                n_small += 1
            else:
                n_large += 1
                waiting[n - n_large] = i
        while n_small and n_large:
            n_small -= 1
            small = waiting[n_small]
            large = waiting[n - n_large]
            aliases[small].threshold = <uint32_t>((shares[small] << 32) // total)
            aliases[small].other = large
            shares[large] -= total - shares[small]
            if shares[large] < total:
                n_large -= 1
                waiting[n_small] = large
                n_small += 1
    free(shares)
    free(waiting)
    return result
