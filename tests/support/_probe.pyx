"""Internals of the data plane for the tests: each `cdef` function or struct under test gets a thin Python face here.

Built by `./dev build` (FASTLB_PROBE=1), never installed. Whatever parses is given its input in guarded memory: it ends where a
page without access begins (or, with before=True, starts behind one), so that a read of one byte too many ends the process.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastlb.data_plane.access_log cimport check_log_plan as plane_check_log_plan
from fastlb.data_plane.attempt cimport connect_failure as plane_connect_failure
from fastlb.data_plane.backend_table cimport (backend_table_close, backend_table_open, claim, drop_backend, hold_backend,
                                              release_claim, set_queue)
from fastlb.data_plane.buffer cimport append_bytes, buffer_pool_close, buffer_pool_open, return_buffer, take_buffer
from fastlb.data_plane.client_hello cimport (HELLO_BAD_NAME, HELLO_MALFORMED, HELLO_NOT_TLS, HELLO_PARSED, HELLO_TOO_LARGE, ClientHello, has_protocol,
                                             parse_client_hello)
from fastlb.data_plane.cookie cimport Cookie, next_cookie
from fastlb.data_plane.connection_table cimport (bury_connection, connection_handle, connection_table_close, connection_table_open,
                                                 empty_graveyard, find_connection, open_connection)
from fastlb.data_plane.engine cimport engine_close, engine_open
from fastlb.data_plane.failure cimport (FAILURE_BAD_REQUEST_LINE, FAILURE_END, FAILURE_NO_ROUTE, RETRY_BITS, RETRY_UNSAFE, SIDE_BACKEND,
                                        SIDE_CLIENT)
from fastlb.data_plane.failure cimport failures
from fastlb.data_plane.grpc cimport grpc_status_of, is_grpc_type
from fastlb.data_plane.failure cimport status_phrase as plane_status_phrase
from fastlb.data_plane.trust cimport is_trusted
from fastlb.data_plane.http1_body cimport chunk_decoder_close, chunk_decoder_open, decode_chunked
from fastlb.data_plane.http1_body cimport write_chunk_header as plane_write_chunk_header
from fastlb.data_plane.http1_head cimport may_be_trailer
from fastlb.data_plane.http1_head cimport parse_request as plane_parse_request
from fastlb.data_plane.http1_head cimport parse_response as plane_parse_response
from fastlb.data_plane.http1_head cimport parse_trailers as plane_parse_trailers
from fastlb.data_plane.http1_serialise cimport write_informational, write_local, write_request, write_response
from fastlb.data_plane.http2_numbers cimport take_number
from fastlb.data_plane.idle_cache cimport cache_put, cache_remove, cache_take
from fastlb.data_plane.name_table cimport find_host as plane_find_host
from fastlb.data_plane.tls_memory cimport count_kept, resize_memory, return_memory, take_memory
from fastlb.data_plane.pipe_pool cimport pipe_pool_close, pipe_pool_open, return_pipe, take_pipe
from fastlb.data_plane.log_writer cimport (drop_slot, hand_over, hold_slot, log_writer_close, log_writer_open, log_writer_start, put_line,
                                           wake_log_writer, write_some)
from fastlb.data_plane.part cimport Part
from fastlb.data_plane.proxy_protocol cimport (PROXY_HAS_CERTIFICATE, PROXY_HAS_TLS, PROXY_INTERNET, PROXY_MALFORMED, PROXY_MISSING, PROXY_NOBODY, PROXY_PARSED,
                                               PROXY_UNIX, ProxyHeader, parse_proxy_header)
from fastlb.data_plane.proxy_codec cimport find_common_name as plane_find_common_name
from fastlb.data_plane.proxy_protocol cimport write_proxy_header as plane_write_proxy_header
from fastlb.data_plane.types cimport PROXY_ALPN, PROXY_AUTHORITY, PROXY_CLIENT_NAME, PROXY_TLS_CIPHER, PROXY_TLS_VERSION, PROXY_UNIQUE_ID
from fastlb.data_plane.types cimport PROXY_SENDS_BINARY, PROXY_SENDS_CHECK_SUM, PROXY_SENDS_LINE
from fastlb.data_plane.ready_list cimport list_ready, take_ready, unlist_ready
from fastlb.data_plane.regex cimport (MAX_REGEX_GROUPS, REGEX_ANCHORED, REGEX_CASELESS, REGEX_FAILED, REGEX_INTERPRETED, REGEX_LIMIT, REGEX_NO_MATCH,
                                      close_regex_scratch, compile_regex, free_regex, match_regex, open_regex_scratch, write_regex_error)
from fastlb.data_plane.retry cimport is_stale_reuse as plane_is_stale_reuse
from fastlb.data_plane.retry cimport end_condition as plane_end_condition
from fastlb.data_plane.retry cimport may_retry as plane_may_retry
from fastlb.data_plane.retry cimport status_condition as plane_status_condition
from fastlb.data_plane.retry_budget cimport fill_budget as plane_fill_budget
from fastlb.data_plane.retry_budget cimport open_budget as plane_open_budget
from fastlb.data_plane.retry_budget cimport spend_retry as plane_spend_retry
from fastlb.data_plane.route_table cimport find_route, hash_host
from fastlb.data_plane.select.dispatch cimport pick
from fastlb.data_plane.select.randomness cimport mix
from fastlb.data_plane.select.tables cimport fill_maglev as plane_fill_maglev
from fastlb.data_plane.select.key cimport crc32, crc32_joined, hash_bytes, hash_key
from fastlb.data_plane.select.latency cimport age_latency, note_row_latency, pack_latency
from fastlb.data_plane.system cimport CLOCK_MONOTONIC, add_count, clock_gettime, itimerspec, timespec
from fastlb.data_plane.meters cimport bucket_of as plane_bucket_of
from fastlb.data_plane.meters cimport count_client_in as plane_count_client_in
from fastlb.data_plane.meters cimport count_client_out as plane_count_client_out
from fastlb.data_plane.meters cimport count_reuse as plane_count_reuse
from fastlb.data_plane.meters cimport end_meters as plane_end_meters
from fastlb.data_plane.meters cimport enter_pool_meter as plane_enter_pool_meter
from fastlb.data_plane.meters cimport enter_route_meter as plane_enter_route_meter
from fastlb.data_plane.meters cimport note_response_head as plane_note_response_head
from fastlb.data_plane.meters cimport now_us as plane_now_us
from fastlb.data_plane.settlement cimport settle_worker
from fastlb.data_plane.shared_table cimport (BLOCK_BYTES, BLOCKS_AT, COLUMNS_AT, DETAILS_AT, DETAILS_BYTES, FAULT_CLAIM_ADDED, FAULT_CLAIM_NAMED, FAULT_CLAIM_NOTED,
                                             FAULT_RELEASE_NAMED, FAULT_RELEASE_NOTED, FAULT_RELEASE_TAKEN, FAULT_SETTLE_BALANCED,
                                             FAULT_SETTLE_CORRECTED, FAULT_SETTLE_COUNTED, FAULT_SETTLE_MARKED, INDEX_AT, METERS_AT, WORKER_METERS_BYTES, ROW_BYTES,
                                             WORKER_BYTES, WORKER_COLUMNS_BYTES, WORKERS_AT, add_image_rows, add_row, claim_row,
                                             close_shared, column_at, create_shared, find_row, hold_row, map_shared, open_worker,
                                             release_row, row_at, set_state, worker_at)
from fastlb.data_plane.snapshot cimport check_image as plane_check_image
from fastlb.data_plane.snapshot cimport drop_snapshot, load_snapshot, map_image
from fastlb.data_plane.shared_table cimport STICKY_AT, STICKY_BUCKETS
from fastlb.data_plane.connection_id cimport find_server_id as plane_find_server_id
from fastlb.data_plane.siphash cimport siphash
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.sticky cimport begin_sticky
from fastlb.data_plane.types cimport BackendMeter, Listener, Meter, MeterDetails
from fastlb.data_plane.types cimport Http2Numbers, X_COOKIE_OLD
from fastlb.data_plane.sticky_table cimport (MAX_STICKY_TICKS, NOTED_AGAIN, NOTED_ALREADY, NOTED_INSTEAD, NOTED_NEW, NOTED_NOT, STICKY_TICK_MS,
                                             StickyPart, find_sticky, note_sticky)
from fastlb.data_plane.target cimport normalise_path as plane_normalise_path
from fastlb.data_plane.timer_wheel cimport arm_wheel, cancel_timer, set_timer, take_expired, timer_wheel_close, timer_wheel_open
from fastlb.data_plane.types cimport FASTLB_PICKER_VERSION, PickContext
from fastlb.data_plane.types cimport (ATTEMPT_ANSWERED, ATTEMPT_CONNECTING, ATTEMPT_SENT,
                                      CHUNK_BAD, CHUNK_DONE, FIELD_DROPPED, FRAME_CHUNKED, FRAME_LENGTH, FRAME_NONE,
                                      FRAME_UNTIL_CLOSE, HEAD_ABSOLUTE_TARGET, HEAD_CLOSE, HEAD_DROP_LISTED, HEAD_EXPECT_CONTINUE,
                                      HEAD_H2C, HEAD_KEEP_ALIVE, HEAD_PATH_IS_RAW, HEAD_UPGRADE, KIND_CLIENT, MAX_TRIED, MAX_WORKERS, ROW_CONTROLLED, ROW_EJECTED, METHOD_CONNECT,
                                      METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_POST, METHOD_PUT,
                                      METHOD_TRACE, NO_BACKEND, NO_INDEX, NO_PIPE, NO_SHARED_ROW, X_HEAD_SENT, X_HTTP_1_0, X_IDEMPOTENT, X_IS_HEAD,
                                      X_REPLAYABLE, Attempt, Backend, BackendTable, Buffer, BufferPool, ChunkDecoder, Connection,
                                      Column, ConnectionTable, Counters, Engine, Exchange, Head, HeaderField, HeadLimits, ImageBackend, ImageHeader,
                                      ImageHeaderOperation, ImageListener, ImagePool, ImageRoute, Listener, LogWriter, Match, PipePool,
                                      Group, PoolBackend, RetryBudget, SharedRow, SharedTable, Snapshot, Timer, TimerWheel, WorkerBlock)
from fastlb.data_plane.types cimport ImageSegment, Listener
from fastlb.data_plane.types cimport ImageBackendTls, ImageCertificate, ImageSticky, ImageTls, ImageTlsIdentity, ImageName
from fastlb.data_plane.types cimport (ImageCondition, ImageHost, ImageHostSet, ImageHostSlot, ImageLocation, ImageLocationSlot, ImageNetwork,
                                      ImagePathLength, ImageRegex, ImageRule, ImageValue)
from fastlb.data_plane.types cimport Pool as PoolStruct
from fastlb.data_plane.types cimport Regex as RegexStruct
from fastlb.data_plane.types cimport RegexScratch
from fastlb.data_plane.writer cimport Writer, put, put_number

import array
import os

from fastlb._core import LOG_DESTINATION_KINDS, SnapshotWriter

POOL_SETTINGS = {"attempts": 3, "replay_limit_bytes": 0, "max_idle": 0, "idle_timeout_ms": 0, "connect_timeout_ms": 0,
                 "first_byte_timeout_ms": 0, "between_bytes_timeout_ms": 0, "exchange_timeout_ms": 0, "tunnel_timeout_ms": 0}

cdef extern from "<sys/mman.h>" nogil:
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void* MAP_FAILED
    void* mmap(void* address, size_t size, int protection, int flags, int fd, long offset)
    int mprotect(void* address, size_t size, int protection)
    int munmap(void* address, size_t size)

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_gettime(int fd, itimerspec* value)

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    PAGE = 4096


# ---------------------------------------------------------------------------------------------------------------- guarded memory
cdef class GuardedMemory:
    """`room` bytes (rounded up to pages) between two pages that must not be touched."""
    cdef:
        char* mapping
        char* start
        char* end

    def __cinit__(self, size_t room):
        room = (room + PAGE - 1) // PAGE * PAGE
        self.mapping = <char*>mmap(NULL, room + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if self.mapping == <char*>MAP_FAILED:
            self.mapping = NULL
            raise MemoryError
        self.start = self.mapping + PAGE
        self.end = self.start + room
        if mprotect(self.mapping, PAGE, PROT_NONE) != 0 or mprotect(self.end, PAGE, PROT_NONE) != 0:
            raise OSError(errno, "mprotect")

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, <size_t>(self.end - self.start) + 2 * PAGE)

    cdef char* room(self, size_t size, bint before=False) except NULL:
        if size > <size_t>(self.end - self.start):
            raise ValueError(f"no room for {size} bytes")
        return self.start if before else self.end - size

    cdef char* place(self, bytes data, bint before=False) except NULL:
        cdef char* where = self.room(<size_t>len(data), before)
        memcpy(where, <const char*>data, <size_t>len(data))
        return where


cdef GuardedMemory INPUT = GuardedMemory(1 << 20)
cdef GuardedMemory OUTPUT = GuardedMemory(1 << 20)


def read_past_the_end(bytes data):
    """Reads one byte too many, to show that the guard works: ends the process."""
    cdef volatile char* byte = INPUT.place(data) + len(data)
    return byte[0]


# ---------------------------------------------------------------------------------------------------------------- images
# Where things lie in the records of an image: "size" of a record, and offsets of fields.
LAYOUT = {
    "header": {"size": sizeof(ImageHeader), "reason_header": <size_t>&(<ImageHeader*>NULL).reason_header,
               "python_path": <size_t>&(<ImageHeader*>NULL).python_path,
               "operations": <size_t>&(<ImageHeader*>NULL).operations},
    "operations": {"size": sizeof(ImageHeaderOperation), "name": <size_t>&(<ImageHeaderOperation*>NULL).name,
                   "kind": <size_t>&(<ImageHeaderOperation*>NULL).kind, "header_id": <size_t>&(<ImageHeaderOperation*>NULL).header_id,
                   "value": <size_t>&(<ImageHeaderOperation*>NULL).value},
    "segments": {"size": sizeof(ImageSegment), "kind": <size_t>&(<ImageSegment*>NULL).kind,
                 "encoding": <size_t>&(<ImageSegment*>NULL).encoding, "text": <size_t>&(<ImageSegment*>NULL).text},
    "listeners": {"size": sizeof(ImageListener), "meter": <size_t>&(<ImageListener*>NULL).meter, "name": <size_t>&(<ImageListener*>NULL).name,
                  "settings": <size_t>&(<ImageListener*>NULL).settings, "tls": <size_t>&(<ImageListener*>NULL).tls},
    "routes": {"size": sizeof(ImageRoute), "meter": <size_t>&(<ImageRoute*>NULL).meter, "name": <size_t>&(<ImageRoute*>NULL).name, "pool": <size_t>&(<ImageRoute*>NULL).pool,
               "mirror_pool": <size_t>&(<ImageRoute*>NULL).mirror_pool, "priority": <size_t>&(<ImageRoute*>NULL).priority,
               "request": <size_t>&(<ImageRoute*>NULL).request.operations, "response": <size_t>&(<ImageRoute*>NULL).response.operations,
               "host": <size_t>&(<ImageRoute*>NULL).host},
    "pools": {"size": sizeof(ImagePool), "meter": <size_t>&(<ImagePool*>NULL).meter, "name": <size_t>&(<ImagePool*>NULL).name,
              "hash_key": <size_t>&(<ImagePool*>NULL).hash_key, "attempts": <size_t>&(<ImagePool*>NULL).attempts, "algorithm": <size_t>&(<ImagePool*>NULL).algorithm,
              "groups": <size_t>&(<ImagePool*>NULL).groups, "backends": <size_t>&(<ImagePool*>NULL).backends, "queue": <size_t>&(<ImagePool*>NULL).queue,
              "queue_max": <size_t>&(<ImagePool*>NULL).queue_max, "sticky": <size_t>&(<ImagePool*>NULL).sticky,
              "picker": <size_t>&(<ImagePool*>NULL).picker, "health": <size_t>&(<ImagePool*>NULL).health,
              "counts": <size_t>&(<ImagePool*>NULL).health.counts, "error_permille": <size_t>&(<ImagePool*>NULL).health.error_permille,
              "window_ms": <size_t>&(<ImagePool*>NULL).health.window_ms, "ejection_ms": <size_t>&(<ImagePool*>NULL).health.ejection_ms,
              "max_ejection_ms": <size_t>&(<ImagePool*>NULL).health.max_ejection_ms,
              "max_ejected_permille": <size_t>&(<ImagePool*>NULL).health.max_ejected_permille,
              "limits": <size_t>&(<ImagePool*>NULL).limits, "panic_permille": <size_t>&(<ImagePool*>NULL).panic_permille, "tls": <size_t>&(<ImagePool*>NULL).tls},
    "stickies": {"size": sizeof(ImageSticky), "kind": <size_t>&(<ImageSticky*>NULL).kind, "cookie": <size_t>&(<ImageSticky*>NULL).cookie,
                 "attributes": <size_t>&(<ImageSticky*>NULL).attributes, "slots": <size_t>&(<ImageSticky*>NULL).slots},
    "backends": {"size": sizeof(ImageBackend), "identity": <size_t>&(<ImageBackend*>NULL).identity,
                 "display": <size_t>&(<ImageBackend*>NULL).display, "address_size": <size_t>&(<ImageBackend*>NULL).address_size},
    "certificates": {"size": sizeof(ImageCertificate), "chain": <size_t>&(<ImageCertificate*>NULL).chain, "key": <size_t>&(<ImageCertificate*>NULL).key, "ocsp": <size_t>&(<ImageCertificate*>NULL).ocsp},
    "tls_identities": {"size": sizeof(ImageTlsIdentity), "certificates": <size_t>&(<ImageTlsIdentity*>NULL).certificates,
                       "n_certificates": <size_t>&(<ImageTlsIdentity*>NULL).n_certificates},
    "names": {"size": sizeof(ImageName), "name": <size_t>&(<ImageName*>NULL).name, "target": <size_t>&(<ImageName*>NULL).target},
    "tls": {"size": sizeof(ImageTls), "identities": <size_t>&(<ImageTls*>NULL).identities, "names": <size_t>&(<ImageTls*>NULL).names,
            "challenges": <size_t>&(<ImageTls*>NULL).challenges, "default_identity": <size_t>&(<ImageTls*>NULL).default_identity,
            "min_version": <size_t>&(<ImageTls*>NULL).min_version, "max_version": <size_t>&(<ImageTls*>NULL).max_version,
            "handshake_timeout_ms": <size_t>&(<ImageTls*>NULL).handshake_timeout_ms, "ciphers": <size_t>&(<ImageTls*>NULL).ciphers,
            "ciphersuites": <size_t>&(<ImageTls*>NULL).ciphersuites, "groups": <size_t>&(<ImageTls*>NULL).groups, "alpn": <size_t>&(<ImageTls*>NULL).alpn,
            "tickets": <size_t>&(<ImageTls*>NULL).tickets, "client_auth": <size_t>&(<ImageTls*>NULL).client_auth,
            "client_depth": <size_t>&(<ImageTls*>NULL).client_depth, "early_data_bytes": <size_t>&(<ImageTls*>NULL).early_data_bytes, "client_ca": <size_t>&(<ImageTls*>NULL).client_ca,
            "client_crl": <size_t>&(<ImageTls*>NULL).client_crl},
    "backend_tls": {"size": sizeof(ImageBackendTls), "verify": <size_t>&(<ImageBackendTls*>NULL).verify,
                    "resume": <size_t>&(<ImageBackendTls*>NULL).resume,
                    "certificate": <size_t>&(<ImageBackendTls*>NULL).certificate,
                    "min_version": <size_t>&(<ImageBackendTls*>NULL).min_version,
                    "max_version": <size_t>&(<ImageBackendTls*>NULL).max_version,
                    "server_name": <size_t>&(<ImageBackendTls*>NULL).server_name,
                    "authorities": <size_t>&(<ImageBackendTls*>NULL).authorities,
                    "ciphers": <size_t>&(<ImageBackendTls*>NULL).ciphers,
                    "ciphersuites": <size_t>&(<ImageBackendTls*>NULL).ciphersuites,
                    "groups": <size_t>&(<ImageBackendTls*>NULL).groups,
                    "alpn": <size_t>&(<ImageBackendTls*>NULL).alpn},
}

# The same of the route table, whose header is a section of the image.
ROUTE_TABLE_LAYOUT = {
    "host_sets": {"size": sizeof(ImageHostSet), "slots": <size_t>&(<ImageHostSet*>NULL).slots,
                  "any_host": <size_t>&(<ImageHostSet*>NULL).any_host},
    "host_slots": {"size": sizeof(ImageHostSlot), "host": <size_t>&(<ImageHostSlot*>NULL).host},
    "hosts": {"size": sizeof(ImageHost), "name": <size_t>&(<ImageHost*>NULL).name,
              "path_lengths": <size_t>&(<ImageHost*>NULL).path_lengths, "slots": <size_t>&(<ImageHost*>NULL).slots},
    "path_lengths": {"size": sizeof(ImagePathLength)},
    "location_slots": {"size": sizeof(ImageLocationSlot), "path": <size_t>&(<ImageLocationSlot*>NULL).path,
                       "location": <size_t>&(<ImageLocationSlot*>NULL).location},
    "locations": {"size": sizeof(ImageLocation), "route": <size_t>&(<ImageLocation*>NULL).route,
                  "shorter": <size_t>&(<ImageLocation*>NULL).shorter, "rules": <size_t>&(<ImageLocation*>NULL).rules},
    "rules": {"size": sizeof(ImageRule), "route": <size_t>&(<ImageRule*>NULL).route, "regex": <size_t>&(<ImageRule*>NULL).regex,
              "conditions": <size_t>&(<ImageRule*>NULL).conditions},
    "conditions": {"size": sizeof(ImageCondition), "kind": <size_t>&(<ImageCondition*>NULL).kind,
                   "negated": <size_t>&(<ImageCondition*>NULL).negated, "name": <size_t>&(<ImageCondition*>NULL).name,
                   "values": <size_t>&(<ImageCondition*>NULL).values},
    "values": {"size": sizeof(ImageValue), "kind": <size_t>&(<ImageValue*>NULL).kind, "regex": <size_t>&(<ImageValue*>NULL).regex,
               "text": <size_t>&(<ImageValue*>NULL).text},
    "networks": {"size": sizeof(ImageNetwork), "prefix_bits": <size_t>&(<ImageNetwork*>NULL).prefix_bits},
    "regexes": {"size": sizeof(ImageRegex), "pattern": <size_t>&(<ImageRegex*>NULL).pattern,
                "flags": <size_t>&(<ImageRegex*>NULL).flags},
}


# ---------------------------------------------------------------------------------------------------------------- failures
cdef dict failure_info(uint32_t i):
    cdef uint32_t side = failures[i].side
    return {
        "id": failures[i].id.decode(),
        "sentence": failures[i].sentence.decode(),
        "status": failures[i].status,
        "grpc_status": grpc_status_of(i),
        "side": "client" if side == SIDE_CLIENT else "backend" if side == SIDE_BACKEND else "self",
        "retry_on": failures[i].retry_on,
    }


def says_grpc(bytes content_type):
    return bool(is_grpc_type(content_type, <uint32_t>len(content_type)))


FAILURES = [failure_info(i) for i in range(FAILURE_BAD_REQUEST_LINE, FAILURE_END)]
cdef dict FAILURE_NUMBERS = {failure_info(i)["id"]: i for i in range(FAILURE_BAD_REQUEST_LINE, FAILURE_END)}


cdef str reason_of(int result):
    return failures[-result].id.decode()


def status_phrase(uint32_t status):
    return plane_status_phrase(status).decode()


def connect_failure(int error):
    """Reason id for the errno of a connect."""
    return reason_of(-<int>plane_connect_failure(error))


# ---------------------------------------------------------------------------------------------------------------- heads
METHODS = {"OTHER": METHOD_OTHER, "GET": METHOD_GET, "HEAD": METHOD_HEAD, "POST": METHOD_POST, "PUT": METHOD_PUT, "DELETE": METHOD_DELETE,
           "OPTIONS": METHOD_OPTIONS, "TRACE": METHOD_TRACE, "CONNECT": METHOD_CONNECT}
cdef dict METHOD_NAMES = {number: name for name, number in METHODS.items()}
cdef dict FRAMINGS = {FRAME_NONE: "none", FRAME_LENGTH: "length", FRAME_CHUNKED: "chunked", FRAME_UNTIL_CLOSE: "until_close"}
cdef dict HEAD_FLAGS = {"close": HEAD_CLOSE, "keep_alive": HEAD_KEEP_ALIVE, "upgrade": HEAD_UPGRADE,
                        "expect_continue": HEAD_EXPECT_CONTINUE, "absolute_target": HEAD_ABSOLUTE_TARGET,
                        "path_is_raw": HEAD_PATH_IS_RAW, "drop_listed": HEAD_DROP_LISTED, "h2c": HEAD_H2C}


cdef bytes part(const Head* head, uint32_t offset, uint32_t size):
    if offset + <uint64_t>size > head.size:
        raise AssertionError(f"{size} bytes at {offset} are not inside a head of {head.size}")
    return PyBytes_FromStringAndSize(head.data + offset, size)


cdef list describe_fields(const Head* head):
    cdef:
        const HeaderField* field
        uint32_t i
    fields = []
    for i in range(head.n_fields):
        field = &head.fields[i]
        if part(head, field.end - 2, 2) != b"\r\n":
            raise AssertionError(f"field {i} does not end behind a CRLF")
        fields.append((part(head, field.name, field.name_size), part(head, field.value, field.value_size)))
    return fields


cdef dict describe(const Head* head):
    cdef uint32_t i
    return {
        "size": head.size,
        "fields": describe_fields(head),
        "ids": [head.fields[i].id for i in range(head.n_fields)],
        "dropped": [part(head, head.fields[i].name, head.fields[i].name_size) for i in range(head.n_fields)
                    if head.fields[i].flags & FIELD_DROPPED],
        "version": head.version,
        "framing": FRAMINGS[head.framing],
        "content_length": None if head.content_length < 0 else head.content_length,
        "flags": {name for name, bit in HEAD_FLAGS.items() if head.flags & <int>bit},
    }


cdef HeadLimits make_limits(max_bytes, max_target_bytes, max_fields):
    cdef HeadLimits limits
    limits.max_bytes = max_bytes
    limits.max_target_bytes = max_target_bytes
    limits.max_fields = max_fields
    return limits


def parse_request(bytes data, *, max_bytes=32768, max_target_bytes=8192, max_fields=100, before=False):
    """A dict, a reason id, or None where more bytes are needed."""
    cdef:
        Head head
        HeadLimits limits = make_limits(max_bytes, max_target_bytes, max_fields)
        int result = plane_parse_request(&head, INPUT.place(data, before), <uint32_t>len(data), &limits)
    if result <= 0:
        return reason_of(result) if result else None
    if <uint32_t>result != head.size:
        raise AssertionError(f"returned {result}, noted {head.size}")
    return {
        **describe(&head),
        "method": part(&head, 0, head.method_size),
        "method_name": METHOD_NAMES[head.method],
        "target": part(&head, head.target, head.target_size),
        "origin": part(&head, head.origin, head.origin_size),
        "path": part(&head, head.origin, head.path_size),
        "host": part(&head, head.host, head.host_size),
    }


def parse_response(bytes data, *, method="GET", max_bytes=65472, max_fields=256, before=False):
    """As parse_request, for a response to a request of `method`."""
    cdef:
        Head head
        HeadLimits limits = make_limits(max_bytes, 0, max_fields)
        uint32_t number = METHODS[method]
        int result = plane_parse_response(&head, INPUT.place(data, before), <uint32_t>len(data), &limits, number)
    if result <= 0:
        return reason_of(result) if result else None
    if <uint32_t>result != head.size:
        raise AssertionError(f"returned {result}, noted {head.size}")
    return {**describe(&head), "status": head.status, "reason": part(&head, head.reason, head.reason_size)}


def parse_trailers(bytes data):
    """A list of (name, value, whether it may be forwarded), or a reason id."""
    cdef:
        Head head
        uint32_t i
        int result = plane_parse_trailers(&head, INPUT.place(data), <uint32_t>len(data))
    if result <= 0:
        return reason_of(result)
    return [(*field, bool(may_be_trailer(&head, i))) for i, field in enumerate(describe_fields(&head))]


cdef Head BENCH_HEAD


def parse_request_size(bytes data):
    """What a benchmark calls: the parser and nothing else. Size of the head."""
    cdef HeadLimits limits
    limits.max_bytes = 32768
    limits.max_target_bytes = 8192
    limits.max_fields = 100
    return plane_parse_request(&BENCH_HEAD, <const char*>data, <uint32_t>len(data), &limits)


def normalise_path(bytes raw):
    """The normalised path, None where it is refused. Neither read nor written past `len(raw)`."""
    cdef:
        char* out = OUTPUT.room(<size_t>len(raw))
        int size = plane_normalise_path(INPUT.place(raw), <uint32_t>len(raw), out)
    return None if size < 0 else PyBytes_FromStringAndSize(out, size)


# ---------------------------------------------------------------------------------------------------------------- client_hello
HELLO_ERRORS = {HELLO_NOT_TLS: "not_tls", HELLO_TOO_LARGE: "too_large", HELLO_MALFORMED: "malformed", HELLO_BAD_NAME: "bad_name"}


def read_client_hello(bytes data, offered=b"h2"):
    """What a message says; how many bytes are missing at least; or why it is refused. It stands in guarded memory, whose end is its own."""
    cdef:
        ClientHello hello
        uint32_t size = <uint32_t>len(data)
        int result
    memset(&hello, 0xAA, sizeof(hello))
    result = parse_client_hello(INPUT.place(data), size, &hello)
    if result > 0:
        return result
    if result != HELLO_PARSED:
        return HELLO_ERRORS[result]
    return {"size": hello.size, "version": hello.version, "server_name": hello.server_name[:hello.server_name_size],
            "alpn": hello.alpn[:hello.alpn_size] if hello.alpn != NULL else None,
            "offers": has_protocol(hello.alpn, hello.alpn_size, offered, <uint32_t>len(offered))}


# ---------------------------------------------------------------------------------------------------------------- connection_id
def find_server_id(bytes datagram, uint32_t offset, uint32_t n_bytes, bint any_form):
    """The name that stands there, or None. The datagram is guarded."""
    cdef:
        const char* start = INPUT.place(datagram)
        const char* found = plane_find_server_id(start, <size_t>len(datagram), offset, n_bytes, any_form)
    return None if found == NULL else PyBytes_FromStringAndSize(found, n_bytes)


# ---------------------------------------------------------------------------------------------------------------- proxy_protocol
PROXY_ERRORS = {PROXY_MISSING: "missing", PROXY_MALFORMED: "malformed"}
PROXY_CLIENTS = {PROXY_NOBODY: "nobody", PROXY_INTERNET: "internet", PROXY_UNIX: "unix"}
PROXY_TEXTS = {"alpn": PROXY_ALPN, "authority": PROXY_AUTHORITY, "unique_id": PROXY_UNIQUE_ID, "tls_version": PROXY_TLS_VERSION,
               "tls_cipher": PROXY_TLS_CIPHER, "name": PROXY_CLIENT_NAME}


def read_proxy_header(bytes data):
    """What a header says, as far as it says something; how many bytes are missing at least; or why it is refused. It stands in guarded memory."""
    cdef:
        ProxyHeader header
        Part part
        uint32_t fact
        int result
    memset(&header, 0xAA, sizeof(header))
    result = parse_proxy_header(INPUT.place(data), <uint32_t>len(data), &header)
    if result > 0:
        return result
    if result != PROXY_PARSED:
        return PROXY_ERRORS[result]
    said = {"size": header.size, "client": PROXY_CLIENTS[header.client]}
    if header.client == PROXY_INTERNET:
        said |= {"source": (header.source[:16], header.source_port), "destination": (header.destination[:16], header.destination_port)}
    if header.tls & PROXY_HAS_TLS:
        said["verify"] = header.verify if header.tls & PROXY_HAS_CERTIFICATE else None
    for name, fact in PROXY_TEXTS.items():
        part = header.said[fact]
        if part.at != NULL:
            said[name] = PyBytes_FromStringAndSize(<const char*>part.at, part.size)
    return said


def find_common_name(bytes subject):
    """The common name in a subject as RFC 2253 writes one; b"" where there is none."""
    cdef char name[256]
    return name[:plane_find_common_name(INPUT.place(subject), <uint32_t>len(subject), name)]


def write_proxy_header(version, *, source, destination, verify=None, check=False, room=4096, **texts):
    """A header that says this, each word as read_proxy_header has it; b"": it does not fit into `room`. Nothing is written behind that."""
    cdef:
        ProxyHeader header
        uint32_t size = room, written, fact
        char* out = OUTPUT.room(size)
    memset(&header, 0, sizeof(header))
    header.client = PROXY_INTERNET
    ip, header.source_port = source
    memcpy(header.source, <const char*><bytes>ip, 16)
    ip, header.destination_port = destination
    memcpy(header.destination, <const char*><bytes>ip, 16)
    if verify is not None:
        header.tls = PROXY_HAS_TLS | PROXY_HAS_CERTIFICATE
        header.verify = verify
    for name, text in texts.items():
        fact = PROXY_TEXTS[name]
        header.said[fact].at = <const uint8_t*><const char*><bytes>text
        header.said[fact].size = <uint32_t>len(text)
    written = plane_write_proxy_header(&header, PROXY_SENDS_LINE if version == 1 else PROXY_SENDS_BINARY | (PROXY_SENDS_CHECK_SUM if check else 0),
                                       out, size)
    return PyBytes_FromStringAndSize(out, written)


def take_numbers(frames):
    """What is said of each frame of one client: its stream, whether it is HEADERS, whether nothing follows it."""
    cdef Http2Numbers numbers
    memset(&numbers, 0, sizeof(numbers))
    return [take_number(&numbers, id, opens, finishes) for id, opens, finishes in frames]


def find_host(names, bytes host):
    """What a host leads to among (name, target) pairs; None."""
    cdef:
        bytes texts = b"".join(name for name, _ in sorted(names))
        ImageName* table = <ImageName*>calloc(len(names) + 1, sizeof(ImageName))
        uint32_t at = 0, i = 0, found
    for name, target in sorted(names):
        table[i].name.offset = at
        table[i].name.size = <uint32_t>len(name)
        table[i].target = target
        at += <uint32_t>len(name)
        i += 1
    found = plane_find_host(texts, table, i, INPUT.place(host), <uint32_t>len(host))
    free(table)
    return None if found == <uint32_t>NO_INDEX else found


# ---------------------------------------------------------------------------------------------------------------- chunked bodies
cdef class ChunkedDecoder:
    """A body fed in pieces. `state`: "running", "done" or "bad"."""
    cdef:
        ChunkDecoder decoder
        BufferPool buffers

    def __cinit__(self):
        buffer_pool_open(&self.buffers)
        chunk_decoder_open(&self.decoder)

    def __dealloc__(self):
        chunk_decoder_close(&self.decoder, &self.buffers)
        buffer_pool_close(&self.buffers)

    def feed(self, bytes piece):
        """The data in this piece, and how many of its bytes belonged to the body."""
        cdef:
            uint32_t size = <uint32_t>len(piece), run_size = 0, used
            char* data = INPUT.place(piece)
            char* run = NULL
        used = decode_chunked(&self.decoder, &self.buffers, data, size, &run, &run_size)
        if used > size or run < data or run + run_size > data + size:
            raise AssertionError(f"used {used} of {size}, run of {run_size} at {run - data}")
        return PyBytes_FromStringAndSize(run, run_size), used

    @property
    def state(self):
        return {CHUNK_DONE: "done", CHUNK_BAD: "bad"}.get(self.decoder.state, "running")

    @property
    def trailers(self):
        """Raw trailer section with its empty line, None without one."""
        cdef Buffer* held = self.decoder.trailers
        return None if held == NULL else PyBytes_FromStringAndSize(held.data + held.start, held.end - held.start)

    def close(self):
        """Gives everything back; returns how many buffers are missing."""
        chunk_decoder_close(&self.decoder, &self.buffers)
        return self.buffers.taken - self.buffers.returned


def write_chunk_header(uint32_t size):
    cdef:
        char* out = OUTPUT.room(10)
        uint32_t written = plane_write_chunk_header(out, size)
    return PyBytes_FromStringAndSize(out, written)


def write_parts(size_t room, parts):
    """Puts byte strings and numbers into `room` bytes: what was written, and whether something did not fit."""
    cdef:
        Writer writer
        bytes text
        char* start = OUTPUT.room(room)
    writer.at = start
    writer.end = start + room
    writer.overflow = False
    for item in parts:
        if type(item) is bytes:
            text = item
            put(&writer, <const char*>text, <size_t>len(text))
        else:
            put_number(&writer, <uint32_t>item)
    return PyBytes_FromStringAndSize(start, writer.at - start), bool(writer.overflow)


# ---------------------------------------------------------------------------------------------------------------- timers
cdef class Wheel:
    """A timer wheel with `n` timers, numbered from 0, under a simulated clock in milliseconds."""
    cdef:
        TimerWheel wheel
        Timer* timers
        uint32_t n
        readonly uint64_t refiled

    def __cinit__(self, uint64_t now_ms=0, uint32_t n=64):
        self.n = n
        self.timers = <Timer*>calloc(n, sizeof(Timer))
        self.wheel.fd = -1
        if self.timers == NULL or timer_wheel_open(&self.wheel, now_ms) != 0:
            raise MemoryError

    def __dealloc__(self):
        timer_wheel_close(&self.wheel)
        free(self.timers)

    cdef Timer* timer(self, uint32_t number) except NULL:
        if number >= self.n:
            raise IndexError(number)
        return &self.timers[number]

    def set(self, uint32_t number, uint64_t deadline_ms):
        set_timer(&self.wheel, self.timer(number), deadline_ms)

    def cancel(self, uint32_t number):
        cancel_timer(&self.wheel, self.timer(number))

    def take(self, uint64_t now_ms):
        """Number of one expired timer, None when there is none (left)."""
        cdef Timer* timer = take_expired(&self.wheel, now_ms, &self.refiled)
        return None if timer == NULL else timer - self.timers

    def advance(self, uint64_t now_ms):
        """Numbers of all timers that expire up to `now_ms`, in the order given."""
        expired = []
        while (number := self.take(now_ms)) is not None:
            expired.append(number)
        return expired

    def arm(self, uint64_t now_ms):
        """Arms the timerfd as the engine does at the end of a pump; when it will fire, 0 = not armed."""
        arm_wheel(&self.wheel, now_ms)
        return self.wheel.armed_ms

    def is_kernel_timer_set(self):
        cdef itimerspec value
        if timerfd_gettime(self.wheel.fd, &value) != 0:
            raise OSError(errno, os.strerror(errno))
        return bool(value.it_value.tv_sec or value.it_value.tv_nsec)

    @property
    def fd(self):
        return self.wheel.fd

    @property
    def count(self):
        return self.wheel.count

    def is_filed(self, uint32_t number):
        return self.timer(number).link != NULL


# ---------------------------------------------------------------------------------------------------------------- memory
cdef class Buffers:
    """A buffer pool. Buffers are numbered in the order of taking; None stands for the NULL buffer."""
    cdef:
        BufferPool pool
        list held

    def __cinit__(self):
        buffer_pool_open(&self.pool)
        self.held = []

    def __dealloc__(self):
        for address in self.held:
            if address is not None:
                return_buffer(&self.pool, <Buffer*><size_t>address)
        buffer_pool_close(&self.pool)

    cdef Buffer* buffer(self, number) except? NULL:
        return NULL if number is None else <Buffer*><size_t>self.held[number]

    def take(self, uint32_t room):
        cdef Buffer* buffer = take_buffer(&self.pool, room)
        if buffer == NULL:
            return None
        self.held.append(<size_t>buffer)
        return len(self.held) - 1

    def give_back(self, number):
        return_buffer(&self.pool, self.buffer(number))
        if number is not None:
            self.held[number] = None

    def append(self, number, bytes data):
        """Number of the buffer that now holds the bytes; None when there is no room in any."""
        cdef Buffer* buffer = self.buffer(number)
        cdef Buffer* old = buffer
        if not append_bytes(&self.pool, &buffer, <const char*>data, <uint32_t>len(data)):
            if buffer != old:
                raise AssertionError("a failed append changed the buffer")
            return None
        if buffer == old and number is not None:
            return number
        if number is not None:
            self.held[number] = None
        self.held.append(<size_t>buffer)
        return len(self.held) - 1

    def consume(self, number, uint32_t size):
        self.buffer(number).start += size

    def contents(self, number):
        cdef Buffer* buffer = self.buffer(number)
        return PyBytes_FromStringAndSize(buffer.data + buffer.start, buffer.end - buffer.start)

    def capacity(self, number):
        return self.buffer(number).capacity

    def address(self, number):
        return <size_t>self.buffer(number)

    def fill(self, number):
        """Writes every byte of the capacity, for the address sanitizer to see."""
        memset(self.buffer(number).data, 0x55, self.buffer(number).capacity)

    @property
    def taken(self):
        return self.pool.taken

    @property
    def returned(self):
        return self.pool.returned

    @property
    def free(self):
        """Blocks in the free lists, by class."""
        return list(self.pool.n_free)


cdef class Pipes:
    """A pipe pool with room for `capacity` pipes."""
    cdef PipePool pool

    def __cinit__(self, int32_t capacity):
        if pipe_pool_open(&self.pool, capacity) != 0:
            raise MemoryError

    def __dealloc__(self):
        pipe_pool_close(&self.pool)

    def take(self):
        cdef int32_t pipe = take_pipe(&self.pool)
        return None if pipe == NO_PIPE else pipe

    def give_back(self, int32_t pipe, uint32_t fill=0):
        """`fill`: bytes that a failed relay left inside."""
        self.pool.pipes[pipe].fill = fill
        return_pipe(&self.pool, pipe)

    def descriptors(self, int32_t pipe):
        return self.pool.pipes[pipe].read_fd, self.pool.pipes[pipe].write_fd

    @property
    def counts(self):
        return {"made": self.pool.n_made, "idle": self.pool.n_idle, "taken": self.pool.taken, "returned": self.pool.returned}


# ---------------------------------------------------------------------------------------------------------------- connections
cdef class Connections:
    """A connection table. Descriptors are made up: the table never touches them."""
    cdef ConnectionTable table

    def __cinit__(self, uint32_t max_connections):
        if connection_table_open(&self.table, max_connections) != 0:
            raise MemoryError

    def __dealloc__(self):
        connection_table_close(&self.table)

    cdef Connection* connection(self, uint32_t index) except NULL:
        if index >> 8 >= self.table.n_slabs:
            raise IndexError(index)
        return &self.table.slabs[index >> 8][index & 255]

    def open(self, int fd):
        """Index of a fresh connection, None when the table is full."""
        cdef Connection* connection = open_connection(&self.table, fd, KIND_CLIENT)
        return None if connection == NULL else connection.index

    def address(self, uint32_t index):
        return <size_t>self.connection(index)

    def handle(self, uint32_t index):
        return connection_handle(self.connection(index))

    def find(self, uint64_t handle):
        """Index of the connection of this handle, None when it is gone."""
        cdef Connection* connection = find_connection(&self.table, handle)
        return None if connection == NULL else connection.index

    def descriptor(self, uint32_t index):
        return self.connection(index).fd

    def dirty(self, uint32_t index):
        """Leaves marks that must not be seen by the next user of the slot."""
        self.connection(index).io = 0xFF
        self.connection(index).n_exchanges = 7

    def is_blank(self, uint32_t index):
        cdef Connection* connection = self.connection(index)
        return (connection.io == 0 and connection.n_exchanges == 0 and connection.exchange == NULL and connection.input == NULL
                and connection.timer.link == NULL)

    def bury(self, uint32_t index):
        bury_connection(&self.table, self.connection(index))

    def empty_graveyard(self):
        empty_graveyard(&self.table)

    @property
    def n_open(self):
        return self.table.n_open


cdef class ConnectionQueue:
    """`n` blank connections, numbered from 0, with one idle cache and one ready list to stand in."""
    cdef:
        Connection* connections
        uint32_t n
        Engine* engine
        Backend backend

    def __cinit__(self, uint32_t n=16):
        self.n = n
        self.connections = <Connection*>calloc(n, sizeof(Connection))
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        memset(&self.backend, 0, sizeof(Backend))
        if self.connections == NULL or self.engine == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.connections)
        free(self.engine)

    cdef Connection* connection(self, uint32_t number) except NULL:
        if number >= self.n:
            raise IndexError(number)
        return &self.connections[number]

    cdef object number(self, Connection* connection):
        return None if connection == NULL else connection - self.connections

    def cache_put(self, uint32_t number):
        cache_put(&self.backend.idle, self.connection(number))

    def cache_remove(self, uint32_t number):
        cache_remove(&self.backend.idle, self.connection(number))

    def cache_take(self):
        return self.number(cache_take(&self.backend.idle))

    @property
    def cached(self):
        """Numbers in the idle cache, the newest first; checked from both ends and against the count."""
        cdef Connection* connection = self.backend.idle.newest
        forward, backward = [], []
        while connection != NULL:
            forward.append(self.number(connection))
            connection = connection.cache_next
        connection = self.backend.idle.oldest
        while connection != NULL:
            backward.append(self.number(connection))
            connection = connection.cache_previous
        if forward != backward[::-1] or len(forward) != self.backend.idle.count:
            raise AssertionError(f"{forward} from the newest, {backward} from the oldest, {self.backend.idle.count} counted")
        return forward

    def list_ready(self, uint32_t number):
        list_ready(self.engine, self.connection(number))

    def unlist_ready(self, uint32_t number):
        unlist_ready(self.engine, self.connection(number))

    def take_ready(self):
        return self.number(take_ready(self.engine))

    @property
    def ready(self):
        """Numbers on the ready list, in order; checked against its tail."""
        cdef:
            Connection* connection = self.engine.ready_head
            Connection* last = NULL
        numbers = []
        while connection != NULL:
            numbers.append(self.number(connection))
            last = connection
            connection = connection.ready_next
        if last != self.engine.ready_tail:
            raise AssertionError("the tail is not the last of the list")
        return numbers


# ---------------------------------------------------------------------------------------------------------------- backends
cdef class Backends:
    """The table of running rows of one worker. A row is named by its address in memory."""
    cdef:
        BackendTable table
        SharedTable shared

    def __cinit__(self):
        if create_shared(&self.shared, b"probe") != 0 or not open_worker(&self.shared, 0, 1) \
                or backend_table_open(&self.table, &self.shared, 0) != 0:
            raise MemoryError

    def __dealloc__(self):
        backend_table_close(&self.table)
        close_shared(&self.shared)

    def hold(self, bytes identity, *, known=True):
        """`known`: the controller has made a row for it. KeyError: it has not, nor before."""
        cdef:
            Backend* backend
            int error = 0
        if known and add_row(&self.shared, <const char*>identity, <uint32_t>len(identity), b"", 0, 0) != 0:
            raise MemoryError
        backend = hold_backend(&self.table, <const char*>identity, <uint32_t>len(identity), &error)
        if backend == NULL:
            raise KeyError(identity) if error == NO_SHARED_ROW else MemoryError()
        return <size_t>backend

    def is_held(self, bytes identity):
        """Whether other processes see that this worker holds a row."""
        return bool(column_at(&self.shared, find_row(&self.shared, identity, <uint32_t>len(identity)), 0).held)

    def drop(self, size_t row):
        drop_backend(&self.table, <Backend*>row)

    def identity(self, size_t row):
        return PyBytes_FromStringAndSize((<Backend*>row).identity, (<Backend*>row).identity_size)

    @property
    def count(self):
        return self.table.count


FAULT_POINTS = {"claim_named": FAULT_CLAIM_NAMED, "claim_added": FAULT_CLAIM_ADDED, "claim_noted": FAULT_CLAIM_NOTED,
                "release_named": FAULT_RELEASE_NAMED, "release_taken": FAULT_RELEASE_TAKEN, "release_noted": FAULT_RELEASE_NOTED,
                "settle_marked": FAULT_SETTLE_MARKED, "settle_corrected": FAULT_SETTLE_CORRECTED,
                "settle_balanced": FAULT_SETTLE_BALANCED, "settle_counted": FAULT_SETTLE_COUNTED}
SHARED_OFFSETS = {"meters": METERS_AT, "worker_meters_bytes": WORKER_METERS_BYTES, "workers": WORKERS_AT, "worker_bytes": WORKER_BYTES, "index": INDEX_AT, "blocks": BLOCKS_AT, "row_bytes": ROW_BYTES,
                  "details": DETAILS_AT, "details_bytes": DETAILS_BYTES,
                  "columns": COLUMNS_AT, "worker_columns_bytes": WORKER_COLUMNS_BYTES, "block_bytes": BLOCK_BYTES}


cdef class SharedWorker:
    """One worker's side of shared memory, without an engine: its slot is open already. Rows are named by their numbers, 0 is the node's."""
    cdef:
        SharedTable table
        WorkerBlock* worker
        uint32_t slot

    def __cinit__(self, int fd, uint32_t slot):
        self.table.fd = -1
        if slot >= MAX_WORKERS:
            raise ValueError("no such slot")
        error = map_shared(&self.table, fd)
        if error:
            raise OSError(error, "map_shared")
        self.worker = worker_at(&self.table, slot)
        self.slot = slot

    def __dealloc__(self):
        close_shared(&self.table)

    cdef SharedRow* row(self, uint32_t number) except NULL:
        cdef SharedRow* row = row_at(&self.table, number)
        if row == NULL:
            raise IndexError(number)
        return row

    def set_fault_point(self, str point, uint32_t after):
        """Ends this process at the `after`th pass of the point, a key of FAULT_POINTS."""
        self.table.fault_point = FAULT_POINTS[point]
        self.table.fault_after = after

    def find(self, bytes identity):
        """Number of the row, 0 = none."""
        return find_row(&self.table, identity, <uint32_t>len(identity))

    def hold(self, bytes identity):
        return hold_row(&self.table, self.slot, identity, <uint32_t>len(identity))

    def let_go(self, uint32_t number):
        self.row(number)
        column_at(&self.table, number, self.slot).held = 0

    def address(self, uint32_t number):
        """Where the row lies in this process."""
        return <size_t>self.row(number)

    def in_flight(self, uint32_t number):
        return self.row(number).in_flight

    def claims(self, uint32_t number):
        """Claims and releases of this worker on the row."""
        self.row(number)
        return column_at(&self.table, number, self.slot).claims, column_at(&self.table, number, self.slot).releases

    def claim(self, uint32_t number, uint32_t cap=0):
        return bool(claim_row(&self.table, self.worker, self.row(number), column_at(&self.table, number, self.slot), number, cap))

    def release(self, uint32_t number):
        release_row(&self.table, self.worker, self.row(number), column_at(&self.table, number, self.slot), number)

    def claim_and_release(self, uint32_t number, uint32_t times):
        """What a benchmark calls."""
        cdef:
            SharedRow* row = self.row(number)
            Column* column = column_at(&self.table, number, self.slot)
            uint32_t _i
        with nogil:
            for _i in range(times):
                claim_row(&self.table, self.worker, row, column, number, 1000)
                release_row(&self.table, self.worker, row, column, number)

    def hammer(self, uint64_t seed, uint32_t n_rows, uint32_t cap, unsigned int[::1] stop, unsigned int[::1] open_claims):
        """Claims and releases on the rows 1 to `n_rows` in an order that follows from `seed`, until stop[0] is set, or this process is
        ended. In `open_claims`, per row, what is claimed then. False, at once: a row was above its cap."""
        cdef:
            uint32_t number
            uint64_t bits = seed * 2 + 1
            volatile unsigned int* stopped = &stop[0]
            SharedRow* row
            Column* column
        if len(open_claims) <= n_rows:
            raise ValueError("no room for the open claims")
        self.row(n_rows)
        with nogil:
            while not stopped[0]:
                bits ^= bits << 13              # xorshift64
                bits ^= bits >> 7
                bits ^= bits << 17
                number = 1 + <uint32_t>(bits >> 33) % n_rows
                row = row_at(&self.table, number)
                column = column_at(&self.table, number, self.slot)
                if bits & 1:
                    if claim_row(&self.table, self.worker, row, column, number, cap):
                        open_claims[number] += 1
                elif open_claims[number]:
                    release_row(&self.table, self.worker, row, column, number)
                    open_claims[number] -= 1
                if row.in_flight > <int64_t>cap:
                    with gil:
                        return False
        return True

    def settle(self, uint32_t slot):
        """Whether this slot's worker is settled now."""
        return bool(settle_worker(&self.table, slot).settled)


