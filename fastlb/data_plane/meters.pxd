"""What metrics count of listeners, routes, pools and backends, and how times become histograms.

Each worker has meters of its own in shared memory (shared_table.pxd says where) and stores to them without atomics; the controller adds them
up when somebody asks, and asks no worker. The snapshot's image says which number a listener, route or pool has; number 0 is nobody's: what
belongs to none is counted there and never read, so nothing here asks whether there is one.

Times take one reading of the clock for the event in which a request came and one for the event in which its answer did (now_us).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastlb.data_plane.failure cimport FAILURE_BAD_STATUS, FAILURE_CONNECT_REFUSED, FAILURE_TRUNCATED
from fastlb.data_plane.system cimport CLOCK_MONOTONIC, clock_gettime, timespec
from fastlb.data_plane.types cimport (BACKEND_REASONS, HISTOGRAM_BUCKETS, HISTOGRAM_HIGHEST_BIT, HISTOGRAM_LOWEST_BIT, KIND_MIRROR, X_HEAD_SENT, X_SESSION, X_TUNNEL,
                                      Attempt, Backend, Connection, Engine, Exchange, Histogram, Meter)

cdef extern from *:
    """
    static inline int fastlb_highest_bit(unsigned long long x) { return 63 - __builtin_clzll(x); }
    """
    int highest_bit "fastlb_highest_bit"(uint64_t bits) nogil  # undefined for 0


# ---------------------------------------------------------------------------------------------------------- times
cdef inline uint64_t read_clock_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef inline uint64_t now_us(Engine* engine) noexcept nogil:
    # When the event that is being handled began to matter, or one of the few before it: the clock is read for the first who asks (25 ns).
    # The batch's clock would make the 64th event of a batch as old as the first.
    if engine.clock_us == 0:
        engine.clock_us = read_clock_us()
    return engine.clock_us


cdef inline uint32_t bucket_of(uint64_t us) noexcept nogil:
    # 0: shorter than 64 us; then four for each power of two, by the two bits below the highest; the last: 134 s and longer.
    cdef int bit
    if us < <uint64_t>1 << HISTOGRAM_LOWEST_BIT:
        return 0
    bit = highest_bit(us)
    if bit >= HISTOGRAM_HIGHEST_BIT:
        return HISTOGRAM_BUCKETS - 1
    return 1 + (<uint32_t>(bit - HISTOGRAM_LOWEST_BIT) << 2 | <uint32_t>(us >> (bit - 2)) & 3)


cdef inline void note_time(Histogram* histogram, uint64_t us) noexcept nogil:
    histogram.sum_us += us
    histogram.buckets[bucket_of(us)] += 1


# ---------------------------------------------------------------------------------------------------------- exchanges
cdef inline uint32_t status_class(uint32_t status) noexcept nogil:
    # Index in `statuses`: 600 and more, which RFC 9110 section 15 has a client take for 5xx, are counted so.
    return status // 100 if status < 600 else 5


cdef inline void enter_route_meter(Engine* engine, Exchange* exchange, uint32_t number) noexcept nogil:
    # The exchange has found its route, after a head of so many bytes; end_meters closes what this opens.
    exchange.route_meter = <uint16_t>number
    engine.meters[number].opened += 1
    engine.meters[number].bytes_in += exchange.request_head.end


cdef inline void enter_pool_meter(Engine* engine, Exchange* exchange, uint32_t number, uint32_t head_bytes) noexcept nogil:
    exchange.pool_meter = <uint16_t>number
    engine.meters[number].opened += 1
    engine.meters[number].bytes_in += head_bytes


cdef inline void end_meters(Engine* engine, Exchange* exchange) noexcept nogil:
    # The exchange is over. A tunnel's time says nothing about how quick anybody is, nor does that of a request without an answer; a TCP
    # session's is what there is to be known of it.
    cdef:
        Meter* route = &engine.meters[exchange.route_meter]
        Meter* pool = &engine.meters[exchange.pool_meter]
        uint32_t status = status_class(exchange.status) if exchange.flags & X_HEAD_SENT else 0
        uint64_t took_us
    route.statuses[status] += 1
    route.closed += 1
    pool.statuses[status] += 1
    pool.closed += 1
    if exchange.client.kind != KIND_MIRROR and (status or exchange.route_meter):
        engine.meters[exchange.client.listener.meter].statuses[status] += 1
    if status and exchange.began_us and exchange.flags & (X_TUNNEL | X_SESSION) != X_TUNNEL:
        took_us = now_us(engine) - exchange.began_us
        note_time(&engine.meter_details[exchange.route_meter].total, took_us)
        note_time(&engine.meter_details[exchange.pool_meter].total, took_us)


cdef inline void count_failure(Engine* engine, uint32_t number, uint32_t failure) noexcept nogil:
    engine.meters[number].failures += 1
    engine.meter_details[number].reasons[failure] += 1


cdef inline void count_client_out(Engine* engine, const Exchange* exchange, uint64_t size) noexcept nogil:
    engine.meters[exchange.client.listener.meter].bytes_out += size
    engine.meters[exchange.route_meter].bytes_out += size
    engine.meters[exchange.pool_meter].bytes_out += size


cdef inline void count_body_in(Engine* engine, const Exchange* exchange, uint64_t size) noexcept nogil:
    # The listener has counted these bytes when they were read, with those that frame them.
    engine.meters[exchange.route_meter].bytes_in += size
    engine.meters[exchange.pool_meter].bytes_in += size


cdef inline void count_retry(Engine* engine, const Exchange* exchange, const Attempt* attempt) noexcept nogil:
    engine.meters[exchange.route_meter].retries += 1
    engine.meters[exchange.pool_meter].retries += 1
    attempt.backend.meter.retries += 1


# ---------------------------------------------------------------------------------------------------------- attempts
cdef inline uint32_t backend_reason(uint32_t failure) noexcept nogil:
    # Index in BackendMeter.reasons: those from connect_refused to truncated as they stand in failure.pxd, bad_status, and all others.
    if failure - FAILURE_CONNECT_REFUSED <= <uint32_t>(FAILURE_TRUNCATED - FAILURE_CONNECT_REFUSED):
        return failure - FAILURE_CONNECT_REFUSED
    return BACKEND_REASONS - 2 if failure == FAILURE_BAD_STATUS else BACKEND_REASONS - 1


cdef inline void count_backend_failure(Backend* backend, uint32_t failure) noexcept nogil:
    backend.meter.reasons[backend_reason(failure)] += 1


cdef inline void count_connect(Engine* engine, const Exchange* exchange, Backend* backend) noexcept nogil:
    engine.meters[exchange.pool_meter].connects += 1
    backend.meter.connects += 1


cdef inline void count_reuse(Engine* engine, const Exchange* exchange, Backend* backend) noexcept nogil:
    engine.meters[exchange.pool_meter].reused += 1
    backend.meter.reused += 1


cdef inline void note_connected(Engine* engine, const Exchange* exchange, const Attempt* attempt) noexcept nogil:
    cdef uint64_t took_us = now_us(engine) - attempt.began_us
    note_time(&engine.meter_details[exchange.route_meter].connect, took_us)
    note_time(&engine.meter_details[exchange.pool_meter].connect, took_us)


cdef inline void note_response_head(Engine* engine, const Exchange* exchange, const Attempt* attempt, uint32_t status) noexcept nogil:
    # The final head of its response has come.
    cdef uint64_t took_us = now_us(engine) - attempt.began_us
    attempt.backend.meter.statuses[status_class(status)] += 1
    note_time(&engine.meter_details[exchange.route_meter].first_byte, took_us)
    note_time(&engine.meter_details[exchange.pool_meter].first_byte, took_us)


# ---------------------------------------------------------------------------------------------------------- clients
cdef inline void count_client_opened(Engine* engine, const Connection* client) noexcept nogil:
    engine.meters[client.listener.meter].opened += 1


cdef inline void count_client_closed(Engine* engine, const Connection* client) noexcept nogil:
    engine.meters[client.listener.meter].closed += 1


cdef inline void count_client_in(Engine* engine, const Connection* client, uint64_t size) noexcept nogil:
    engine.meters[client.listener.meter].bytes_in += size