def crc32_of(bytes data, uint32_t before=0):
    return crc32(before, INPUT.place(data), <size_t>len(data))


def crc32_of_joined(uint32_t first, uint32_t second, uint64_t second_size):
    return crc32_joined(first, second, second_size)


def xxh64(bytes data, uint64_t seed=0):
    return hash_bytes(INPUT.place(data), <size_t>len(data), seed)


def note_latency_samples(samples, *, bint peak):
    """The average after each of the samples, pairs of microseconds and the time in milliseconds; as it was written, and as it counts then."""
    cdef SharedRow row
    memset(&row, 0, sizeof(row))
    averages = []
    for micros, now_ms in samples:
        note_row_latency(&row, micros, now_ms, peak)
        averages.append((row.latency >> 32, age_latency(row.latency, now_ms)))
    return averages


def aged_latency(uint64_t micros, uint64_t measured_ms, uint64_t now_ms):
    return age_latency(pack_latency(micros, measured_ms), now_ms)


def fill_maglev(offsets, skips, weights, uint32_t n_slots):
    """Maglev's table from given permutations."""
    numbers = array.array("I", [*offsets, *skips, *weights])
    slots = array.array("H", [0] * n_slots)
    cdef:
        uint32_t[::1] given = numbers
        uint16_t[::1] filled = slots
        uint32_t n = <uint32_t>len(weights)
    if plane_fill_maglev(&given[0], &given[n], &given[2 * n], n, n_slots, &filled[0]) != 0:
        raise MemoryError
    return list(slots)


cdef int32_t pick_from(PoolStruct* pool, uint64_t key, tried) except? -1:
    cdef:
        int32_t numbers[MAX_TRIED]
        uint32_t n = 0
    if len(tried) > MAX_TRIED:
        raise ValueError(f"an exchange remembers {MAX_TRIED} tried backends")
    for number in tried:
        numbers[n] = number
        n += 1
    return pick(pool, key, numbers, n)


cdef class Pool:
    """A pool as a worker has it, from an image of the real writer: all backends eligible, without a cap and without a request in flight.

    Args:
        algorithm: a key of ALGORITHMS.
        backends: how many, each of weight 1; or their weights. They are called "127.0.0.1:8001" and so on in tables.
        groups: how many are in each priority group; None = all in one.
        names: what tables call them instead.
        settings: further arguments of SnapshotWriter.add_pool.
    """
    cdef:
        PoolStruct* pool
        Engine* engine
        SharedTable shared
        uint64_t last_key
        readonly list identities

    def __cinit__(self, str algorithm, backends, *, groups=None, names=None, **settings):
        cdef:
            int error = 0, fd
            size_t size = 0
            const char* image
        weights = [1] * backends if isinstance(backends, int) else list(backends)
        names = names or [f"127.0.0.1:{8001 + number}" for number in range(len(weights))]
        writer = SnapshotWriter(1)
        settings = {**POOL_SETTINGS, **settings}
        number = writer.add_pool("p", algorithm=algorithm, **settings)
        starts = set() if groups is None else {sum(groups[:i]) for i in range(len(groups))}
        self.identities = []
        for at, (weight, name) in enumerate(zip(weights, names, strict=True)):
            if at in starts:
                writer.begin_group(number)
            self.identities.append(f"p|{at}")
            writer.add_backend(number, identity=f"p|{at}", display=name, address=b"x" * 16, weight=weight, max_in_flight=0)
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        if self.engine == NULL or create_shared(&self.shared, b"probe") != 0 or not open_worker(&self.shared, 0, 1) \
                or backend_table_open(&self.engine.backends, &self.shared, 0) != 0:
            raise MemoryError
        self.engine.shared = &self.shared
        self.engine.worker = worker_at(&self.shared, 0)
        self.engine.counters = &self.engine.worker.counters
        self.engine.random[0] = 1
        self.engine.now_ms = 1000
        fd = writer.finish()
        image = map_image(fd, &size, &error)
        os.close(fd)
        if image == NULL:
            raise ValueError("a damaged image")
        if add_image_rows(&self.shared, image, 0) == 0:
            self.engine.snapshot = load_snapshot(self.engine, image, size, NULL, NULL, &error)
        if self.engine.snapshot == NULL:
            raise MemoryError
        self.pool = &self.engine.snapshot.pools[0]

    def __dealloc__(self):
        if self.engine != NULL:
            if self.engine.snapshot != NULL:
                drop_snapshot(self.engine, self.engine.snapshot)
            backend_table_close(&self.engine.backends)
            close_shared(&self.shared)
            free(self.engine)

    cdef PoolBackend* entry(self, uint32_t number) except NULL:
        if number >= self.pool.n_backends:
            raise IndexError(number)
        return &self.pool.backends[number]

    def claim_and_release(self, uint32_t number, uint32_t times):
        """As attempts do, with the look at the queue of a pool that has one."""
        cdef:
            uint32_t _i
            PoolBackend* entry = self.entry(number)
        set_queue(&self.engine.backends, entry.row, self.pool.queue)
        with nogil:
            for _i in range(times):
                claim(self.engine, entry.row, entry.max_in_flight)
                release_claim(self.engine, entry.row)

    def configure(self, uint32_t number, *, weight=None, in_flight=None, max_in_flight=None, eligible=None, latency=None, up_since=None):
        """Changes what a pick looks at. A weight: for algorithms without tables. `latency` in microseconds, measured now."""
        cdef:
            PoolBackend* entry = self.entry(number)
            Group* group = &self.pool.groups[0]
            uint32_t i
        if weight is not None:
            entry.weight = weight
            group.max_weight = max(group.backends[i].weight for i in range(group.n_backends))
        if in_flight is not None:
            entry.shared.in_flight = in_flight
        if max_in_flight is not None:
            entry.max_in_flight = max_in_flight
        if eligible is not None:
            entry.eligible = eligible
            self.shared.header.state_changes += 1
        if latency is not None:
            entry.shared.latency = pack_latency(latency, self.engine.now_ms)
        if up_since is not None:
            entry.shared.up_since_ms = up_since

    def set_state(self, uint32_t number, uint32_t state):
        """As the controller does it, and the workers "ejected"."""
        cdef bytes identity = self.identities[number].encode()
        cdef SharedRow* row = self.entry(number).shared
        row.state = row.state & ROW_CONTROLLED | state & ROW_EJECTED
        if not set_state(&self.shared, <const char*>identity, <uint32_t>len(identity), state & ROW_CONTROLLED, self.engine.now_ms):
            raise KeyError(number)
        self.shared.header.state_changes += 1

    @property
    def now_ms(self):
        return self.engine.now_ms

    @now_ms.setter
    def now_ms(self, uint64_t value):
        self.engine.now_ms = value

    def seed(self, uint64_t value):
        self.pool.random = value

    def key(self, bytes text):
        """What the pool's algorithm gets for these bytes. They are guarded."""
        return hash_key(self.pool.algorithm, INPUT.place(text), <uint32_t>len(text))

    def pick(self, tried=(), *, uint64_t key=0):
        """Number of the chosen backend, None when there is none."""
        cdef int32_t number = pick_from(self.pool, key, tried)
        return None if number == NO_BACKEND else number

    def picks(self, uint32_t n, keys=None):
        """How often each backend is picked in `n` picks, or for each of the keys (an array of "Q"), with nothing claimed; and last how often
        none was."""
        cdef:
            uint64_t[::1] given = keys
            uint32_t i
            int32_t number
            counts = [0] * (self.pool.n_backends + 1)
        if keys is not None:
            n = <uint32_t>len(keys)
        for i in range(n):
            number = pick(self.pool, given[i] if keys is not None else 0, NULL, 0)
            counts[number] += 1                 # NO_BACKEND is -1: the last
        return counts

    def ring(self):
        """The points, as (hash, backend), of the first group."""
        cdef Group* group = &self.pool.groups[0]
        return [(group.ring[i].hash, group.ring[i].backend) for i in range(group.n_ring)]

    def slots(self):
        """Maglev's, of the first group."""
        cdef Group* group = &self.pool.groups[0]
        return [group.slots[i] for i in range(group.n_slots)]

    def aliases(self):
        """(threshold, other) of the first group; None where it needs no table."""
        cdef Group* group = &self.pool.groups[0]
        return None if group.aliases == NULL else [(group.aliases[i].threshold, group.aliases[i].other) for i in range(group.n_backends)]

    def keys(self, texts):
        """What the pool's algorithm gets for each of the texts (bytes), as an array for picks() and pick_each()."""
        return array.array("Q", [self.key(text) for text in texts])

    def pick_each(self, uint64_t[::1] keys):
        """The backend of each key."""
        cdef Py_ssize_t i
        return [pick(self.pool, keys[i], NULL, 0) for i in range(len(keys))]

    def time_picks(self, uint32_t n):
        """Nanoseconds of one pick, over `n` of them with a claim held for the last 64, in a C loop; a key each, spread over all of 64 bits."""
        cdef:
            timespec before, after
            uint32_t i
            int32_t number
            int32_t held[64]
        for i in range(64):
            held[i] = NO_BACKEND
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &before)
            for i in range(n):
                self.last_key += <uint64_t>0x9E3779B97F4A7C15   # no key comes a second time, so tables are not in the cache for it
                number = pick(self.pool, mix(self.last_key), NULL, 0)
                if held[i & 63] != NO_BACKEND:
                    add_count(&self.pool.backends[held[i & 63]].shared.in_flight, -1)
                held[i & 63] = number
                if number != NO_BACKEND:
                    add_count(&self.pool.backends[number].shared.in_flight, 1)
            clock_gettime(CLOCK_MONOTONIC, &after)
        for i in range(64):
            if held[i] != NO_BACKEND:
                add_count(&self.pool.backends[held[i]].shared.in_flight, -1)
        return ((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) / n

    def claim(self, uint32_t number):
        return bool(claim(self.engine, self.entry(number).row, self.entry(number).max_in_flight))

    def release(self, uint32_t number):
        release_claim(self.engine, self.entry(number).row)

    def in_flight(self, uint32_t number):
        return self.entry(number).shared.in_flight

    def requests(self, uint32_t number):
        return self.entry(number).row.column.claims

    @property
    def claims(self):
        return self.engine.counters.claims_taken, self.engine.counters.claims_returned

    @property
    def cursor(self):
        return self.pool.groups[0].cursor

    @cursor.setter
    def cursor(self, uint32_t value):
        self.pool.groups[0].cursor = value


def bucket_of(uint64_t us):
    """The bucket of a histogram that a time of so many microseconds falls in."""
    return plane_bucket_of(us)


cdef class MeteredExchange:
    """One exchange that is counted again and again, of a listener, a route, a pool and a backend."""
    cdef:
        Engine* engine
        MeterDetails* details
        Exchange* exchange
        Attempt attempt
        Connection client, connection
        Listener listener
        Backend backend
        BackendMeter backend_meter
        Buffer head

    def __cinit__(self):
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        self.exchange = <Exchange*>calloc(1, sizeof(Exchange))
        if self.engine != NULL:
            self.engine.meters = <Meter*>calloc(4, sizeof(Meter))
            self.engine.meter_details = self.details = <MeterDetails*>calloc(4, sizeof(MeterDetails))
        if self.exchange == NULL or self.engine == NULL or self.engine.meters == NULL or self.details == NULL:
            raise MemoryError
        self.listener.meter = 1
        self.client.kind = KIND_CLIENT
        self.client.listener = &self.listener
        self.client.exchange = self.exchange
        self.backend.meter = &self.backend_meter
        self.attempt.backend = &self.backend
        self.connection.backend = &self.backend
        self.head.end = 100
        self.exchange.client = &self.client
        self.exchange.request_head = &self.head
        self.exchange.status = 200
        self.exchange.flags = X_HEAD_SENT

    def __dealloc__(self):
        if self.engine != NULL:
            free(self.engine.meters)
            free(self.details)
        free(self.engine)
        free(self.exchange)

    def count(self, uint32_t rounds):
        """What metrics add to `rounds` requests over a reused connection, with both readings of the clock."""
        cdef uint32_t _i
        with nogil:
            for _i in range(rounds):
                self.engine.clock_us = 0
                plane_count_client_in(self.engine, &self.client, 100)
                self.exchange.began_us = plane_now_us(self.engine)
                plane_enter_route_meter(self.engine, self.exchange, 2)
                plane_enter_pool_meter(self.engine, self.exchange, 3, self.exchange.request_head.end)
                self.attempt.began_us = plane_now_us(self.engine)
                plane_count_reuse(self.engine, self.exchange, &self.backend)
                self.backend.meter.bytes_out += 100
                self.engine.clock_us = 0
                self.backend.meter.bytes_in += 100
                plane_note_response_head(self.engine, self.exchange, &self.attempt, 200)
                plane_count_client_out(self.engine, self.exchange, 100)
                plane_end_meters(self.engine, self.exchange)
        return self.engine.meters[3].statuses[2]


def is_stale_reuse(reason, *, reused=False, answered=False):
    cdef Attempt attempt
    memset(&attempt, 0, sizeof(attempt))
    attempt.reused = reused
    attempt.state = ATTEMPT_ANSWERED if answered else ATTEMPT_SENT
    return bool(plane_is_stale_reuse(&attempt, FAILURE_NUMBERS[reason]))


def end_condition(reason, *, answered=False, sent=1):
    """The RetryOn of an end."""
    cdef:
        Exchange exchange
        Attempt attempt
    memset(&exchange, 0, sizeof(exchange))
    memset(&attempt, 0, sizeof(attempt))
    attempt.state = ATTEMPT_ANSWERED if answered else ATTEMPT_SENT if sent else ATTEMPT_CONNECTING
    return plane_end_condition(&exchange, &attempt, FAILURE_NUMBERS[reason])


def status_condition(uint32_t status):
    return plane_status_condition(status)


def may_retry(condition, *, retry_on=RETRY_BITS & ~RETRY_UNSAFE, unsafe=False, head_sent=False, routed=True, replayable=True,
              idempotent=True, sent=0, sending=False, n_attempts=1, max_attempts=3, waited_ms=0, within_ms=10000, share=0.2, floor=10):
    """Whether another backend may be asked after this RetryOn, of a pool that is new, and how many were refused by its budget.

    `sent`: request bytes a socket took, the first of them at once, or (`sending`) only when it had room; `routed`: the exchange still
    holds its snapshot."""
    cdef:
        Engine engine
        Counters counters
        Exchange exchange
        Attempt attempt
        Connection connection
        Snapshot snapshot
        PoolStruct pool
        ImagePool image
    memset(&engine, 0, sizeof(engine))
    memset(&counters, 0, sizeof(counters))
    memset(&exchange, 0, sizeof(exchange))
    memset(&attempt, 0, sizeof(attempt))
    memset(&connection, 0, sizeof(connection))
    memset(&snapshot, 0, sizeof(snapshot))
    memset(&pool, 0, sizeof(pool))
    memset(&image, 0, sizeof(image))
    engine.counters = &counters
    engine.now_ms = 100000 + <uint64_t>waited_ms
    image.retry_on = retry_on | (RETRY_UNSAFE if unsafe else 0)
    image.retry_within_ms = within_ms
    image.retry_share_ppm = round(share * 1000000)
    image.retry_floor = floor
    pool.image = &image
    plane_open_budget(&pool.budget, image.retry_floor, engine.now_ms)
    exchange.snapshot = &snapshot if routed else NULL
    exchange.pool = &pool
    exchange.started_ms = 100000
    exchange.flags = (X_HEAD_SENT if head_sent else 0) | (X_REPLAYABLE if replayable else 0) | (X_IDEMPOTENT if idempotent else 0)
    exchange.n_attempts = n_attempts
    exchange.max_attempts = max_attempts
    attempt.connection = &connection
    exchange.up.sent = sent
    exchange.up.sink = &connection
    attempt.state = ATTEMPT_SENT if sent and not sending else ATTEMPT_CONNECTING
    return bool(plane_may_retry(&engine, &exchange, &attempt, condition)), counters.retries_refused


cdef class Budget:
    """A retry budget, and the exchanges of its pool."""
    cdef:
        RetryBudget budget
        readonly uint64_t n_exchanges
        uint32_t share_ppm, floor

    def __init__(self, uint64_t now_ms, uint32_t share_ppm, uint32_t floor):
        self.share_ppm = share_ppm
        self.floor = floor
        plane_open_budget(&self.budget, floor, now_ms)

    def count(self, uint64_t n):
        self.n_exchanges += n

    def spend(self, uint64_t now_ms):
        plane_fill_budget(&self.budget, self.n_exchanges, self.share_ppm, self.floor, now_ms)
        return bool(plane_spend_retry(&self.budget))

    @property
    def tokens(self):
        return self.budget.tokens


# ---------------------------------------------------------------------------------------------------------------- logs
def check_log_plan(bytes plan):
    """Whether these bytes pass as a log plan. They end at most 7 bytes before the guard page."""
    cdef char* where = INPUT.room((<size_t>len(plan) + 7) // 8 * 8)
    memcpy(where, <const char*>plan, <size_t>len(plan))
    return bool(plane_check_log_plan(where, <size_t>len(plan)))


cdef class LogRing:
    """A log writer: its thread runs (`start`), or `write` does by hand what the thread would do."""
    cdef LogWriter* writer
    cdef public bint started

    def __cinit__(self, uint32_t ring_bytes=131072, bint start=False):
        self.writer = log_writer_open(ring_bytes)
        if self.writer == NULL or (start and not log_writer_start(self.writer)):
            raise MemoryError
        self.started = start

    def __dealloc__(self):
        self.close(0)

    def close(self, uint32_t patience_ms=1000):
        """Lines written and lost, and bytes written, at the end; None when it is closed already."""
        cdef uint64_t written = 0, lost = 0, n_bytes = 0
        if self.writer == NULL:
            return None
        with nogil:
            log_writer_close(self.writer, patience_ms, &written, &lost, &n_bytes)
        self.writer = NULL
        return written, lost, n_bytes

    def hold(self, bytes identity, kind="file"):
        """The slot of a destination; None when there is none left."""
        cdef int slot = hold_slot(self.writer, <const char*>identity, <uint32_t>len(identity), LOG_DESTINATION_KINDS[kind])
        return None if slot < 0 else slot

    def drop(self, uint32_t slot):
        drop_slot(self.writer, slot)

    def hand_over(self, uint32_t slot, int fd):
        """Gives a copy of this descriptor."""
        hand_over(self.writer, slot, os.dup(fd))

    def put(self, uint32_t slot, bytes line):
        return bool(put_line(self.writer, slot, <const char*>line, <uint32_t>len(line)))

    def wake(self):
        wake_log_writer(self.writer)

    def write(self):
        """One turn of the thread. False: the ring is empty."""
        if self.started:
            raise ValueError("the thread does that")
        return bool(write_some(self.writer))

    def move_to(self, uint64_t position):
        """As if this many bytes had passed through."""
        self.writer.head = self.writer.tail = self.writer.woken_head = position
        self.writer.free_until = position + self.writer.mask + 1

    def descriptor(self, uint32_t slot):
        """What the slot writes to; -1 = nothing."""
        return self.writer.slots[slot].fd

    @property
    def counts(self):
        """Lines written and lost, bytes written."""
        return self.writer.lines_written, self.writer.lines_lost, self.writer.bytes_written


# ---------------------------------------------------------------------------------------------------------------- snapshots
def check_image(bytes image):
    """Whether these bytes pass as a snapshot image. They end at most 7 bytes before the guard page."""
    cdef:
        size_t room = (<size_t>len(image) + 7) // 8 * 8
        char* where = INPUT.room(room)
    memcpy(where, <const char*>image, <size_t>len(image))
    return plane_check_image(where, <size_t>len(image)) == 0


def host_hash(bytes name):
    return hash_host(<const char*>name, <uint32_t>len(name))


cdef class Plane:
    """An engine that runs a snapshot (a descriptor from SnapshotWriter.finish) without any socket. ValueError: damaged image.

    It reads a copy of the image that ends at an unmapped page, or up to 7 bytes before it where the size is no multiple of 8.
    """
    cdef:
        Engine* engine
        SharedTable shared
        const char* mapping             # what map_image mapped and drop_snapshot unmaps
        Listener listener               # of every client
        GuardedMemory copy

    def __cinit__(self, int image_fd):
        cdef:
            int error = 0
            size_t size = 0
            const char* image
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        if self.engine == NULL:
            raise MemoryError
        error = create_shared(&self.shared, b"probe")
        if not error:
            open_worker(&self.shared, 0, 1)
            error = engine_open(self.engine, 16, 256, 0, &self.shared, 0, -1)
        if error:
            free(self.engine)
            self.engine = NULL
            raise OSError(error, os.strerror(error))
        image = map_image(image_fd, &size, &error)
        if image == NULL:
            if error:
                raise OSError(error, os.strerror(error))
            raise ValueError("a damaged image")
        if add_image_rows(&self.shared, image, 0) == 0:
            self.engine.snapshot = load_snapshot(self.engine, image, size, NULL, NULL, &error)
        if self.engine.snapshot == NULL:
            raise MemoryError
        self.copy = GuardedMemory(size)
        self.mapping = self.engine.snapshot.image
        self.read_from(self.copy.room((size + 7) // 8 * 8))

    cdef int read_from(self, char* image) except -1:
        cdef:
            Snapshot* snapshot = self.engine.snapshot
            uint32_t i
        memcpy(image, self.mapping, snapshot.image_size)
        for i in range(snapshot.n_pools):
            snapshot.pools[i].image = <const ImagePool*>(image + (<const char*>snapshot.pools[i].image - self.mapping))
        snapshot.image = image
        snapshot.header = <const ImageHeader*>image
        return 0

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        if self.engine != NULL:
            if self.mapping != NULL:
                self.engine.snapshot.image = self.mapping
                self.engine.snapshot.header = <const ImageHeader*>self.mapping
            engine_close(self.engine)
            close_shared(&self.shared)
            free(self.engine)
            self.engine = NULL

    def set_clock(self, uint64_t wall_ms):
        """Wall-clock time in milliseconds since 1970, for the Date field."""
        self.engine.wall_offset_ms = wall_ms - self.engine.now_ms

    def find_route(self, bytes host, bytes path):
        """Number of the pool, None = no route. Host and path are guarded."""
        cdef:
            Head head
            Exchange exchange
            Connection client
            uint32_t failure
        memset(&head, 0, sizeof(head))
        head.data = INPUT.place(host)
        head.host_size = <uint32_t>len(host)
        self.fill(&exchange, &client, b"192.0.2.7", 0)
        failure = find_route(self.engine, &exchange, &head, OUTPUT.place(path), <uint32_t>len(path))
        if failure != FAILURE_NO_ROUTE:
            return self.matched(failure)
        return None

    def route(self, bytes head, *, bytes client=b"192.0.2.7", uint32_t host_set=0):
        """Number of the pool that this request is for, or the reason id of its answer. The head is guarded."""
        return self.matched(self.search(head, client, host_set))

    def groups(self, bytes head):
        """What the groups of the regular expression that decided about this request hold, None for one that took no part."""
        cdef Match* match = &self.engine.match
        if self.search(head, b"192.0.2.7", 0):
            raise AssertionError("no route")
        return [None if match.groups[2 * i] == <uint32_t>NO_INDEX
                else PyBytes_FromStringAndSize(match.path + match.groups[2 * i], match.groups[2 * i + 1] - match.groups[2 * i])
                for i in range(match.n_groups)]

    def time_paths(self, bytes host, list paths, uint32_t rounds):
        """Nanoseconds of one find_route, over `rounds` of all these paths one after the other, in a C loop."""
        cdef:
            bytes together = host + b"".join(paths)
            const char* text = together
            uint32_t n = <uint32_t>len(paths), i, _k, failure = 0, at
            uint32_t* sizes = <uint32_t*>calloc(n, sizeof(uint32_t))
            Head head
            Exchange exchange
            Connection client
            timespec before, after
        if sizes == NULL:
            raise MemoryError
        for i in range(n):
            sizes[i] = <uint32_t>len(paths[i])
        memset(&head, 0, sizeof(head))
        head.data = text
        head.host_size = <uint32_t>len(host)
        self.fill(&exchange, &client, b"192.0.2.7", 0)
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &before)
            for _k in range(rounds):
                at = head.host_size
                for i in range(n):
                    failure |= find_route(self.engine, &exchange, &head, text + at, sizes[i])
                    at += sizes[i]
            clock_gettime(CLOCK_MONOTONIC, &after)
        free(sizes)
        if failure:
            raise AssertionError("a path has no route")
        return ((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) / (rounds * n)

    def time_head(self, bytes head, uint32_t n):
        """Nanoseconds of one find_route for this head, over `n` of them in a C loop. No guard page stands behind it: memcmp would be slow there."""
        cdef:
            Head parsed
            HeadLimits limits = make_limits(65472, 65472, 256)
            Exchange exchange
            Connection client
            timespec before, after
            uint32_t _i, failure = 0
        if plane_parse_request(&parsed, INPUT.place(head, before=True), <uint32_t>len(head), &limits) != len(head):
            raise ValueError("not one whole request head")
        self.fill(&exchange, &client, b"192.0.2.7", 0)
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &before)
            for _i in range(n):
                failure |= find_route(self.engine, &exchange, &parsed, parsed.data + parsed.origin, parsed.path_size)
            clock_gettime(CLOCK_MONOTONIC, &after)
        if failure:
            raise AssertionError("no route")
        return ((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) / n

    cdef object matched(self, uint32_t failure):
        if failure:
            return failures[failure].id.decode()
        return (<const ImageRoute*>(self.engine.snapshot.image + self.engine.snapshot.header.routes.offset))[self.engine.match.route].pool

    cdef uint32_t search(self, bytes head, bytes client, uint32_t host_set) except 0xFFFFFFFF:
        cdef:
            Head parsed
            HeadLimits limits = make_limits(65472, 65472, 256)
            Exchange exchange
            Connection connection
            const char* path
            int size
        if plane_parse_request(&parsed, INPUT.place(head), <uint32_t>len(head), &limits) != len(head):
            raise ValueError("not one whole request head")
        self.fill(&exchange, &connection, client, 0)
        self.listener.host_set = host_set
        path, size = parsed.data + parsed.origin, <int>parsed.path_size
        if not parsed.flags & HEAD_PATH_IS_RAW:
            size = plane_normalise_path(path, parsed.path_size, self.engine.path)
            path = self.engine.path
            if size < 0:
                raise ValueError("not a path")
        return find_route(self.engine, &exchange, &parsed, path, <uint32_t>size)

    def pools(self):
        """Of each pool: algorithm number and its backends as (identity, weight, max_in_flight, eligible)."""
        cdef:
            uint32_t i, k
            PoolBackend* entry
        pools = []
        for i in range(self.engine.snapshot.n_pools):
            backends = []
            for k in range(self.engine.snapshot.pools[i].n_backends):
                entry = &self.engine.snapshot.pools[i].backends[k]
                backends.append((PyBytes_FromStringAndSize(entry.row.identity, entry.row.identity_size), entry.weight, entry.max_in_flight,
                                 bool(entry.eligible)))
            pools.append((self.engine.snapshot.pools[i].algorithm, backends))
        return pools

    def pick(self, uint32_t pool, tried=(), *, uint64_t key=0):
        if pool >= self.engine.snapshot.n_pools:
            raise IndexError(pool)
        cdef int32_t number = pick_from(&self.engine.snapshot.pools[pool], key, tried)
        return None if number == NO_BACKEND else number

    def is_trusted(self, bytes address):
        """Whether a client at this address (text, as the engine keeps it) is believed."""
        cdef:
            Exchange exchange
            Connection client
        self.fill(&exchange, &client, address, 0)
        return bool(is_trusted(self.engine, &exchange))

    cdef int fill(self, Exchange* exchange, Connection* client, bytes address, uint32_t route) except -1:
        # An exchange on this route of the image, if it has any.
        if len(address) >= sizeof(client.peer.address):
            raise ValueError("an address text is at most 45 bytes")
        memset(exchange, 0, sizeof(Exchange))
        memset(client, 0, sizeof(Connection))
        memcpy(client.peer.address, <const char*>address, <size_t>len(address))
        client.address_size = <uint8_t>len(address)
        client.peer_port = 4711
        if inet_pton(AF_INET, client.peer.address, client.peer.ip + 12) == 1:
            client.peer.ip[10] = client.peer.ip[11] = 0xFF
            client.peer.ip_version = 4
        elif inet_pton(AF_INET6, client.peer.address, client.peer.ip) == 1:
            client.peer.ip_version = 6
        self.listener.host_set = 0
        memcpy(self.listener.name, b"web", 3)
        self.listener.name_size = 3
        client.listener = &self.listener
        exchange.snapshot = self.engine.snapshot
        exchange.client = client
        if self.engine.snapshot.header.routes.count:
            if route >= self.engine.snapshot.header.routes.count:
                raise IndexError(route)
            exchange.route = <const ImageRoute*>(self.engine.snapshot.image + self.engine.snapshot.header.routes.offset) + route
            if exchange.route.pool < self.engine.snapshot.n_pools:
                exchange.pool = &self.engine.snapshot.pools[exchange.route.pool]
        return 0

    cdef bytes written(self, uint32_t size):
        return PyBytes_FromStringAndSize(self.engine.write_buffer, size) if size else None

    def write_request(self, bytes head, *, client=b"192.0.2.7", address=b"", repeat=1, route=0):
        """The head as a backend gets it; None where it does not fit. `repeat` > 1: of as many attempts of one exchange, the last."""
        cdef:
            Head parsed
            HeadLimits limits = make_limits(65472, 65472, 256)
            Exchange exchange
            Connection connection
            Backend backend
            Attempt attempt
        if plane_parse_request(&parsed, INPUT.place(head), <uint32_t>len(head), &limits) != len(head):
            raise ValueError("not one whole request head")
        self.fill(&exchange, &connection, client, route)
        memset(&backend, 0, sizeof(backend))
        memset(&attempt, 0, sizeof(attempt))
        memcpy(backend.address, <const char*><bytes>address, <size_t>len(address))
        backend.address_size = <uint32_t>len(address)
        memcpy(backend.display, b"10.0.0.1:80", 11)
        backend.display_size = 11
        attempt.backend = &backend
        exchange.attempt = &attempt
        for _ in range(repeat - 1):
            write_request(self.engine, &exchange, &parsed, &backend)
        return self.written(write_request(self.engine, &exchange, &parsed, &backend))

    def write_request_times(self, bytes head, uint32_t times):
        """Writes one request so many times, for benchmarks. Returns the size of what is written."""
        cdef:
            Head parsed
            HeadLimits limits = make_limits(65472, 65472, 256)
            Exchange exchange
            Connection connection
            Backend backend
            uint32_t _i, size = 0
        if plane_parse_request(&parsed, INPUT.place(head), <uint32_t>len(head), &limits) != len(head):
            raise ValueError("not one whole request head")
        self.fill(&exchange, &connection, b"192.0.2.7", 0)
        memset(&backend, 0, sizeof(backend))
        with nogil:
            for _i in range(times):
                size = write_request(self.engine, &exchange, &parsed, &backend)
        return size

    def write_response(self, bytes head, *, method="GET", chunked=False, close=False, http_1_0=False, route=0, bytes request=b""):
        """The head as an HTTP/1.x client gets it. `request`: the head that is answered, kept by the exchange."""
        cdef:
            Head parsed
            HeadLimits limits = make_limits(65472, 0, 256)
            Exchange exchange
            Connection connection
            Buffer kept
            uint32_t number = METHODS[method]
        if plane_parse_response(&parsed, INPUT.place(head), <uint32_t>len(head), &limits, number) != len(head):
            raise ValueError("not one whole response head")
        self.fill(&exchange, &connection, b"192.0.2.7", route)
        exchange.flags = X_HTTP_1_0 if http_1_0 else 0
        exchange.status = parsed.status
        if request:
            kept.data = OUTPUT.place(request)
            kept.end = <uint32_t>len(request)
            exchange.request_head = &kept
            self.engine.request.data = NULL     # parsed anew
        if parsed.status < 200 and parsed.status != 101:
            return self.written(write_informational(self.engine, &parsed))
        return self.written(write_response(self.engine, &exchange, &parsed, chunked, close))

    def write_local(self, reason, *, close=False, is_head=False, http_1_0=False):
        """A response of our own."""
        cdef:
            Exchange exchange
            Connection connection
        self.fill(&exchange, &connection, b"192.0.2.7", 0)
        exchange.flags = (X_HTTP_1_0 if http_1_0 else 0) | (X_IS_HEAD if is_head else 0)
        return self.written(write_local(self.engine, &exchange, FAILURE_NUMBERS[reason], close))


IMAGE_HEADER_BYTES = sizeof(ImageHeader)


# ---------------------------------------------------------------------------------------------------------------- regex
cdef class Regex:
    """A compiled pattern with a scratch of its own. ValueError as `_core.check_regex`."""
    cdef:
        RegexStruct* regex
        RegexScratch* scratch

    def __cinit__(self, bytes pattern, bint caseless=False, bint anchored=False, bint interpreted=False):
        cdef:
            uint32_t flags = caseless * REGEX_CASELESS | anchored * REGEX_ANCHORED | interpreted * REGEX_INTERPRETED
            uint32_t offset = 0, size
            int error = 0
            char text[256]
        self.regex = compile_regex(INPUT.place(pattern), <uint32_t>len(pattern), flags, &error, &offset)
        if self.regex == NULL:
            size = write_regex_error(error, text, sizeof(text))
            raise ValueError(text[:size].decode(), offset)
        self.scratch = open_regex_scratch()
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free_regex(self.regex)
        close_regex_scratch(self.scratch)

    @property
    def is_machine_code(self):
        return self.regex.is_machine_code

    def match(self, bytes subject, uint32_t max_groups=MAX_REGEX_GROUPS, bint before=False):
        """The groups as slices of the subject (None = took no part), "no match", "limit" or "failed"."""
        cdef:
            uint32_t* groups = <uint32_t*>OUTPUT.room(max_groups * 8)
            int found = match_regex(self.regex, self.scratch, INPUT.place(subject, before), <uint32_t>len(subject), groups, max_groups)
        if found <= 0:
            return {REGEX_NO_MATCH: "no match", REGEX_LIMIT: "limit", REGEX_FAILED: "failed"}[found]
        assert found == <int>self.regex.n_groups
        return [None if groups[2 * i] == NO_INDEX else subject[groups[2 * i]:groups[2 * i + 1]] for i in range(min(found, max_groups))]

    def match_repeatedly(self, bytes subject, int times):
        """For measurements: what the last of `times` matches came to."""
        cdef:
            const char* text = subject
            uint32_t size = <uint32_t>len(subject)
            uint32_t groups[2 * MAX_REGEX_GROUPS]
            int found = 0
        for _ in range(times):
            found = match_regex(self.regex, self.scratch, text, size, groups, MAX_REGEX_GROUPS)
        return {REGEX_NO_MATCH: "no match", REGEX_LIMIT: "limit", REGEX_FAILED: "failed"}.get(found, "match")


# ---------------------------------------------------------------------------------------------------------------- pickers
cdef PickContext seen               # what the picker that was called last was given


cdef int32_t pick_last(const PickContext* context) noexcept nogil:
    # The last one that may be picked.
    cdef int32_t index = <int32_t>context.n_backends - 1
    global seen
    seen = context[0]
    while not context.eligible[index]:
        index -= 1
    return index


cdef int32_t pick_outside(const PickContext* context) noexcept nogil:
    return <int32_t>context.n_backends


cdef int32_t pick_none(const PickContext* context) noexcept nogil:
    return -1


cdef int32_t pick_first(const PickContext* context) noexcept nogil:
    # Whether it may be or not.
    return 0


PICKERS = {"last": <uintptr_t><void*>&pick_last, "outside": <uintptr_t><void*>&pick_outside, "none": <uintptr_t><void*>&pick_none,
           "first": <uintptr_t><void*>&pick_first}
PICKER_VERSION = FASTLB_PICKER_VERSION
PICKER_LAYOUT = {"size": sizeof(PickContext), "version": <size_t>&(<PickContext*>NULL).version,
                 "n_backends": <size_t>&(<PickContext*>NULL).n_backends, "n_eligible": <size_t>&(<PickContext*>NULL).n_eligible,
                 "attempt": <size_t>&(<PickContext*>NULL).attempt, "key": <size_t>&(<PickContext*>NULL).key,
                 "random": <size_t>&(<PickContext*>NULL).random, "now_ms": <size_t>&(<PickContext*>NULL).now_ms,
                 "eligible": <size_t>&(<PickContext*>NULL).eligible, "weights": <size_t>&(<PickContext*>NULL).weights,
                 "in_flight": <size_t>&(<PickContext*>NULL).in_flight}


def seen_by_picker():
    """What the picker "last" was given last, but for its arrays, which are borrowed."""
    return {"version": seen.version, "n_backends": seen.n_backends, "n_eligible": seen.n_eligible, "attempt": seen.attempt, "key": seen.key,
            "random": seen.random, "now_ms": seen.now_ms}


# ---------------------------------------------------------------------------------------------------------------- sticky sessions
def siphash_of(uint64_t key_0, uint64_t key_1, bytes data):
    return siphash(key_0, key_1, INPUT.place(data), <size_t>len(data))


def find_cookies(bytes field):
    """Name and value of each cookie in a Cookie field."""
    cdef:
        Cookie cookie
        const char* at = INPUT.place(field)
        const char* end = at + len(field)
    found = []
    while next_cookie(at, end, &cookie):
        found.append((cookie.name[:cookie.name_size], cookie.value[:cookie.value_size]))
        at = cookie.end + 1
    return found


NOTED = {"already": NOTED_ALREADY, "again": NOTED_AGAIN, "new": NOTED_NEW, "instead": NOTED_INSTEAD, "not": NOTED_NOT}
STICKY_TICK = STICKY_TICK_MS
STICKY_TICKS = MAX_STICKY_TICKS


cdef class StickyTable:
    """The sticky table of some shared memory: `first` and `mask` say which part of it. Times in milliseconds."""
    cdef:
        SharedTable table
        StickyPart part

    def __cinit__(self, int fd, uint32_t first=0, uint32_t mask=STICKY_BUCKETS - 1):
        self.table.fd = -1
        error = map_shared(&self.table, fd)
        if error:
            raise OSError(error, "map_shared")
        self.part.first, self.part.mask = first, mask

    def __dealloc__(self):
        close_shared(&self.table)

    def find(self, uint64_t hash, uint64_t now_ms=0):
        """The row, 0 = none."""
        return find_sticky(&self.table, self.part, hash, now_ms)

    def note(self, uint64_t hash, uint32_t row, uint32_t ticks=900, uint64_t now_ms=0):
        """A key of NOTED."""
        cdef int noted = note_sticky(&self.table, self.part, hash, row, ticks, now_ms)
        return next(name for name, number in NOTED.items() if number == noted)

    def note_many(self, uint64_t seed, uint32_t n, uint32_t rows, uint32_t keys):
        """Notes and looks up `n` times among `keys` hashes, each for row 1 + hash % `rows`, without the GIL. How often something was found that
        had not been noted so."""
        cdef:
            uint32_t wrong = 0, _i, row, found
            uint64_t hash
        with nogil:
            for _i in range(n):
                seed = seed * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
                hash = ((seed >> 33) % keys) * <uint64_t>0x9E3779B97F4A7C15
                row = 1 + <uint32_t>(hash % rows)
                note_sticky(&self.table, self.part, hash, row, 900, 0)
                found = find_sticky(&self.table, self.part, hash, 0)
                wrong += found != 0 and found != row
        return wrong

    def words(self, uint32_t bucket):
        cdef uint64_t* words = <uint64_t*>(self.table.base + STICKY_AT) + <size_t>bucket * 8
        return [words[i] for i in range(8)]

    def set_word(self, uint32_t bucket, uint32_t place, uint64_t word):
        (<uint64_t*>(self.table.base + STICKY_AT))[<size_t>bucket * 8 + place] = word

    def fill(self, bytes pattern):
        """Every record, as a worker that has been taken over may leave them."""
        cdef uint32_t i
        for i in range(STICKY_BUCKETS):
            memcpy(self.table.base + STICKY_AT + <size_t>i * 64, <const char*>pattern, 64)


cdef class StickyTester:
    """A Plane whose first pool is sticky, for exchanges that get no further than where their client belongs."""
    cdef Plane plane

    def __init__(self, Plane plane):
        self.plane = plane

    def begin(self, bytes head, bytes address=b"192.0.2.7"):
        """Where the client of this request belongs in the pool (None = nowhere), whether its cookie has to be renewed, and the head that
        is kept. RuntimeError where what was kept and what stands in engine.request are not the same."""
        cdef:
            Exchange exchange
            Connection client
            Engine* engine = self.plane.engine
            Buffer* kept
            Head* parsed = &engine.request
        self.plane.fill(&exchange, &client, address, 0)
        kept = take_buffer(&engine.buffers, <uint32_t>len(head))
        memcpy(kept.data, <const char*>head, <size_t>len(head))
        kept.end = <uint32_t>len(head)
        exchange.request_head = kept
        exchange.pool = &engine.snapshot.pools[0]
        parsed.data = NULL
        kept_request(engine, &exchange)
        begin_sticky(engine, &exchange, parsed)
        rest = PyBytes_FromStringAndSize(kept.data, kept.end)
        same = parsed.data == kept.data and parsed.size == kept.end
        parsed.data = NULL
        return_buffer(&engine.buffers, kept)
        if not same:
            raise RuntimeError("the head that is kept is not the one that was parsed")
        return None if exchange.sticky == NO_BACKEND else exchange.sticky, exchange.flags & X_COOKIE_OLD != 0, rest

    def begin_many(self, bytes head, uint32_t n):
        """What a benchmark calls: begin_sticky, `n` times on a head that it does not change."""
        cdef:
            Exchange exchange
            Connection client
            Engine* engine = self.plane.engine
            Buffer* kept
            uint32_t _i
        self.plane.fill(&exchange, &client, b"192.0.2.7", 0)
        kept = take_buffer(&engine.buffers, <uint32_t>len(head))
        memcpy(kept.data, <const char*>head, <size_t>len(head))
        kept.end = <uint32_t>len(head)
        exchange.request_head = kept
        exchange.pool = &engine.snapshot.pools[0]
        engine.request.data = NULL
        kept_request(engine, &exchange)
        for _i in range(n):
            begin_sticky(engine, &exchange, &engine.request)
        engine.request.data = NULL
        return_buffer(&engine.buffers, kept)


# ---------------------------------------------------------------------------------------------------------- memory of OpenSSL
def take_tls_memory(size_t size) -> int:
    return <uintptr_t>take_memory(size, NULL, 0)


def resize_tls_memory(uintptr_t memory, size_t size) -> int:
    return <uintptr_t>resize_memory(<void*>memory, size, NULL, 0)


def return_tls_memory(uintptr_t memory) -> None:
    return_memory(<void*>memory, NULL, 0)


def count_tls_memory_kept(size_t size) -> int:
    return count_kept(size)
