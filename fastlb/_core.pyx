"""Python's one door to the data plane: the engine, the memory it shares with others, and the writer of the snapshots it runs on.

Nothing here is called per request. `Engine.pump` releases the GIL for a whole batch.
"""
import array
import json
import os
import socket
import sys
import time
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from cython cimport binding, no_gc
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.access_log cimport check_log_plan, set_log
from fastlb.data_plane.engine cimport (engine_abort, engine_assign, engine_close, engine_commit, engine_cut, engine_drain, engine_end_idle,
                                       engine_open, engine_prepare, engine_publish, engine_pump)
from fastlb.data_plane.failure cimport FAILURE_BAD_REQUEST_LINE, FAILURE_END, failures
from fastlb.data_plane.queue cimport QUEUE_MARK, list_waiting, set_sibling
from fastlb.data_plane.regex cimport REGEX_CASELESS, close_regex_scratch, compile_regex, free_regex, match_regex, open_regex_scratch, regex_name, write_regex_error, write_regex_version
from fastlb.data_plane.http1_head cimport header_id
from fastlb.data_plane.failure cimport (RETRY_ON_403, RETRY_ON_404, RETRY_ON_429, RETRY_ON_500, RETRY_ON_502, RETRY_ON_503, RETRY_ON_504,
                                        RETRY_ON_BAD_RESPONSE, RETRY_ON_CLOSED, RETRY_ON_CONNECT, RETRY_ON_OTHER_5XX, RETRY_ON_RESET,
                                        RETRY_ON_TIMEOUT, RETRY_UNSAFE)
from fastlb.data_plane.retry_budget cimport MAX_RETRY_FLOOR, RETRY_TOKENS
from fastlb.data_plane.route_table cimport RegexSet, check_route_table, compile_regexes, free_regexes, hash_host, hash_location
from fastlb.data_plane.select.tables cimport (TableBackend, build_aliases, build_maglev, build_ring, build_ring_index, count_index_bits,
                                              count_maglev_slots, count_ring_points)
from fastlb.data_plane.settlement cimport Settlement, read_row, settle_rows, settle_worker
from fastlb.data_plane.shared_table cimport (COLUMN_BYTES, ROW_BYTES, WORKER_BYTES, add_image_rows, close_shared, column_at, count_rows,
                                             DETAILS_BYTES, count_workers, create_shared, details_at, find_row, has_fault_hook, map_shared,
                                             open_worker, row_at, set_state, sweep_rows, worker_at)
from fastlb.data_plane.shared_table cimport LEGEND_AT, LEGEND_BYTES, change_claims, hold_row, open_guest
from fastlb.data_plane.failure cimport FAILURE_BAD_STATUS, FAILURE_CONNECT_REFUSED, FAILURE_TRUNCATED
from fastlb.data_plane.shared_table cimport (BACKEND_METER_BYTES, METER_BYTES, METER_DETAILS_BYTES, METER_NAME_BYTES, backend_meter_at, count_meters,
                                             meter_details_at, meter_name_at, meters_at)
from fastlb.data_plane.system cimport add_long, add_word, store_word
from fastlb.data_plane.types cimport BACKEND_REASONS as BACKEND_REASONS_COUNT
from fastlb.data_plane.types cimport (HISTOGRAM_BUCKETS, HISTOGRAM_HIGHEST_BIT, HISTOGRAM_LOWEST_BIT, MAX_METER_NAME_BYTES, MAX_METERS,
                                      BackendMeter, Histogram, Meter, MeterDetails, MeterName)
from fastlb.data_plane.snapshot cimport IMAGE_LAYOUT, IMAGE_MAGIC, map_image
from fastlb.data_plane.types cimport ANY_RESPONSES, MAX_DATAGRAM_SESSIONS
from fastlb.data_plane.shared_table cimport STICKY_BUCKETS, hash_identity
from fastlb.data_plane.sticky cimport hash_sticky_value
from fastlb.data_plane.sticky_table cimport MAX_STICKY_TICKS, STICKY_TICK_MS, count_sticky
from fastlb.data_plane.tls cimport BAD_TLS, TlsSet, compile_tls, free_tls, openssl_version
from fastlb.data_plane.system cimport EINVAL, ENOSPC, IP_TRANSPARENT, errno, memcpy, memset, munmap
from fastlb.data_plane cimport types
from fastlb.data_plane.types cimport MAX_PROXY_TIMEOUT_MS
from fastlb.data_plane.types cimport (MAX_HTTP2_CONNECTION_WINDOW_BYTES, MAX_HTTP2_STREAMS, MAX_HTTP2_WINDOW_BYTES,
                                      MIN_HTTP2_WINDOW_BYTES)
from fastlb.data_plane.types cimport (FAILURE_COUNT, HEADER_OTHER, MAX_HEAD_BYTES, MAX_HEADERS, MAX_IDENTITY_BYTES, MAX_ROWS, MAX_WORKERS,
                                      NO_INDEX, NO_SHARED_ROW, NODE_ROW, ROW_DISPLAY_BYTES, ROW_FREE, WORKER_CLOSED, WORKER_FREE, WORKER_LIVE, Backend, Column,
                                      Connection, Counters)
from fastlb.data_plane.types cimport (MAX_HEADER_NAME_BYTES, MAX_HEADER_OPERATIONS, MAX_LISTENER_NAME_BYTES, MAX_TEMPLATE_LITERAL_BYTES,
                                      MAX_TEMPLATE_SEGMENTS, OPERATION_ADD, ROUTE_DROPS_NAMES, ROUTE_EDITS_RESPONSE, ROUTE_MIRROR, ROUTE_SETS_HOST,
                                      ImageHeaderEdits, ImageSegment)
from fastlb.data_plane.types cimport (MAX_SHARES, ROUTE_CLOSES, ROUTE_HAS_LIMITS, ROUTE_HAS_TIMEOUTS, ROUTE_KEEPS_MATCH, ROUTE_NEEDS_HOST, ROUTE_REDIRECTS,
                                      ROUTE_REPLACES_PREFIX, ROUTE_RESPONDS, ROUTE_REWRITES, ROUTE_SPLITS, ImageShare)
from fastlb.data_plane.types cimport Engine as EngineStruct
from fastlb.data_plane.types cimport (Exchange, ImageBackend, ImageHeader, ImageHeaderOperation, ImageListener, ImageNetwork,
                                      ImageLog, ImageLogCapture, ImageLogDestination, ImageLogOperation, ImageLogPlan, ImageLogSet,
                                      ImageHealth, ImageLimit, ImageLogTerm, ImagePool, ImageRoute, ImageSection, ImageText, Listener, SharedHeader,
                                      SharedRow, SharedTable, Socket, WorkerBlock, WorkerGauges)
from fastlb.data_plane.types cimport (MAX_LOCATION_BYTES, ImageCondition, ImageHost, ImageHostSet, ImageHostSlot, ImageLocation,
                                      ImageLocationSlot, ImagePathLength, ImageRegex, ImageRouteTable, ImageRule, ImageValue)
from fastlb.data_plane.types cimport QUEUE_PRIORITIES, ImageAlias, ImageGroup, ImageRingPoint, Regex, RegexScratch, RowDetails
from fastlb.data_plane.types cimport ImageBackendTls, ImageCertificate, ImageName, ImageSniChoice, ImageSocket, ImageSticky, ImageTls, ImageTlsIdentity

from fastlb.data_plane.types cimport PickFunction

from fastlb._build import BUILD_ID
from fastlb._legend import describe_memory

if <int>FAILURE_END > <int>FAILURE_COUNT:
    raise ImportError("types.pxd: FAILURE_COUNT is too small for failure.pxd")
if sizeof(SharedRow) != ROW_BYTES or sizeof(RowDetails) != DETAILS_BYTES or sizeof(Column) != COLUMN_BYTES or sizeof(WorkerBlock) > <size_t>WORKER_BYTES \
        or sizeof(SharedHeader) > <size_t>LEGEND_AT or sizeof(Meter) != METER_BYTES or sizeof(MeterDetails) != METER_DETAILS_BYTES \
        or sizeof(MeterName) != METER_NAME_BYTES or sizeof(BackendMeter) != BACKEND_METER_BYTES:
    raise ImportError("types.pxd: a struct of shared memory has another size than shared_table.pxd says")

cdef extern from *:
    """
    #define FASTLB_TEXT_(x) #x
    #define FASTLB_TEXT(x) FASTLB_TEXT_(x)
    #if defined(__clang__)
    static const char fastlb_compiler[] = "clang " FASTLB_TEXT(__clang_major__) "." FASTLB_TEXT(__clang_minor__);
    #else
    static const char fastlb_compiler[] = "gcc " FASTLB_TEXT(__GNUC__) "." FASTLB_TEXT(__GNUC_MINOR__);
    #endif
    """
    const char* fastlb_compiler
    unsigned long CYTHON_HEX_VERSION

MAX_LONG = 0xFFFFFFFFFFFFFFFF
# Largest block that replayed bytes can take (buffer.pyx).
cdef enum:
    MAX_REPLAY_BYTES = 262144 - 4096
    DEFAULT_PRIORITY = 4

ALGORITHMS = {"round_robin": types.ALGORITHM_ROUND_ROBIN, "weighted_round_robin": types.ALGORITHM_WEIGHTED_ROUND_ROBIN,
              "least_connections": types.ALGORITHM_LEAST_CONNECTIONS,
              "weighted_least_connections": types.ALGORITHM_WEIGHTED_LEAST_CONNECTIONS,
              "ip_hash": types.ALGORITHM_IP_HASH, "hash": types.ALGORITHM_HASH,
              "consistent_hash": types.ALGORITHM_CONSISTENT_HASH, "maglev": types.ALGORITHM_MAGLEV,
              "random_two_choices": types.ALGORITHM_RANDOM_TWO_CHOICES, "peak_ewma": types.ALGORITHM_PEAK_EWMA,
              "least_time": types.ALGORITHM_LEAST_TIME}
ROW_STATES = {"down": types.ROW_DOWN, "drain": types.ROW_DRAIN, "maintenance": types.ROW_MAINTENANCE, "ejected": types.ROW_EJECTED}
CLIENT_AUTH = {"none": types.CLIENT_AUTH_NONE, "optional": types.CLIENT_AUTH_OPTIONAL, "required": types.CLIENT_AUTH_REQUIRED}
STICKY_FLAGS = {"reject": types.STICKY_REJECT, "drain": types.STICKY_DRAIN, "indirect": types.STICKY_INDIRECT, "secure": types.STICKY_SECURE,
                "secure_auto": types.STICKY_SECURE_AUTO, "nocache": types.STICKY_NOCACHE}

# By index: reasons of failures, those of a backend's, and the bounds of a histogram's buckets in microseconds (the last has none).
REASONS = tuple([failures[number].id.decode() for number in range(FAILURE_END)])
METER_LIMITS = {"meters": MAX_METERS, "name_bytes": MAX_METER_NAME_BYTES}
BUCKET_BOUNDS_US = (1 << HISTOGRAM_LOWEST_BIT, *[(4 + quarter + 1) << (bit - 2) for bit in range(HISTOGRAM_LOWEST_BIT, HISTOGRAM_HIGHEST_BIT)
                                                 for quarter in range(4)])
BACKEND_REASONS = (*[failures[number].id.decode() for number in range(FAILURE_CONNECT_REFUSED, FAILURE_TRUNCATED + 1)],
                   failures[<int>FAILURE_BAD_STATUS].id.decode(), "other")

# What is written into the memory that this build makes, and where.
LEGEND = {**describe_memory(), "reasons": REASONS, "backend_reasons": BACKEND_REASONS, "bounds_us": BUCKET_BOUNDS_US}
LEGEND_PLACE = (LEGEND_AT, LEGEND_BYTES)

RETRY_ON = {"connect": RETRY_ON_CONNECT, "closed": RETRY_ON_CLOSED, "reset": RETRY_ON_RESET, "timeout": RETRY_ON_TIMEOUT,
            "bad_response": RETRY_ON_BAD_RESPONSE, "403": RETRY_ON_403, "404": RETRY_ON_404, "429": RETRY_ON_429, "500": RETRY_ON_500,
            "502": RETRY_ON_502, "503": RETRY_ON_503, "504": RETRY_ON_504,
            "5xx": RETRY_ON_500 | RETRY_ON_502 | RETRY_ON_503 | RETRY_ON_504 | RETRY_ON_OTHER_5XX}

PROTOCOLS = {"http1": types.PROTOCOL_HTTP1, "http2": types.PROTOCOL_HTTP2, "auto": types.PROTOCOL_AUTO}

# Names of a template's segments and encodings, and of header operations: what control_plane/route_program.py compiles to.
SEGMENTS = {"client": types.SEGMENT_CLIENT, "client_port": types.SEGMENT_CLIENT_PORT, "scheme": types.SEGMENT_SCHEME,
            "host": types.SEGMENT_HOST, "http_host": types.SEGMENT_HTTP_HOST, "method": types.SEGMENT_METHOD, "uri": types.SEGMENT_URI,
            "path": types.SEGMENT_PATH, "query": types.SEGMENT_QUERY, "request_id": types.SEGMENT_REQUEST_ID,
            "listener": types.SEGMENT_LISTENER, "route": types.SEGMENT_ROUTE, "pool": types.SEGMENT_POOL, "backend": types.SEGMENT_BACKEND,
            "status": types.SEGMENT_STATUS, "header": types.SEGMENT_HEADER, "response": types.SEGMENT_RESPONSE_HEADER,
            "cookie": types.SEGMENT_COOKIE, "query_value": types.SEGMENT_QUERY_VALUE, "capture": types.SEGMENT_CAPTURE}
# What can be said of a client's TLS, in templates and logs.
TLS_FACTS = {"tls_version": types.TLS_VERSION, "tls_cipher": types.TLS_CIPHER, "tls_server_name": types.TLS_SERVER_NAME,
             "tls_resumed": types.TLS_RESUMED, "client_certificate_subject": types.TLS_CLIENT_SUBJECT,
             "client_certificate_issuer": types.TLS_CLIENT_ISSUER, "client_certificate_serial": types.TLS_CLIENT_SERIAL,
             "client_certificate_fingerprint": types.TLS_CLIENT_FINGERPRINT, "client_certificate_verify": types.TLS_CLIENT_VERIFY}
# What can be said of the PROXY header that a client's connection began with, likewise.
PROXY_FACTS = {"proxy_protocol_sender": types.PROXY_SENDER, "proxy_protocol_destination": types.PROXY_DESTINATION,
               "proxy_protocol_destination_port": types.PROXY_DESTINATION_PORT, "proxy_protocol_alpn": types.PROXY_ALPN,
               "proxy_protocol_authority": types.PROXY_AUTHORITY, "proxy_protocol_unique_id": types.PROXY_UNIQUE_ID,
               "proxy_protocol_tls_version": types.PROXY_TLS_VERSION, "proxy_protocol_tls_cipher": types.PROXY_TLS_CIPHER,
               "proxy_protocol_certificate_name": types.PROXY_CLIENT_NAME, "proxy_protocol_certificate_verify": types.PROXY_CLIENT_VERIFY}
PROXY_SENDS = {"alpn": types.PROXY_SENDS_ALPN, "authority": types.PROXY_SENDS_AUTHORITY, "unique_id": types.PROXY_SENDS_UNIQUE_ID,
               "tls": types.PROXY_SENDS_TLS, "crc32c": types.PROXY_SENDS_CHECK_SUM}
SEGMENTS |= {name: types.SEGMENT_TLS + fact for name, fact in TLS_FACTS.items()}
SEGMENTS |= {name: types.SEGMENT_PROXY + fact for name, fact in PROXY_FACTS.items()}
ENCODINGS = {"nothing": types.ENCODE_NOTHING, "controls": types.ENCODE_CONTROLS, "path": types.ENCODE_PATH,
             "component": types.ENCODE_COMPONENT}
HEADER_OPERATIONS = {"set": types.OPERATION_SET, "append": types.OPERATION_APPEND, "keep_or_set": types.OPERATION_KEEP_OR_SET,
                     "add": types.OPERATION_ADD, "remove": types.OPERATION_REMOVE}
ROUTE_LIMITS = {"operations": MAX_HEADER_OPERATIONS, "name_bytes": MAX_HEADER_NAME_BYTES, "segments": MAX_TEMPLATE_SEGMENTS,
                "literal_bytes": MAX_TEMPLATE_LITERAL_BYTES}

# What a backend is told about the client, unless a route's own edits say otherwise: (operation, field, template).
FORWARDED_HEADERS = (("append", "X-Forwarded-For", (("client", "nothing", ""),)),
                     ("keep_or_set", "X-Forwarded-Proto", (("scheme", "nothing", ""),)),
                     ("keep_or_set", "X-Forwarded-Host", (("http_host", "nothing", ""),)))
REQUEST_ID_HEADERS = (("keep_or_set", "X-Request-Id", (("request_id", "nothing", ""),)),)


def versions():
    """What this build was made with: names to version texts."""
    made_by = ".".join(str(CYTHON_HEX_VERSION >> shift & 255) for shift in (24, 16, 8))
    cdef:
        char text[64]
        uint32_t size = write_regex_version(text, sizeof(text))
    return {"build": BUILD_ID, "cython": made_by, "compiler": fastlb_compiler.decode(), "PCRE2": text[:size].decode(),
            "OpenSSL": openssl_version().decode()}


cdef Regex* compile_checked(bytes pattern, bint caseless) except NULL:
    # Owned by the caller. ValueError as of check_regex.
    cdef:
        uint32_t offset = 0, size
        int error = 0
        char text[256]
        Regex* regex
    if len(pattern) > 0xFFFFFFFF:
        raise ValueError("too long", 0)
    regex = compile_regex(pattern, <uint32_t>len(pattern), REGEX_CASELESS if caseless else 0, &error, &offset)
    if regex == NULL:
        size = write_regex_error(error, text, sizeof(text))
        raise ValueError(text[:size].decode(), offset)
    return regex


def check_regex(bytes pattern, bint caseless=False):
    """Compiles a pattern as the data plane will.

    Args:
        pattern: PCRE2 syntax, at most 4096 bytes; it matches bytes.
        caseless: ASCII letters match whatever their case.

    Returns:
        The number of its groups, without group 0, and the numbers of those that have names.

    Raises:
        ValueError: with what is wrong and the offset of the byte up to which the pattern was understood.
    """
    cdef:
        uint32_t size = 0, i, number
        const char* name
        Regex* regex = compile_checked(pattern, caseless)
    try:
        names = {}
        for i in range(regex.n_names):
            number = regex_name(regex, i, &name, &size)
            names[name[:size].decode("ascii")] = number
        return regex.n_groups - 1, names
    finally:
        free_regex(regex)


cdef class Pattern:
    """A compiled pattern for the control plane, which reads what backends send and so needs the data plane's limits of time.

    Args:
        pattern, caseless: as `check_regex`.

    Raises:
        ValueError: as `check_regex`. MemoryError.
    """
    cdef:
        Regex* regex                # owned
        RegexScratch* scratch       # owned

    def __cinit__(self, bytes pattern, bint caseless=False):
        self.regex = compile_checked(pattern, caseless)
        self.scratch = open_regex_scratch()
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.regex != NULL:
            free_regex(self.regex)
        close_regex_scratch(self.scratch)

    def search(self, bytes text):
        """Whether the pattern matches somewhere in the text; None where that would take too long to say."""
        cdef int result
        if len(text) > 0x7FFFFFFF:
            return None
        result = match_regex(self.regex, self.scratch, text, <uint32_t>len(text), NULL, 0)
        return None if result < 0 else result > 0


def system_authorities():
    """The certificates of the authorities that this system trusts: PEM. ValueError: it has none where they usually are."""
    for path in (os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"):
        if path and os.path.exists(path):
            with open(path, "rb") as file:
                return file.read()
    raise ValueError("this system has no bundle of authorities where Debian, Fedora or SUSE keep it; name one")


def pack_address(str ip, int port):
    """A sockaddr for SnapshotWriter.add_backend. `ip`: IPv4 or IPv6 text; `port`: 1 to 65535. ValueError for anything else."""
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is not between 1 and 65535")
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        packed = socket.inet_pton(family, ip)
    except OSError:
        raise ValueError(f"{ip!r} is not an IP address") from None
    head = (<int>family).to_bytes(2, sys.byteorder) + port.to_bytes(2, "big")
    if family == socket.AF_INET:
        return head + packed + bytes(8)
    return head + bytes(4) + packed + bytes(4)


def pack_unix(str path):
    """A sockaddr_un for SnapshotWriter.add_backend. ValueError when the path is empty or longer than 107 bytes."""
    raw = os.fsencode(path)
    if not 0 < len(raw) < 108:
        raise ValueError(f"unix socket path {path!r} must have 1 to 107 bytes")
    return (<int>socket.AF_UNIX).to_bytes(2, sys.byteorder) + raw + b"\0"


cdef bytes record(const void* data, size_t size):
    return PyBytes_FromStringAndSize(<const char*>data, <Py_ssize_t>size)


cdef bytes pack_group(uint32_t algorithm, list entries, list names, place):
    # `entries`: its backends, packed; `names`: what their places in tables are hashed of; `place(data)` puts a table into the image and
    # says where.
    cdef:
        ImageGroup group
        uint32_t n = <uint32_t>len(entries), i
        TableBackend* backends = <TableBackend*>malloc((<size_t>n + 1) * sizeof(TableBackend))
        bytearray table, index
        int result = 0
    if backends == NULL:
        raise MemoryError
    try:
        memset(&group, 0, sizeof(group))
        group.n_backends = n
        for i in range(n):
            backends[i].name, backends[i].name_size = <const char*><bytes>names[i], <uint32_t>len(names[i])
            backends[i].weight = (<const ImageBackend*><const char*><bytes>entries[i]).weight
        weights = [backends[i].weight for i in range(n)]
        if algorithm == types.ALGORITHM_WEIGHTED_ROUND_ROBIN:
            order = array.array("I", sorted(range(n), key=weights.__getitem__))
            group.table.offset, group.table.count = place(order.tobytes()), n
        elif algorithm == types.ALGORITHM_CONSISTENT_HASH:
            table = bytearray(count_ring_points(backends, n) * sizeof(ImageRingPoint))
            group.table.count = build_ring(backends, n, <ImageRingPoint*><char*>table)
            group.table.offset = place(table[:group.table.count * sizeof(ImageRingPoint)])
            group.index_bits = count_index_bits(group.table.count)
            group.index.count = <uint32_t>1 << group.index_bits
            index = bytearray(group.index.count * sizeof(uint32_t))
            build_ring_index(<const ImageRingPoint*><char*>table, group.table.count, group.index_bits, <uint32_t*><char*>index)
            group.index.offset = place(index)
        elif algorithm == types.ALGORITHM_MAGLEV:
            group.table.count = count_maglev_slots(backends, n)
            table = bytearray(group.table.count * sizeof(uint16_t))
            result = build_maglev(backends, n, group.table.count, <uint16_t*><char*>table)
            group.table.offset = place(table)
        elif algorithm in (types.ALGORITHM_RANDOM_TWO_CHOICES, types.ALGORITHM_PEAK_EWMA) and len(set(weights)) > 1:
            table = bytearray(n * sizeof(ImageAlias))
            result = build_aliases(backends, n, <ImageAlias*><char*>table)
            group.table.offset, group.table.count = place(table), n
        if result != 0:
            raise MemoryError
        return record(&group, sizeof(group))
    finally:
        free(backends)


cdef bytes pack_network(network):
    # An ImageNetwork of an ipaddress.IPv4Network or IPv6Network.
    cdef ImageNetwork entry
    cdef bytes address = network.network_address.packed
    memset(&entry, 0, sizeof(entry))
    bits = network.prefixlen
    if len(address) == 4:
        address = bytes(10) + b"\xff\xff" + address
        bits += 96
    memcpy(entry.address, <const char*>address, 16)
    entry.prefix_bits = bits
    return record(&entry, sizeof(entry))


cdef uint32_t check_meter(meter) except? 0:
    if not 0 <= meter < MAX_METERS:
        raise ValueError(f"meters are 0 to {MAX_METERS - 1}")
    return meter


cdef class SnapshotWriter:
    """Builds one snapshot image (data_plane/snapshot.pyx reads it). Indices returned by the add_ methods count from 0.

    Args:
        generation: number of the configuration, at least 1; running state that depends on it is worked out anew when it changes.
    """
    cdef:
        bytearray texts
        list networks, listeners, routes, pools, pool_backends, pool_groups, table_names
        list segments, operations, shares
        list sni_choices
        list certificates, tls_identities, names, tls, ticket_keys, backend_tls, senders
        dict authorities
        dict stickies, request_edits
        uint64_t generation
        ImageText reason_header, python_path
        bint forwarded_headers, request_id
        bytes log_plan, route_table
        uint32_t max_connections

    def __init__(self, generation):
        if generation < 1:
            raise ValueError("generation counts from 1")
        self.texts = bytearray()
        self.networks, self.listeners, self.routes, self.pools, self.pool_backends, self.pool_groups = [], [], [], [], [], []
        self.table_names = []
        self.segments, self.operations, self.shares = [], [], []
        self.certificates, self.tls_identities, self.names, self.tls, self.ticket_keys = [], [], [], [], []
        self.backend_tls, self.authorities, self.senders = [], {}, []
        self.stickies, self.request_edits = {}, {}
        self.sni_choices = []
        self.generation = generation
        self.reason_header.offset = sizeof(ImageHeader)
        self.reason_header.size = 0
        self.python_path = self.reason_header
        self.forwarded_headers = self.request_id = True
        self.log_plan = b""
        self.route_table = RouteTableWriter().finish()
        self.max_connections = 0

    cdef ImageText add_text(self, bytes text):
        # Texts stand right behind the header, so that their final offset is known at once.
        cdef ImageText result
        result.offset = <uint32_t>(sizeof(ImageHeader) + len(self.texts))
        result.size = <uint32_t>len(text)
        self.texts += text
        return result

    def set_reason_header(self, name):
        """Header that carries the reason id of locally produced responses; None or "" for none."""
        self.reason_header = self.add_text((name or "").encode("ascii"))

    def set_forwarded_headers(self, enabled):
        """Whether X-Forwarded-For, -Proto and -Host are written."""
        self.forwarded_headers = enabled

    def set_max_connections(self, count):
        """Client connections that all workers together hold at most; 0 = no cap."""
        self.max_connections = count

    def set_python_path(self, directories):
        """Where pickers of the user's own are looked for, behind the directories of Python itself."""
        self.python_path = self.add_text(b"".join(os.fsencode(directory) + b"\0" for directory in directories))

    def set_request_id(self, enabled):
        """Whether X-Request-Id is written."""
        self.request_id = enabled

    def set_log_plan(self, plan):
        """What listeners log: from LogPlanWriter.finish, before the listeners that name one of its sets."""
        if plan and not check_log_plan(plan, len(plan)):
            raise ValueError("not a log plan")
        self.log_plan = plan

    def set_route_table(self, table):
        """Which requests take which route: from RouteTableWriter.finish."""
        if not check_route_table(table, len(table), <uint32_t>NO_INDEX):
            raise ValueError("not a route table")
        self.route_table = table

    def add_trusted_network(self, network):
        """A network (ipaddress.IPv4Network or IPv6Network) whose X-Forwarded-* and X-Request-Id are believed."""
        self.networks.append(pack_network(network))

    def add_listener(self, name, *, head_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms, max_head_bytes,
                     max_target_bytes, max_headers, max_body_bytes, log_set=None, host_set=0, meter=0, http2_streams=0,
                     http2_window_bytes=MIN_HTTP2_WINDOW_BYTES, http2_connection_window_bytes=1048576):
        """A listener's settings; times in milliseconds, sizes in bytes, max_body_bytes 0 = no limit; `log_set`: index in the log plan, None
        where nothing is logged; `host_set`: index in the route table; `meter`: number of its meter, 0 = none. `http2_streams`: how many a
        connection may have open, 0 = HTTP/2 is off. Returns its index."""
        cdef ImageListener entry
        if len(name.encode()) > MAX_LISTENER_NAME_BYTES:
            raise ValueError(f"the name of a listener has at most {MAX_LISTENER_NAME_BYTES} bytes: {name}")
        if not 0 < max_headers <= MAX_HEADERS or not 0 < max_head_bytes <= MAX_HEAD_BYTES:
            raise ValueError(f"max_headers is at most {MAX_HEADERS}, max_head_bytes at most {MAX_HEAD_BYTES}")
        if http2_streams > MAX_HTTP2_STREAMS or not MIN_HTTP2_WINDOW_BYTES <= http2_window_bytes <= MAX_HTTP2_WINDOW_BYTES \
                or not MIN_HTTP2_WINDOW_BYTES <= http2_connection_window_bytes <= MAX_HTTP2_CONNECTION_WINDOW_BYTES:
            raise ValueError(f"http2_streams is at most {MAX_HTTP2_STREAMS}, windows are {MIN_HTTP2_WINDOW_BYTES} to {MAX_HTTP2_WINDOW_BYTES}"
                             f" and to {MAX_HTTP2_CONNECTION_WINDOW_BYTES} bytes")
        memset(&entry, 0, sizeof(entry))
        entry.name = self.add_text(name.encode())
        entry.log_set = <uint32_t>NO_INDEX if log_set is None else log_set
        entry.host_set = host_set
        entry.meter = check_meter(meter)
        entry.settings.head_timeout_ms = head_timeout_ms
        entry.settings.body_timeout_ms = body_timeout_ms
        entry.settings.idle_timeout_ms = idle_timeout_ms
        entry.settings.write_timeout_ms = write_timeout_ms
        entry.settings.head.max_bytes = max_head_bytes
        entry.settings.head.max_target_bytes = max_target_bytes
        entry.settings.head.max_fields = max_headers
        entry.settings.max_body_bytes = max_body_bytes
        entry.tls = <uint32_t>NO_INDEX
        entry.session_route = <uint32_t>NO_INDEX
        entry.settings.http2_streams = http2_streams
        entry.settings.http2_window_bytes = http2_window_bytes
        entry.settings.http2_connection_window_bytes = http2_connection_window_bytes
        self.listeners.append(record(&entry, sizeof(entry)))
        return len(self.listeners) - 1

    def set_session(self, listener, route, *, timeout_ms=0):
        """Has a listener take TCP sessions in the place of HTTP: they go to the pool of `route` (None: see set_sni) and end after
        `timeout_ms`, 0 = never."""
        packed = bytearray(self.listeners[listener])
        (<ImageListener*><char*>packed).session_route = <uint32_t>NO_INDEX if route is None else route
        (<ImageListener*><char*>packed).settings.session_timeout_ms = timeout_ms
        self.listeners[listener] = bytes(packed)

    def set_sni(self, listener, names, others):
        """Has what a client of TLS asks for lead its session: `names` pairs names with runs of choices, `others` is the run for the rest, and
        where no choice fits the client is refused. A choice is the protocols of which the client has to offer one (none: whatever it offers)
        and the route that it then takes. A listener that has no TLS of its own (set_tls) passes it on; else it is the protocol that was
        agreed on that counts."""
        packed = bytearray(self.listeners[listener])
        section = self.add_names([(name, self.add_choices(choices)) for name, choices in names])
        (<ImageListener*><char*>packed).sni_names = section
        (<ImageListener*><char*>packed).sni_others = self.add_choices(others) if others else <uint32_t>NO_INDEX
        (<ImageListener*><char*>packed).chooses_by_name = 1
        self.listeners[listener] = bytes(packed)

    cdef uint32_t add_choices(self, choices) except? 0xFFFFFFFF:
        cdef:
            ImageSniChoice entry
            uint32_t first = <uint32_t>len(self.sni_choices)
        for number, (protocols, route) in enumerate(choices, 1):
            memset(&entry, 0, sizeof(entry))
            entry.alpn = self.add_text(b"".join(bytes([len(protocol)]) + protocol for protocol in protocols))
            entry.route = route
            entry.is_last = number == len(choices)
            self.sni_choices.append(record(&entry, sizeof(entry)))
        return first

    def set_proxy_protocol(self, listener, *, senders, from_unix, others_plain, timeout_ms):
        """Has connections of a listener begin with a PROXY header, within `timeout_ms`, where they come from one of these networks or, with
        `from_unix`, through a unix socket. Others are refused, or with `others_plain` taken for the client itself."""
        cdef ImageListener* entry
        if not 0 < timeout_ms <= MAX_PROXY_TIMEOUT_MS:
            raise ValueError(f"a PROXY header has 1 to {MAX_PROXY_TIMEOUT_MS} ms")
        packed = bytearray(self.listeners[listener])
        entry = <ImageListener*><char*>packed
        entry.senders.offset, entry.senders.count = <uint32_t>len(self.senders), <uint32_t>len(senders)
        entry.settings.proxy_timeout_ms = timeout_ms
        entry.settings.proxy_flags = (types.PROXY_FROM_UNIX if from_unix else 0) | (types.PROXY_OTHERS_PLAIN if others_plain else 0)
        self.senders += [pack_network(network) for network in senders]
        self.listeners[listener] = bytes(packed)

    def set_datagrams(self, listener, route, *, max_sessions, silence_ms, responses, timeout_ms=0, server_ids=(), server_id_offset=0):
        """Has a listener take UDP sessions, as `set_session` does TCP sessions. `silence_ms` of both sides ends one, and so do `responses` to
        each of its datagrams; 0 = none is expected, -1 = there may be any number. `server_ids`: what backends call themselves in connection
        ids of QUIC, behind `server_id_offset` bytes: pairs of bytes, all of one size, with a backend's index in the pool."""
        if not 0 < max_sessions <= MAX_DATAGRAM_SESSIONS:
            raise ValueError(f"max_sessions is 1 to {MAX_DATAGRAM_SESSIONS}")
        self.set_session(listener, route, timeout_ms=timeout_ms)
        packed = bytearray(self.listeners[listener])
        (<ImageListener*><char*>packed).settings.max_sessions = max_sessions
        (<ImageListener*><char*>packed).settings.silence_ms = silence_ms
        (<ImageListener*><char*>packed).settings.responses = <uint32_t>ANY_RESPONSES if responses < 0 else responses
        if server_ids:
            (sizes,) = {len(name) for name, _ in server_ids}
            section = self.add_byte_names(server_ids)
            (<ImageListener*><char*>packed).server_ids = section
            (<ImageListener*><char*>packed).settings.server_id_bytes = sizes
            (<ImageListener*><char*>packed).settings.server_id_offset = server_id_offset
        self.listeners[listener] = bytes(packed)

    def add_certificate(self, chain, key, ocsp=b""):
        """A certificate that listeners may serve. `chain`: PEM, the leaf first; `key`: PEM, PKCS #8 without a password; `ocsp`: a DER response
        to staple. Nothing of them is looked at here. Returns its index."""
        cdef ImageCertificate entry
        memset(&entry, 0, sizeof(entry))
        entry.chain = self.add_text(chain)
        entry.key = self.add_text(key)
        entry.ocsp = self.add_text(ocsp)
        self.certificates.append(record(&entry, sizeof(entry)))
        return len(self.certificates) - 1

    cdef ImageText add_list(self, str text) except *:
        # As OpenSSL reads lists; of nothing: nothing.
        return self.add_text(text.encode("ascii") + b"\0" if text else b"")

    cdef ImageSection add_names(self, names) except *:
        return self.add_byte_names([(name.encode("ascii"), target) for name, target in names])

    cdef ImageSection add_byte_names(self, names) except *:
        cdef:
            ImageName entry
            ImageSection section
        section.offset = <uint32_t>len(self.names)
        for name, target in sorted(names):
            memset(&entry, 0, sizeof(entry))
            entry.name = self.add_text(name)
            entry.target = target
            self.names.append(record(&entry, sizeof(entry)))
        section.count = <uint32_t>len(self.names) - section.offset
        return section

    def set_tls(self, listener, *, identities, names, default, challenges=(), min_version=0x0303, max_version=0x0304, ciphers="",
                ciphersuites="", groups="", alpn=(b"http/1.1",), handshake_timeout_ms=10_000, tickets=True, session_timeout_s=7200,
                early_data_bytes=0, client_auth="none", client_ca=b"", client_crl=b"", client_depth=4):
        """Makes a listener speak TLS.

        Args:
            identities: each a list of certificates that are served for the same names, at most one for each type of key.
            names: pairs of a name and the index of its identity; lower case, each once; "*.example.com" stands for one label.
            default: index of the identity for names that are not among them and for clients that name none; None = such clients are refused.
            challenges: pairs of a name and a certificate, for clients that offer the protocol acme-tls/1 (RFC 8737).
            min_version, max_version: 0x0303 (TLS 1.2) or 0x0304 (TLS 1.3).
            ciphers, ciphersuites, groups: as OpenSSL reads them, for TLS 1.2, for TLS 1.3, for both; "" = ours.
            alpn: protocols, what we prefer first.
            tickets: whether sessions can be resumed; it takes set_ticket_keys, too.
            early_data_bytes: of requests before a resumed handshake is over, up to 16384; 0 = none are taken. Not with client_auth.
            client_auth: "none", "optional" or "required"; `client_ca`: PEM, who may have signed; `client_crl`: PEM, with it every certificate of a
                chain is looked up in a list; `client_depth`: certificates between the client's and an authority's.
        """
        cdef:
            ImageTls entry
            ImageTlsIdentity identity
            bytearray packed = bytearray(self.listeners[listener])
        memset(&entry, 0, sizeof(entry))
        entry.identities.offset = <uint32_t>len(self.tls_identities)
        entry.identities.count = <uint32_t>len(identities)
        for certificates in identities:
            if not 0 < len(certificates) <= types.MAX_KEY_TYPES:
                raise ValueError(f"an identity has 1 to {types.MAX_KEY_TYPES} certificates")
            memset(&identity, 0, sizeof(identity))
            identity.n_certificates = <uint32_t>len(certificates)
            for at, certificate in enumerate(certificates):
                identity.certificates[<uint32_t>at] = certificate
            self.tls_identities.append(record(&identity, sizeof(identity)))
        entry.names = self.add_names(names)
        entry.challenges = self.add_names(challenges)
        entry.default_identity = <uint32_t>NO_INDEX if default is None else default
        entry.min_version = min_version
        entry.max_version = max_version
        entry.ciphers = self.add_list(ciphers)
        entry.ciphersuites = self.add_list(ciphersuites)
        entry.groups = self.add_list(groups)
        entry.alpn = self.add_text(b"".join([bytes([len(protocol)]) + protocol for protocol in alpn]))
        entry.handshake_timeout_ms = handshake_timeout_ms
        entry.session_timeout_s = session_timeout_s
        entry.early_data_bytes = early_data_bytes
        entry.tickets = bool(tickets)
        entry.client_auth = CLIENT_AUTH[client_auth]
        entry.client_depth = client_depth
        entry.client_ca = self.add_text(client_ca)
        entry.client_crl = self.add_text(client_crl)
        (<ImageListener*><char*>packed).tls = <uint32_t>len(self.tls)
        self.listeners[listener] = bytes(packed)
        self.tls.append(record(&entry, sizeof(entry)))

    def set_ticket_keys(self, keys):
        """Keys that encrypt sessions for the clients that keep them, 80 bytes each: the first one encrypts, any decrypts. The same in all
        workers, so that a session is resumed wherever its client comes to."""
        if len(keys) > types.MAX_TICKET_KEYS or any(len(key) != types.TICKET_KEY_BYTES for key in keys):
            raise ValueError(f"at most {types.MAX_TICKET_KEYS} keys of {types.TICKET_KEY_BYTES} bytes")
        self.ticket_keys = [bytes(key) for key in keys]

    cdef ImageText add_authorities(self, bytes bundle) except *:
        # A bundle that many pools name stands in the image once.
        cdef ImageText text
        if bundle not in self.authorities:
            text = self.add_text(bundle)
            self.authorities[bundle] = (text.offset, text.size)
        text.offset, text.size = self.authorities[bundle]
        return text

    def set_backend_tls(self, pool, *, verify=True, server_name="", ca=b"", certificate=None, min_version=0x0303, max_version=0x0304, ciphers="",
                        ciphersuites="", groups="", alpn=(), resume=True):
        """Makes the backends of a pool be spoken to by TLS.

        Args:
            verify: whether their certificates have to be signed by an authority and made out to `server_name`.
            server_name: of all of them; "" = each one's `tls_name`, or its address where it has none.
            ca: PEM, the authorities; b"" = the system's.
            certificate: that we show where they ask, from add_certificate; None = none.
            min_version, max_version, ciphers, ciphersuites, groups: as set_tls.
            alpn: protocols that we offer.
            resume: whether a new connection takes up the session of one before.
        """
        cdef:
            ImageBackendTls entry
            bytearray packed = bytearray(self.pools[pool])
        memset(&entry, 0, sizeof(entry))
        entry.verify = bool(verify)
        entry.certificate = <uint32_t>NO_INDEX if certificate is None else certificate
        entry.min_version = min_version
        entry.max_version = max_version
        entry.server_name = self.add_list(server_name)
        entry.authorities = self.add_authorities((ca or system_authorities()) if verify else b"")
        entry.ciphers = self.add_list(ciphers)
        entry.ciphersuites = self.add_list(ciphersuites)
        entry.groups = self.add_list(groups)
        entry.alpn = self.add_text(b"".join([bytes([len(protocol)]) + protocol for protocol in alpn]))
        entry.resume = bool(resume)
        (<ImagePool*><char*>packed).tls = <uint32_t>len(self.backend_tls)
        self.pools[pool] = bytes(packed)
        self.backend_tls.append(record(&entry, sizeof(entry)))

    def add_pool(self, name, *, algorithm, attempts, replay_limit_bytes, max_idle, idle_timeout_ms, connect_timeout_ms,
                 first_byte_timeout_ms, between_bytes_timeout_ms, exchange_timeout_ms, tunnel_timeout_ms, queue_max=0, queue_timeout_ms=0,
                 balance_permille=0, slow_start_ms=0, meter=0):
        """A pool; times in milliseconds. `algorithm` is a key of ALGORITHMS or "module:name", `attempts` 1 to 255; `queue_max`: how many may wait while all its
        backends are at their caps, over all workers, 0 = nobody; `balance_permille`: for consistent_hash, the most load of a backend in
        thousandths of its share, over 1000, 0 = no bound. Returns its index."""
        cdef ImagePool entry
        if algorithm not in ALGORITHMS and ":" not in algorithm:
            raise ValueError(f"unknown algorithm {algorithm!r}")
        if not 1 <= attempts <= 255:
            raise ValueError("attempts must be 1 to 255")
        memset(&entry, 0, sizeof(entry))
        entry.name = self.add_text(name.encode())
        entry.algorithm = ALGORITHMS.get(algorithm, types.ALGORITHM_USER)
        if entry.algorithm == types.ALGORITHM_USER:
            entry.picker = self.add_text(algorithm.encode())
        entry.attempts = attempts
        entry.replay_limit_bytes = min(replay_limit_bytes, MAX_REPLAY_BYTES)
        entry.max_idle = max_idle
        entry.idle_timeout_ms = idle_timeout_ms
        entry.connect_timeout_ms = connect_timeout_ms
        entry.first_byte_timeout_ms = first_byte_timeout_ms
        entry.between_bytes_timeout_ms = between_bytes_timeout_ms
        entry.exchange_timeout_ms = exchange_timeout_ms
        entry.tunnel_timeout_ms = tunnel_timeout_ms
        entry.sticky = NO_INDEX
        entry.tls = <uint32_t>NO_INDEX
        if queue_max:
            entry.queue = self.add_text(chr(QUEUE_MARK).encode() + name.encode())
            entry.queue_max = queue_max
            entry.queue_timeout_ms = queue_timeout_ms
        entry.balance_permille = balance_permille
        entry.slow_start_ms = slow_start_ms
        entry.meter = check_meter(meter)
        self.pools.append(record(&entry, sizeof(entry)))
        self.pool_backends.append([])
        self.pool_groups.append([0])
        self.table_names.append([])
        return len(self.pools) - 1

    def set_retry(self, pool, *, on, unsafe, within_ms, share, floor):
        """When attempts after the first are made; never without it. `on`: keys of RETRY_ON; `unsafe`: with methods that are not idempotent
        too; `share` of the exchanges, 0 to 1, and `floor`, per second: the budget."""
        cdef ImagePool* entry
        if not 0 <= share <= 1 or not 0 <= floor <= MAX_RETRY_FLOOR:
            raise ValueError(f"share must be 0 to 1, floor 0 to {MAX_RETRY_FLOOR}")
        packed = bytearray(self.pools[pool])
        entry = <ImagePool*><char*>packed
        entry.retry_on = RETRY_UNSAFE if unsafe else 0
        for word in on:
            entry.retry_on |= <uint32_t>RETRY_ON[word]
        entry.retry_within_ms = within_ms
        entry.retry_share_ppm = round(share * RETRY_TOKENS)
        entry.retry_floor = floor
        self.pools[pool] = bytes(packed)

    def set_protocol(self, pool, *, protocol, streams, window_bytes):
        """What the backends of a pool speak, a key of PROTOCOLS; HTTP/1.1 without it. `streams`: how many an HTTP/2 connection has at most at a time;
        `window_bytes`: of an answer that its client does not take."""
        cdef ImagePool* entry
        if not 1 <= streams <= MAX_HTTP2_STREAMS or not MIN_HTTP2_WINDOW_BYTES <= window_bytes <= MAX_HTTP2_WINDOW_BYTES:
            raise ValueError(f"streams are 1 to {MAX_HTTP2_STREAMS}, a window has {MIN_HTTP2_WINDOW_BYTES} to {MAX_HTTP2_WINDOW_BYTES} bytes")
        packed = bytearray(self.pools[pool])
        entry = <ImagePool*><char*>packed
        entry.protocol = PROTOCOLS[protocol]
        entry.http2_streams = streams
        entry.http2_window_bytes = window_bytes
        self.pools[pool] = bytes(packed)

    def set_proxy_header(self, pool, *, version, facts=()):
        """Has connections to the backends of a pool begin with a PROXY header of this version, 1 or 2. `facts`: what that one tells beside the
        client's address, by name as PROXY_SENDS has it. No connection stays idle then: the pool's max_idle is 0."""
        cdef uint32_t flags = types.PROXY_SENDS_LINE if version == 1 else types.PROXY_SENDS_BINARY
        packed = bytearray(self.pools[pool])
        for fact in facts:
            flags |= PROXY_SENDS[fact]
        (<ImagePool*><char*>packed).proxy_header = flags
        (<ImagePool*><char*>packed).max_idle = 0
        self.pools[pool] = bytes(packed)

    def set_socket(self, pool, *, keepalive=(0, 0, 0), source=""):
        """What connections to its backends have. `keepalive`: seconds of silence before the first probe (0 = none), seconds between probes, how
        many; `source`: the IP address that they come from, for backends of its family; "": the system's choice; "client": the client's own, of a
        pool that gets sessions only."""
        cdef:
            ImageSocket* entry
            bytes address
        packed = bytearray(self.pools[pool])
        entry = &(<ImagePool*><char*>packed).socket
        entry.keepalive_idle_s, entry.keepalive_interval_s, entry.keepalive_count = keepalive
        if source == "client":
            entry.is_transparent = 1
        elif source:
            address = pack_address(source, 1)
            entry.source_size = <uint32_t>len(address)
            memcpy(entry.source, <const char*>address, entry.source_size)
            (<uint16_t*>entry.source)[1] = 0    # its port: chosen when it connects
        entry.is_set = keepalive[0] != 0 or entry.source_size != 0 or entry.is_transparent != 0
        self.pools[pool] = bytes(packed)

    def set_hedge(self, pool, *, after_ms):
        """After how long a second backend is asked beside the first; never without it."""
        packed = bytearray(self.pools[pool])
        (<ImagePool*><char*>packed).hedge_after_ms = after_ms
        self.pools[pool] = bytes(packed)

    def set_passive_health(self, pool, *, counts, failures_in_row, error_ratio, min_requests, window_ms, ejection_ms, max_ejection_ms,
                           max_ejected):
        """Ejects backends of a pool that fail its requests; never without it. `counts`: which ends are failures, keys of RETRY_ON; `failures_in_row` of
        them do it, or a share `error_ratio` of at least `min_requests` within a window, each 0 = not by that. An ejection lasts `ejection_ms`, each
        that follows as much longer, at most `max_ejection_ms`; at most a share `max_ejected` of the pool is out at a time, but always one."""
        cdef ImageHealth* entry
        if not (0 <= error_ratio <= 1 and 0 <= max_ejected <= 1 and 0 < ejection_ms <= max_ejection_ms and window_ms > 0):
            raise ValueError("shares must be 0 to 1, times above 0, the first ejection at most as long as the longest")
        packed = bytearray(self.pools[pool])
        entry = &(<ImagePool*><char*>packed).health
        entry.row = self.add_pool_row(pool, "health")
        for word in counts:
            entry.counts |= <uint32_t>RETRY_ON[word]
        entry.failures_in_row = failures_in_row
        entry.error_permille = round(error_ratio * 1000)
        entry.min_requests = min_requests
        entry.window_ms, entry.ejection_ms, entry.max_ejection_ms = window_ms, ejection_ms, max_ejection_ms
        entry.max_ejected_permille = int(max_ejected * 1000 + 1e-6)
        self.pools[pool] = bytes(packed)

    def set_limits(self, pool, *, connections=0, pending=0, requests=0, retries=0):
        """How many connections to its backends, attempts whose connection is being made, attempts, and exchanges that are tried again a pool
        may have at a time, over all workers; 0 = no limit."""
        cdef ImageLimit* entry
        packed = bytearray(self.pools[pool])
        for kind, (name, most) in enumerate((("connections", connections), ("pending", pending), ("requests", requests),
                                             ("retries", retries))):
            entry = &(<ImagePool*><char*>packed).limits[<int>kind]
            entry.most = most
            if most:
                entry.row = self.add_pool_row(pool, name)
        self.pools[pool] = bytes(packed)

    def set_panic(self, pool, *, below=0.0):
        """Has backends of a pool picked that are down or ejected when none of it is up, or fewer than a share `below`."""
        if not 0 <= below <= 1:
            raise ValueError("a share must be 0 to 1")
        packed = bytearray(self.pools[pool])
        (<ImagePool*><char*>packed).panics = 1
        (<ImagePool*><char*>packed).panic_permille = round(below * 1000)
        self.pools[pool] = bytes(packed)

    cdef ImageText add_pool_row(self, pool, str kind) except *:
        # The identity of a row of the pool itself, which no backend can have; that of its queue is the mark and its name alone.
        cdef:
            bytes packed = self.pools[pool]
            ImageText name = (<const ImagePool*><const char*>packed).name
            uint32_t start = name.offset - <uint32_t>sizeof(ImageHeader)
        return self.add_text(chr(QUEUE_MARK).encode() + bytes(self.texts[start:start + name.size]) + f"|{kind}".encode())

    def begin_group(self, pool):
        """Backends that are added from now on are picked only when none of those added to this pool before can be."""
        starts, n = self.pool_groups[pool], len(self.pool_backends[pool])
        if n not in starts:
            starts.append(n)

    def set_sticky_cookie(self, pool, *, name, attributes, lifetime_s=0, flags=0):
        """Has clients of a pool come back to their backends by a cookie of ours.

        Args:
            name: of the cookie, at most 128 bytes.
            attributes: what stands behind its value in Set-Cookie, but for Secure; at most 1024 bytes.
            lifetime_s: 0 = until the browser ends.
            flags: a sum of STICKY_FLAGS.
        """
        cdef ImageSticky entry
        if not 0 < len(name) <= types.MAX_COOKIE_NAME_BYTES or len(attributes) > types.MAX_COOKIE_ATTRIBUTES_BYTES:
            raise ValueError("the name or the attributes of a cookie are too long, or there is no name")
        memset(&entry, 0, sizeof(entry))
        entry.kind = types.STICKY_COOKIE
        entry.flags = flags
        entry.cookie = self.add_text(name.encode("ascii"))
        entry.attributes = self.add_text(attributes.encode("ascii"))
        entry.lifetime_s = lifetime_s
        self.stickies[pool] = record(&entry, sizeof(entry))

    def set_sticky_table(self, pool, *, learn="", size, expires_ms, v4_bits=32, v6_bits=128, flags=0):
        """Has clients of a pool come back to their backends by a cookie of the application, `learn`, or without one by their address.

        Args:
            learn: name of the cookie, at most 128 bytes; "" = none.
            size: records of the node's table that the pool may use, 8 to 2^20; rounded up to a power of two.
            expires_ms: how long a record lasts after it was last wanted, up to 30 days.
            v4_bits, v6_bits: how much of an address counts.
            flags: a sum of STICKY_FLAGS.
        """
        cdef:
            ImageSticky entry
            const ImagePool* owner = <const ImagePool*><const char*><bytes>self.pools[pool]
            const char* texts = self.texts      # until the next text is added
        if len(learn) > types.MAX_COOKIE_NAME_BYTES:
            raise ValueError("the name of a cookie is too long")
        memset(&entry, 0, sizeof(entry))
        entry.pool_hash = hash_identity(texts + owner.name.offset - sizeof(ImageHeader), owner.name.size)
        entry.kind = types.STICKY_LEARN if learn else types.STICKY_SOURCE
        entry.flags = flags
        entry.cookie = self.add_text(learn.encode("ascii"))
        entry.attributes = self.add_text(b"")
        entry.ticks = min(max(-(-expires_ms // STICKY_TICK_MS), 1), MAX_STICKY_TICKS)
        entry.first = <uint32_t>(entry.pool_hash >> 32) % STICKY_BUCKETS
        while 8 * (entry.mask + 1) < min(size, 8 * STICKY_BUCKETS):
            entry.mask = 2 * entry.mask + 1
        entry.v4_bits, entry.v6_bits = v4_bits, v6_bits
        self.stickies[pool] = record(&entry, sizeof(entry))

    def add_backend(self, pool, *, identity, display, address, weight, max_in_flight, table_name=None, cookie="", tls_name=""):
        """A backend of a pool. `address`: from pack_address or pack_unix, None = not resolved (never picked). `identity`: the text
        that running counts follow from snapshot to snapshot, at most 424 bytes. `table_name`: what its places in hash tables follow; None =
        `display`. `cookie`: what a sticky cookie calls it, 22 ASCII characters, or "". `tls_name`: what its
        certificate is for, if its pool speaks TLS and says nothing else. Returns its index in the pool."""
        cdef:
            ImageBackend entry
            bytes value = cookie.encode("ascii")
        if len(identity.encode()) > MAX_IDENTITY_BYTES:
            raise ValueError(f"the name of a pool and the address of its backend may have {MAX_IDENTITY_BYTES} bytes together: {identity}")
        memset(&entry, 0, sizeof(entry))
        entry.identity = self.add_text(identity.encode())
        entry.display = self.add_text(display.encode())
        entry.weight = weight
        entry.max_in_flight = max_in_flight
        entry.tls_name = self.add_list(tls_name)
        if value:
            if len(value) != types.STICKY_VALUE_BYTES:
                raise ValueError(f"a sticky cookie's value has {types.STICKY_VALUE_BYTES} characters")
            memcpy(entry.cookie, <const char*>value, types.STICKY_VALUE_BYTES)
        if address is not None:
            if len(address) > 110:
                raise ValueError("not a packed address")
            entry.address_size = <uint32_t>len(address)
            memcpy(entry.address, <const char*><bytes>address, entry.address_size)
        self.pool_backends[pool].append(record(&entry, sizeof(entry)))
        self.table_names[pool].append((display if table_name is None else table_name).encode())
        return len(self.pool_backends[pool]) - 1

    def add_route(self, *, pool, name="", priority=DEFAULT_PRIORITY, meter=0):
        """What happens to the requests of a route; the route table says which they are. `priority`: in the queue of the pool, 0 (first)
        to 7. Returns its index."""
        cdef ImageRoute entry
        if pool is not None and not 0 <= pool < len(self.pools):
            raise ValueError(f"no pool {pool}")
        if not 0 <= priority < QUEUE_PRIORITIES:
            raise ValueError(f"priorities are 0 to {QUEUE_PRIORITIES - 1}")
        memset(&entry, 0, sizeof(entry))
        entry.name = self.add_text(name.encode())
        entry.pool = <uint32_t>NO_INDEX if pool is None else pool
        entry.priority = priority
        entry.meter = check_meter(meter)
        self.routes.append(bytearray(record(&entry, sizeof(entry))))
        return len(self.routes) - 1

    def set_mirror(self, route, *, pool, share):
        """A pool that gets a share (0.0 to 1.0) of a route's requests as well."""
        if not 0 <= pool < len(self.pools):
            raise ValueError(f"no pool {pool}")
        self.route(route).features |= <uint32_t>ROUTE_MIRROR
        self.route(route).mirror_pool = pool
        self.route(route).mirror_share = <uint32_t>round(share * <uint32_t>types.MIRROR_ALL)

    cdef ImageRoute* route(self, number) except NULL:
        # Its record, until the next one is added.
        return <ImageRoute*><char*><bytearray>self.routes[number]

    cdef ImageSection add_template(self, template) except *:
        # `template`: bytes, which are written as they are, and values as (key of SEGMENTS, key of ENCODINGS, name).
        cdef:
            ImageSegment entry
            ImageSection result
        result.offset = <uint32_t>len(self.segments)
        result.count = <uint32_t>len(template)
        if len(template) > MAX_TEMPLATE_SEGMENTS or sum(len(piece) for piece in template if isinstance(piece, bytes)) > MAX_TEMPLATE_LITERAL_BYTES:
            raise ValueError(f"a template has at most {MAX_TEMPLATE_SEGMENTS} segments and {MAX_TEMPLATE_LITERAL_BYTES} bytes of text")
        for piece in template:
            memset(&entry, 0, sizeof(entry))
            if isinstance(piece, bytes):
                entry.text = self.add_text(piece)
            else:
                kind, encoding, name = piece
                entry.kind = SEGMENTS[kind]
                entry.encoding = ENCODINGS[encoding]
                if kind == "capture":
                    entry.argument = int(name)
                entry.text = self.add_text((name.lower() if kind in ("header", "response") else name).encode())
            self.segments.append(record(&entry, sizeof(entry)))
        return result

    cdef ImageHeaderEdits add_edits(self, operations) except *:
        # `operations`: of (key of HEADER_OPERATIONS, field, template).
        cdef:
            ImageHeaderOperation entry
            ImageHeaderEdits result
        memset(&result, 0, sizeof(result))
        result.operations.offset = <uint32_t>len(self.operations)
        result.operations.count = <uint32_t>len(operations)
        if len(operations) > MAX_HEADER_OPERATIONS:
            raise ValueError(f"a route edits at most {MAX_HEADER_OPERATIONS} fields of a request or response")
        for kind, name, template in operations:
            raw = name.encode("ascii")
            if not 0 < len(raw) <= MAX_HEADER_NAME_BYTES:
                raise ValueError(f"the name of a header field has 1 to {MAX_HEADER_NAME_BYTES} bytes: {name}")
            memset(&entry, 0, sizeof(entry))
            entry.kind = HEADER_OPERATIONS[kind]
            entry.header_id = header_id(raw, <uint32_t>len(raw))
            entry.name = self.add_text(raw)
            entry.value = self.add_template(template)
            if entry.kind != OPERATION_ADD:
                if entry.header_id == HEADER_OTHER:
                    result.replaced_sizes |= <uint64_t>1 << min(len(raw), 63)
                else:
                    result.replaced_ids |= <uint64_t>1 << entry.header_id
            self.operations.append(record(&entry, sizeof(entry)))
        return result

    def edit_request(self, route, operations):
        """Edits of the requests of a route, beside the usual X-Forwarded-* and X-Request-Id, whose place they take where they have the same
        name; of (key of HEADER_OPERATIONS, field, template). A template is a sequence of bytes and of (key of SEGMENTS, key of ENCODINGS,
        name), the name being that of a field, a cookie or the like. Setting Host is possible, adding or removing it is not."""
        operations = list(operations)
        for kind, name, template in operations:
            if name.lower() == "host":
                if kind != "set":
                    raise ValueError("Host can be set and nothing else")
                self.route(route).host = self.add_template(template)
                self.route(route).features |= ROUTE_SETS_HOST
        self.request_edits[route] = [operation for operation in operations if operation[1].lower() != "host"]

    def edit_response(self, route, operations):
        """Edits of what the backends of a route answer; as for edit_request."""
        cdef ImageHeaderEdits edits = self.add_edits(list(operations))
        self.route(route).response = edits
        self.route(route).features |= ROUTE_EDITS_RESPONSE

    def set_split(self, route, shares, *, key=()):
        """Splits the requests of a route. `shares`: of (pool, weight), at most 64, with a sum above 0; `key`: a template; requests of the same
        key go to the same pool. Without a key they are spread at random."""
        cdef ImageShare entry
        shares = [(pool, weight) for pool, weight in shares if weight]
        total = sum(weight for _, weight in shares)
        if not 0 < len(shares) <= MAX_SHARES or min(weight for _, weight in shares) < 0:
            raise ValueError(f"a route splits between at most {MAX_SHARES} pools")
        self.route(route).shares.offset = <uint32_t>len(self.shares)
        self.route(route).shares.count = <uint32_t>len(shares)
        self.route(route).split_by = self.add_template(key)
        self.route(route).features |= ROUTE_SPLITS
        below = 0
        for pool, weight in shares:
            if not 0 <= pool < len(self.pools):
                raise ValueError(f"no pool {pool}")
            below += weight
            memset(&entry, 0, sizeof(entry))
            entry.bound = (below << 32) // total - 1
            entry.pool = pool
            self.shares.append(record(&entry, sizeof(entry)))

    def keep_match(self, route):
        """Keeps the groups of a route's path for its templates: to be called where one of them has a capture."""
        self.route(route).features |= ROUTE_KEEPS_MATCH

    def set_hash_key(self, pool, key):
        """What the algorithm of a pool hashes; a template. The client's address where it is not called."""
        cdef bytearray packed = bytearray(self.pools[pool])
        (<ImagePool*><char*>packed).hash_key = self.add_template(key)
        self.pools[pool] = bytes(packed)

    cdef int set_status(self, route, status, phrase) except -1:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no status of a final response")
        self.route(route).status = status
        self.route(route).phrase = self.add_text(phrase.encode("ascii"))
        return 0

    def set_redirect(self, route, status, phrase, to, *, needs_host):
        """Has a route redirect. `to`: a template; `needs_host`: whether it has the client's Host in it, which then must be there."""
        self.set_status(route, status, phrase)
        self.route(route).target = self.add_template(to)
        self.route(route).features |= ROUTE_REDIRECTS | (ROUTE_NEEDS_HOST if needs_host else 0)

    def set_response(self, route, status, phrase, *, content_type, body):
        """Has a route answer by itself. `body`: a template."""
        self.set_status(route, status, phrase)
        self.route(route).content_type = self.add_text(content_type.encode("ascii"))
        self.route(route).body = self.add_template(body)
        self.route(route).features |= ROUTE_RESPONDS

    def set_close(self, route):
        """Has a route close the client's connection without an answer."""
        self.route(route).features |= ROUTE_CLOSES

    def set_target(self, route, target):
        """What the backends of a route get instead of the target; a template."""
        self.route(route).target = self.add_template(target)
        self.route(route).features |= ROUTE_REWRITES

    def set_prefix(self, route, size, prefix):
        """Takes `size` bytes off the normalised path of each request and puts `prefix` in their place."""
        self.route(route).prefix_size = size
        self.route(route).prefix = self.add_text(prefix.encode())
        self.route(route).features |= ROUTE_REPLACES_PREFIX

    def set_route_timeouts(self, route, *, connect_ms, first_byte_ms, between_bytes_ms, exchange_ms, tunnel_ms):
        """Time-outs of a route in milliseconds; 0 where they are its pool's."""
        self.route(route).connect_timeout_ms = connect_ms
        self.route(route).first_byte_timeout_ms = first_byte_ms
        self.route(route).between_bytes_timeout_ms = between_bytes_ms
        self.route(route).exchange_timeout_ms = exchange_ms
        self.route(route).tunnel_timeout_ms = tunnel_ms
        self.route(route).features |= ROUTE_HAS_TIMEOUTS

    def set_body_limit(self, route, size):
        """The largest request body of a route in bytes, whatever its listener says; 0 = no limit."""
        self.route(route).max_body_bytes = size
        self.route(route).features |= ROUTE_HAS_LIMITS

    cdef int pack_request_edits(self) except -1:
        # The usual operations once for all routes without edits of their own, and once more in front of those of each other route.
        cdef ImageHeaderEdits usual, own
        defaults = [*(FORWARDED_HEADERS if self.forwarded_headers else ()), *(REQUEST_ID_HEADERS if self.request_id else ())]
        usual = self.add_edits(defaults)
        for number in range(len(self.routes)):
            edits = self.request_edits.get(number)
            if not edits:
                self.route(number).request = usual
                continue
            named = {name.lower() for kind, name, _ in edits if kind != "add"}
            own = self.add_edits([*(operation for operation in defaults if operation[1].lower() not in named), *edits])
            self.route(number).request = own
            if own.replaced_sizes:
                self.route(number).features |= ROUTE_DROPS_NAMES
        return 0

    cdef bytes pack_sticky_slots(self, list backends):
        # The table from cookie values to backends of a pool, at most half full.
        cdef:
            const ImageBackend* backend
            uint32_t mask = 3, at, number
        while mask < 2 * len(backends):
            mask = mask * 2 + 1
        slots = [0] * (mask + 1)
        for number, packed in enumerate(backends):
            backend = <const ImageBackend*><const char*><bytes>packed
            if backend.cookie[0] == 0:
                raise ValueError("a backend of a pool with a sticky cookie has no value for it")
            at = hash_sticky_value(backend.cookie) & mask
            while slots[at]:
                at = (at + 1) & mask
            slots[at] = number + 1
        return b"".join([index.to_bytes(4, sys.byteorder) for index in slots])

    def finish(self):
        """The image as a sealed memfd, read-only for whoever maps it. The caller closes the descriptor."""
        cdef:
            ImageHeader header
            ImagePool* pool
            ImageSticky* sticky
        memset(&header, 0, sizeof(header))
        self.pack_request_edits()
        pools, backends, groups, stickies = [], [], [], []
        for number, (packed, entries, names, starts) in enumerate(zip(self.pools, self.pool_backends, self.table_names, self.pool_groups,
                                                                      strict=True)):
            packed = bytearray(packed)
            pool = <ImagePool*><char*>packed
            if number in self.stickies:
                pool.sticky = <uint32_t>len(stickies)
                sticky = <ImageSticky*><char*><bytes>self.stickies[number]
                values = self.pack_sticky_slots(entries) if sticky.kind == types.STICKY_COOKIE else b""
                stickies.append((bytearray(self.stickies[number]), values))
            pool.backends.offset = <uint32_t>len(backends)
            pool.backends.count = <uint32_t>len(entries)
            pool.groups.offset = <uint32_t>len(groups)
            pool.groups.count = <uint32_t>len(starts)
            for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
                groups.append((pool.algorithm, entries[start:end], names[start:end]))
            backends += entries
            pools.append(bytes(packed))
        body = bytearray(self.texts)

        def place(data):
            body.extend(bytes(-(sizeof(ImageHeader) + len(body)) % 8))
            offset = sizeof(ImageHeader) + len(body)
            body.extend(data)
            return offset

        header.operations.offset, header.operations.count = place(b"".join(self.operations)), len(self.operations)
        header.networks.offset, header.networks.count = place(b"".join(self.networks)), len(self.networks)
        header.listeners.offset, header.listeners.count = place(b"".join(self.listeners)), len(self.listeners)
        header.route_table.offset, header.route_table.count = place(self.route_table), len(self.route_table)
        header.routes.offset, header.routes.count = place(b"".join(self.routes)), len(self.routes)
        header.pools.offset, header.pools.count = place(b"".join(pools)), len(pools)
        header.backends.offset, header.backends.count = place(b"".join(backends)), len(backends)
        groups = [pack_group(algorithm, entries, names, place) for algorithm, entries, names in groups]
        header.groups.offset, header.groups.count = place(b"".join(groups)), len(groups)
        header.log_plan.offset, header.log_plan.count = place(self.log_plan), len(self.log_plan)
        header.segments.offset, header.segments.count = place(b"".join(self.segments)), len(self.segments)
        for packed, slots in stickies:
            sticky = <ImageSticky*><char*>packed
            sticky.slots.offset, sticky.slots.count = place(slots), len(slots) // sizeof(uint32_t)
        header.stickies.offset, header.stickies.count = place(b"".join([bytes(packed) for packed, _ in stickies])), len(stickies)
        header.shares.offset, header.shares.count = place(b"".join(self.shares)), len(self.shares)
        header.certificates.offset, header.certificates.count = place(b"".join(self.certificates)), len(self.certificates)
        header.tls_identities.offset, header.tls_identities.count = place(b"".join(self.tls_identities)), len(self.tls_identities)
        header.names.offset, header.names.count = place(b"".join(self.names)), len(self.names)
        header.tls.offset, header.tls.count = place(b"".join(self.tls)), len(self.tls)
        header.backend_tls.offset, header.backend_tls.count = place(b"".join(self.backend_tls)), len(self.backend_tls)
        header.senders.offset, header.senders.count = place(b"".join(self.senders)), len(self.senders)
        header.ticket_keys.offset, header.ticket_keys.count = place(b"".join(self.ticket_keys)), len(self.ticket_keys)
        header.sni_choices.offset, header.sni_choices.count = place(b"".join(self.sni_choices)), len(self.sni_choices)
        place(b"")                              # ends at a multiple of 8, as its records do
        header.magic = <uint64_t>IMAGE_MAGIC
        header.layout_version = IMAGE_LAYOUT
        header.size = <uint32_t>(sizeof(ImageHeader) + len(body))
        header.generation = self.generation
        header.reason_header = self.reason_header
        header.max_connections = self.max_connections
        header.python_path = self.python_path
        return seal(record(&header, sizeof(header)) + bytes(body))


# How conditions and their values are named, and the methods that have a bit.
CONDITIONS = {"method": types.CONDITION_METHOD, "client": types.CONDITION_CLIENT, "header": types.CONDITION_HEADER,
              "cookie": types.CONDITION_COOKIE, "query": types.CONDITION_QUERY}
VALUES = {"exact": types.VALUE_EXACT, "prefix": types.VALUE_PREFIX, "suffix": types.VALUE_SUFFIX, "part": types.VALUE_PART,
          "regex": types.VALUE_REGEX, "regex_caseless": types.VALUE_REGEX}
METHODS = {"GET": types.METHOD_GET, "HEAD": types.METHOD_HEAD, "POST": types.METHOD_POST, "PUT": types.METHOD_PUT,
           "DELETE": types.METHOD_DELETE, "OPTIONS": types.METHOD_OPTIONS, "TRACE": types.METHOD_TRACE}
MATCH_LIMITS = {"path_bytes": types.MAX_LOCATION_BYTES, "groups": types.MAX_MATCH_GROUPS - 1}


class _Location:
    """An exact path or a prefix of a host, while its table is written: packed rules, and the route where none holds."""

    __slots__ = ("route", "rules")

    def __init__(self):
        self.route, self.rules = None, []


cdef class RouteTableWriter:
    """Builds the route table of a snapshot (data_plane/route_table.pyx reads it).

    Args:
        n_host_sets: how many sets of hosts listeners may choose from; at least one.
    """
    cdef:
        bytearray texts
        list sets, conditions, values, networks, regexes
        dict conditions_written, regexes_written

    def __init__(self, n_host_sets=1):
        self.texts = bytearray()
        self.sets = [{} for _ in range(n_host_sets)]
        self.conditions, self.values, self.networks, self.regexes = [], [], [], []
        self.conditions_written, self.regexes_written = {}, {}

    cdef ImageText add_text(self, bytes text):
        # Texts stand right behind the header, so that their final offset is known at once.
        cdef ImageText result
        result.offset = <uint32_t>(sizeof(ImageRouteTable) + len(self.texts))
        result.size = <uint32_t>len(text)
        self.texts += text
        return result

    def add_rule(self, route, *, host="", path="/", exact=False, regex=None, conditions=(), host_sets=(0,)):
        """Leads requests to a route. Rules of one host and path are tried in the order in which they are added, those without regex and
        conditions last.

        Args:
            route: from SnapshotWriter.add_route.
            host: "" or "*" = any, "*.example.com" = any longer name ending so, else exact.
            path: prefix of the normalised path, or all of it where `exact`.
            regex: what the path has to match besides: a pattern (bytes) and whether case makes no difference.
            conditions: each a key of CONDITIONS, whether it is negated, a name ("" for methods and clients) and its values, of which one has
                to match. Methods are texts, clients are networks (ipaddress), other values pairs of a key of VALUES and bytes; without
                values it is enough that there is such a field, cookie or parameter.
            host_sets: where the rule belongs to.
        """
        cdef ImageRule rule
        raw = path.encode() if isinstance(path, str) else path
        if not raw.startswith(b"/") or len(raw) > MAX_LOCATION_BYTES:
            raise ValueError(f"path {path!r} does not begin with '/', or is too long")
        host = "" if host == "*" else host.lower()
        memset(&rule, 0, sizeof(rule))
        rule.route = route
        rule.regex = <uint32_t>NO_INDEX if regex is None else self.add_regex(regex[0], regex[1])
        rule.conditions = self.add_conditions(sorted(conditions, key=lambda condition: CONDITIONS[condition[0]]))
        for number in host_sets:
            locations = self.sets[number].setdefault(host, {})
            location = locations.setdefault((raw, bool(exact)), _Location())
            if regex is not None or conditions:
                location.rules.append(record(&rule, sizeof(rule)))
            elif location.route is None:
                location.route = route

    cdef uint32_t add_regex(self, bytes pattern, bint caseless):
        cdef ImageRegex entry
        if (pattern, caseless) not in self.regexes_written:
            memset(&entry, 0, sizeof(entry))
            entry.pattern = self.add_text(pattern)
            entry.flags = REGEX_CASELESS if caseless else 0
            self.regexes_written[pattern, caseless] = len(self.regexes)
            self.regexes.append(record(&entry, sizeof(entry)))
        return self.regexes_written[pattern, caseless]

    cdef ImageSection add_conditions(self, list conditions):
        # The conditions of a rule, once for all rules that have the same.
        cdef ImageSection section
        key = repr(conditions)
        if key not in self.conditions_written:
            self.conditions_written[key] = len(self.conditions)
            for kind, negated, name, values in conditions:
                self.add_condition(kind, negated, name, values)
        section.offset, section.count = self.conditions_written[key], <uint32_t>len(conditions)
        return section

    cdef int add_condition(self, kind, negated, name, values) except -1:
        cdef:
            ImageCondition entry
            ImageValue value
        memset(&entry, 0, sizeof(entry))
        entry.kind = CONDITIONS[kind]
        entry.negated = negated
        entry.name = self.add_text(name.lower().encode() if kind == "header" else name.encode())
        if kind == "client":
            entry.values.offset, entry.values.count = <uint32_t>len(self.networks), <uint32_t>len(values)
            self.networks += [pack_network(network) for network in values]
        else:
            if kind == "method":
                for method in values:
                    entry.methods |= <uint32_t>1 << METHODS.get(method, types.METHOD_OTHER)
                values = [("exact", method.encode()) for method in values if method not in METHODS]
            entry.values.offset, entry.values.count = <uint32_t>len(self.values), <uint32_t>len(values)
            for how, text in values:
                memset(&value, 0, sizeof(value))
                value.kind = VALUES[how]
                if value.kind == types.VALUE_REGEX:
                    value.regex = self.add_regex(text, how == "regex_caseless")
                else:
                    value.text = self.add_text(text)
                self.values.append(record(&value, sizeof(value)))
        self.conditions.append(record(&entry, sizeof(entry)))
        return 0

    cdef list pack_host(self, ImageHost* host, dict locations, list lengths, list slots, list packed, list rules):
        # The locations of one host, the shortest first, so that `shorter` leads backwards.
        cdef:
            ImagePathLength length
            ImageLocationSlot slot
            ImageLocation entry
            uint32_t hash_value
        ordered = sorted(locations, key=lambda key: (len(key[0]), key[1]))
        kinds = {}
        for path, exact in ordered:
            kinds[len(path)] = kinds.get(len(path), 0) | <int>(types.PATH_EXACT if exact else types.PATH_PREFIX)
        host.path_lengths.offset, host.path_lengths.count = <uint32_t>len(lengths), <uint32_t>len(kinds)
        for size, kind in kinds.items():
            length.size, length.kinds = size, kind
            lengths.append(record(&length, sizeof(length)))
        n_slots = table_size(len(ordered))
        table = [None] * n_slots
        indexes = {}
        for path, exact in ordered:
            location = locations[path, exact]
            memset(&entry, 0, sizeof(entry))
            entry.route = <uint32_t>NO_INDEX if location.route is None else location.route
            entry.shorter = <uint32_t>NO_INDEX
            for size in kinds:
                if size < len(path) + exact and path[:size] in indexes:
                    entry.shorter = indexes[path[:size]]
            entry.rules.offset, entry.rules.count = <uint32_t>len(rules), <uint32_t>len(location.rules)
            rules += location.rules
            if not exact:
                indexes[path] = len(packed)
            memset(&slot, 0, sizeof(slot))
            slot.kind = <int>(types.PATH_EXACT if exact else types.PATH_PREFIX)
            slot.hash = hash_location(path, <uint32_t>len(path), slot.kind)
            slot.size = <uint32_t>len(path)
            slot.path = self.add_text(path).offset
            packed.append(record(&entry, sizeof(entry)))
            slot.location = <uint32_t>len(packed)
            hash_value = slot.hash
            put_slot(table, hash_value, record(&slot, sizeof(slot)))
        host.slots.offset, host.slots.count = <uint32_t>len(slots), n_slots
        memset(&slot, 0, sizeof(slot))
        empty = record(&slot, sizeof(slot))
        slots += [filled or empty for filled in table]

    def finish(self):
        """The table, for SnapshotWriter.set_route_table."""
        cdef:
            ImageRouteTable header
            ImageHostSet entry
            ImageHostSlot slot
            ImageHost host
        memset(&header, 0, sizeof(header))
        sets, host_slots, hosts, lengths, slots, locations, rules = [], [], [], [], [], [], []
        for names in self.sets:
            memset(&entry, 0, sizeof(entry))
            entry.any_host = <uint32_t>NO_INDEX
            n_names = len(names) - ("" in names)
            table = [None] * (table_size(n_names) if n_names else 0)
            for name, of_host in names.items():
                memset(&host, 0, sizeof(host))
                host.wildcard = name.startswith("*.")
                raw = name.removeprefix("*").encode("idna" if not name.isascii() else "ascii")
                host.name = self.add_text(raw)
                self.pack_host(&host, of_host, lengths, slots, locations, rules)
                hosts.append(record(&host, sizeof(host)))
                if not name:
                    entry.any_host = <uint32_t>len(hosts) - 1
                    continue
                entry.has_wildcards |= host.wildcard
                slot.hash, slot.host = hash_host(raw, <uint32_t>len(raw)), <uint32_t>len(hosts)
                put_slot(table, slot.hash, record(&slot, sizeof(slot)))
            memset(&slot, 0, sizeof(slot))
            empty = record(&slot, sizeof(slot))
            entry.slots.offset, entry.slots.count = <uint32_t>len(host_slots), <uint32_t>len(table)
            host_slots += [filled or empty for filled in table]
            sets.append(record(&entry, sizeof(entry)))
        body = bytearray(self.texts)

        def place(records):
            body.extend(bytes(-(sizeof(ImageRouteTable) + len(body)) % 8))
            offset = sizeof(ImageRouteTable) + len(body)
            body.extend(b"".join(records))
            return offset, len(records)

        header.host_sets.offset, header.host_sets.count = place(sets)
        header.host_slots.offset, header.host_slots.count = place(host_slots)
        header.hosts.offset, header.hosts.count = place(hosts)
        header.path_lengths.offset, header.path_lengths.count = place(lengths)
        header.location_slots.offset, header.location_slots.count = place(slots)
        header.locations.offset, header.locations.count = place(locations)
        header.rules.offset, header.rules.count = place(rules)
        header.conditions.offset, header.conditions.count = place(self.conditions)
        header.values.offset, header.values.count = place(self.values)
        header.networks.offset, header.networks.count = place(self.networks)
        header.regexes.offset, header.regexes.count = place(self.regexes)
        header.size = <uint32_t>(sizeof(ImageRouteTable) + len(body))
        return record(&header, sizeof(header)) + bytes(body)


def table_size(count):
    """Slots of an open-addressing table: a power of two, at most half full."""
    return 1 << (2 * count - 1).bit_length()


def put_slot(table, hash_value, slot):
    """Puts a slot where a look-up finds it: at its hash, or behind what is there already."""
    at = hash_value & len(table) - 1
    while table[at] is not None:
        at = (at + 1) & len(table) - 1
    table[at] = slot


# Names of the log plan's numbers. A field is named as formats and conditions name it; "literal" and "capture" are for compilers only.
LOG_CAPTURES = {"method": types.CAPTURE_METHOD, "target": types.CAPTURE_TARGET, "path": types.CAPTURE_PATH, "query": types.CAPTURE_QUERY,
                "protocol": types.CAPTURE_PROTOCOL, "request": types.CAPTURE_REQUEST_LINE, "host": types.CAPTURE_HOST,
                "user": types.CAPTURE_USER, "request_id": types.CAPTURE_REQUEST_ID, "pool": types.CAPTURE_POOL,
                "request_field": types.CAPTURE_REQUEST_FIELD, "response_field": types.CAPTURE_RESPONSE_FIELD,
                "grpc_status": types.CAPTURE_GRPC_STATUS,
                **{name: types.CAPTURE_TLS + fact for name, fact in TLS_FACTS.items()},
                **{name: types.CAPTURE_PROXY + fact for name, fact in PROXY_FACTS.items()}}
LOG_TEXT_FIELDS = {"capture": types.LOG_CAPTURE, "client": types.LOG_CLIENT, "request_id": types.LOG_REQUEST_ID, "reason": types.LOG_REASON,
                   "backend": types.LOG_BACKEND}
LOG_NUMBER_FIELDS = {"backend_status": types.LOG_BACKEND_STATUS, "connect_ms": types.LOG_CONNECT_MS,
                     "first_byte_ms": types.LOG_FIRST_BYTE_MS, "backend_ms": types.LOG_BACKEND_MS, "status": types.LOG_STATUS,
                     "bytes_sent": types.LOG_BYTES_SENT, "body_bytes_sent": types.LOG_BODY_BYTES_SENT,
                     "request_bytes": types.LOG_REQUEST_BYTES, "request_body_bytes": types.LOG_REQUEST_BODY_BYTES,
                     "duration_ms": types.LOG_DURATION_MS, "attempts": types.LOG_ATTEMPTS, "client_port": types.LOG_CLIENT_PORT,
                     "connection": types.LOG_CONNECTION, "connection_requests": types.LOG_CONNECTION_REQUESTS,
                     "keep_alive": types.LOG_KEEP_ALIVE, "tunnel": types.LOG_TUNNEL, "pid": types.LOG_PID,
                     "queue_ms": types.LOG_QUEUE_MS, "grpc_status": types.LOG_GRPC_STATUS}
LOG_OTHER_FIELDS = {"literal": types.LOG_LITERAL, "duration": types.LOG_DURATION, "time_local": types.LOG_TIME_LOCAL,
                    "time": types.LOG_TIME, "time_seconds": types.LOG_TIME_SECONDS, "time_syslog": types.LOG_TIME_SYSLOG,
                    "backends": types.LOG_BACKENDS, "backend_statuses": types.LOG_BACKEND_STATUSES}
LOG_FIELDS = {**LOG_TEXT_FIELDS, **LOG_NUMBER_FIELDS, **LOG_OTHER_FIELDS}
LOG_ESCAPES = {"text": types.ESCAPE_TEXT, "json": types.ESCAPE_JSON, "json_text": types.ESCAPE_JSON_TEXT, "none": types.ESCAPE_NONE}
LOG_COMPARISONS = {"==": types.COMPARE_EQUAL, "!=": types.COMPARE_NOT_EQUAL, "<": types.COMPARE_LESS, "<=": types.COMPARE_LESS_OR_EQUAL,
                   ">": types.COMPARE_GREATER, ">=": types.COMPARE_GREATER_OR_EQUAL, "starts_with": types.COMPARE_STARTS_WITH,
                   "ends_with": types.COMPARE_ENDS_WITH, "contains": types.COMPARE_CONTAINS}
LOG_DESTINATION_KINDS = {"file": types.LOG_TO_FILE, "stream": types.LOG_TO_STREAM, "datagrams": types.LOG_TO_DATAGRAMS}
LOG_LIMITS = {"logs": types.MAX_LOGS, "captures": types.MAX_LOG_CAPTURES, "operations": types.MAX_LOG_OPERATIONS,
              "literal_bytes": types.MAX_LOG_LITERAL_BYTES, "destinations": types.MAX_LOG_DESTINATIONS}


cdef class LogPlanWriter:
    """Builds the log plan of a snapshot (data_plane/access_log.pyx reads it). Indices returned by the add_ methods count from 0.

    Args:
        ring_bytes: room for lines that are not yet written; rounded up to a power of two.
    """
    cdef:
        bytearray texts
        list sets, logs, captures, operations, terms, destinations
        uint32_t ring_bytes

    def __init__(self, ring_bytes):
        self.texts = bytearray()
        self.sets, self.logs, self.captures, self.operations, self.terms, self.destinations = [], [], [], [], [], []
        self.ring_bytes = 131072
        while self.ring_bytes < ring_bytes:
            self.ring_bytes *= 2

    cdef ImageText add_text(self, bytes text):
        # Texts stand right behind the header, so that their final offset is known at once.
        cdef ImageText result
        result.offset = <uint32_t>(sizeof(ImageLogPlan) + len(self.texts))
        result.size = <uint32_t>len(text)
        self.texts += text
        return result

    def add_destination(self, identity, kind):
        """`identity`: the text that a descriptor follows from snapshot to snapshot; `kind`: a key of LOG_DESTINATION_KINDS."""
        cdef ImageLogDestination entry
        memset(&entry, 0, sizeof(entry))
        entry.identity = self.add_text(identity.encode())
        entry.kind = LOG_DESTINATION_KINDS[kind]
        self.destinations.append(record(&entry, sizeof(entry)))
        return len(self.destinations) - 1

    def add_set(self, captures, logs):
        """What one listener logs.

        Args:
            captures: pairs of a key of LOG_CAPTURES and, for fields of heads, their name in lower case (else "").
            logs: of each log its destination (an index), sample (0.0 to 1.0), operations and terms. An operation is bytes, written as they
                are, or a field (a key of LOG_FIELDS), the index of its capture, and an escape (a key of LOG_ESCAPES). A term is a field,
                the index of its capture, a comparison (a key of LOG_COMPARISONS), a number, a text as bytes, and what follows where it
                holds and where it does not: True and False decide, a number is the index of a later term.
        """
        cdef:
            ImageLogSet entry
            ImageLogCapture capture
            ImageLog log
            ImageLogOperation operation
            ImageLogTerm term
            ImageText text
        memset(&entry, 0, sizeof(entry))
        entry.captures.offset, entry.captures.count = len(self.captures), len(captures)
        entry.logs.offset, entry.logs.count = len(self.logs), len(logs)
        for kind, name in captures:
            memset(&capture, 0, sizeof(capture))
            capture.kind = LOG_CAPTURES[kind]
            capture.name = self.add_text(name.encode())
            self.captures.append(record(&capture, sizeof(capture)))
        for destination, sample, operations, terms in logs:
            memset(&log, 0, sizeof(log))
            log.destination = destination
            log.sample = <uint32_t>round(sample * <uint32_t>types.LOG_SAMPLE_ALL)
            entry.max_sample = max(entry.max_sample, log.sample)
            log.operations.offset, log.operations.count = len(self.operations), len(operations)
            log.terms.offset, log.terms.count = len(self.terms), len(terms)
            for one in operations:
                memset(&operation, 0, sizeof(operation))
                if isinstance(one, bytes):
                    text = self.add_text(one)
                    operation.field, operation.argument, operation.size = types.LOG_LITERAL, text.offset, text.size
                else:
                    operation.field, operation.argument, operation.escape = LOG_FIELDS[one[0]], one[1], LOG_ESCAPES[one[2]]
                self.operations.append(record(&operation, sizeof(operation)))
            for field, argument, comparison, number, wanted, on_true, on_false in terms:
                memset(&term, 0, sizeof(term))
                term.field, term.argument, term.comparison = LOG_FIELDS[field], argument, LOG_COMPARISONS[comparison]
                term.number = number
                term.text = self.add_text(wanted)
                term.on_true, term.on_false = pack_next_term(on_true), pack_next_term(on_false)
                self.terms.append(record(&term, sizeof(term)))
            self.logs.append(record(&log, sizeof(log)))
        self.sets.append(record(&entry, sizeof(entry)))
        return len(self.sets) - 1

    def finish(self):
        """The plan, for SnapshotWriter.set_log_plan."""
        cdef:
            ImageLogPlan plan
            ImageSection* sections[6]
            int i
        memset(&plan, 0, sizeof(plan))
        sections[:] = [&plan.sets, &plan.logs, &plan.captures, &plan.operations, &plan.terms, &plan.destinations]
        body = bytearray(self.texts)
        for i, records in enumerate((self.sets, self.logs, self.captures, self.operations, self.terms, self.destinations)):
            body.extend(bytes(-(sizeof(ImageLogPlan) + len(body)) % 8))
            sections[i].offset = <uint32_t>(sizeof(ImageLogPlan) + len(body))
            sections[i].count = <uint32_t>len(records)
            body.extend(b"".join(records))
        plan.size = <uint32_t>(sizeof(ImageLogPlan) + len(body))
        plan.ring_bytes = self.ring_bytes
        return record(&plan, sizeof(plan)) + bytes(body)


def pack_next_term(follows):
    if isinstance(follows, bool):
        return <uint32_t>types.LOG_ACCEPT if follows else <uint32_t>types.LOG_REJECT
    return follows


def seal(bytes image):
    """Puts an image into a memfd that nobody can change any more. The caller closes the descriptor."""
    import fcntl

    fd = os.memfd_create("fastlb-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(image)
        while view:
            view = view[os.write(fd, view):]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


cdef int raise_prepare_error(int error, const char* why) except -1:
    # What kept an image from being prepared; 0 = nothing. `why`: what OpenSSL says.
    if error == NO_SHARED_ROW:
        raise ValueError("a backend of this snapshot has no row in shared memory")
    if error == EINVAL:
        raise ValueError("a regular expression of this snapshot cannot be compiled")
    if error == BAD_TLS:
        raise ValueError(f"a certificate, key or setting of TLS of this snapshot cannot be used: {why.decode(errors='replace')}")
    if error != 0:
        raise MemoryError
    return 0


def may_be_transparent():
    """Whether this process may give a socket an address that is not its node's."""
    try:
        with socket.socket() as one:
            one.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    except PermissionError:
        return False
    return True


cdef class Image:
    """A snapshot image, mapped and checked, for Engine.prepare. Making one takes time and touches no engine: any thread may.

    Args:
        image_fd: from SnapshotWriter.finish; stays the caller's.

    Raises:
        ValueError: the image is damaged or of another build. OSError.
    """
    cdef:
        const char* data            # owned mapping; NULL once an engine has taken it over
        size_t size
        RegexSet compiled           # owned until then
        TlsSet tls                  # owned until then

    def __cinit__(self, int image_fd):
        cdef int error = 0
        with nogil:
            self.data = map_image(image_fd, &self.size, &error)
        if self.data == NULL:
            if error:
                raise OSError(error, os.strerror(error))
            raise ValueError("the snapshot image is damaged or of another build")

    def __dealloc__(self):
        if self.data != NULL:
            munmap(<void*>self.data, self.size)
            self.data = NULL
        free_regexes(&self.compiled)
        free_tls(&self.tls)

    def compile(self):
        """Compiles the regular expressions, and loads certificates and keys, which prepare() otherwise does while clients wait.

        Raises:
            ValueError: one cannot be compiled or loaded. MemoryError.
        """
        cdef int error = 0
        if self.data == NULL:
            raise ValueError("this image is used up")
        if self.compiled.regexes == NULL:
            with nogil:
                error = compile_regexes(self.data, &self.compiled)
            raise_prepare_error(error, b"")
        if not self.tls.is_compiled:
            with nogil:
                error = compile_tls(self.data, &self.tls)
            raise_prepare_error(error, self.tls.why)

    def pickers(self):
        """The pools that pick with a function of the user's own, as pairs of their index and "module:name"."""
        cdef:
            const ImageHeader* header = <const ImageHeader*>self.data
            const ImagePool* pools
            uint32_t i
        if header == NULL:
            raise ValueError("this image is used up")
        pools = <const ImagePool*>(self.data + header.pools.offset)
        return [(i, self.data[pools[i].picker.offset:pools[i].picker.offset + pools[i].picker.size].decode())
                for i in range(header.pools.count) if pools[i].algorithm == types.ALGORITHM_USER]

    def is_transparent(self):
        """Whether connections of one of its pools come from clients' addresses."""
        cdef:
            const ImageHeader* header = <const ImageHeader*>self.data
            uint32_t i
        if header == NULL:
            raise ValueError("this image is used up")
        for i in range(header.pools.count):
            if (<const ImagePool*>(self.data + header.pools.offset))[i].socket.is_transparent:
                return True
        return False

    def python_path(self):
        """As SnapshotWriter.set_python_path was told."""
        cdef const ImageHeader* header = <const ImageHeader*>self.data
        if header == NULL:
            raise ValueError("this image is used up")
        written = self.data[header.python_path.offset:header.python_path.offset + header.python_path.size]
        return [os.fsdecode(directory) for directory in written.split(b"\0") if directory]


# Why connections of HTTP/2 were ended, in the order of Http2End.
HTTP2_ENDS = ("protocol_error", "rapid_resets", "header_flood", "continuation_flood", "ping_flood", "settings_flood", "priority_flood",
              "window_update_flood", "empty_data_flood", "other_flood", "write_timeout", "out_of_memory")


cdef dict describe_counters(const Counters* counters, const WorkerGauges* gauges):
    # As Engine.counters and SharedMemory.counters give them.
    cdef uint32_t i
    result = dict(counters[0])
    del result["reasons"], result["http2_ends"], result["backend_http2_ends"]
    result.update(gauges[0])
    for i in range(FAILURE_BAD_REQUEST_LINE, FAILURE_END):
        result["reason." + failures[i].id.decode()] = counters.reasons[i]
    for i, name in enumerate(HTTP2_ENDS):
        result["http2_ended." + name] = counters.http2_ends[i]
        result["backend_http2_ended." + name] = counters.backend_http2_ends[i]
    return result


cdef int add_numbers(uint64_t* numbers, size_t n, added) except -1:
    # Pairs of an index and what to add, which may be less than 0.
    cdef uint64_t value
    for index, more in added:
        if not 0 <= index < n:
            raise ValueError(f"{index} is no index there")
        value = more & MAX_LONG
        numbers[<size_t>index] += value
    return 0


cdef tuple describe_array(const uint64_t* values, uint32_t n):
    cdef uint32_t i
    return tuple([values[i] for i in range(n)])


cdef void add_histogram(Histogram* total, const Histogram* one) noexcept nogil:
    # Plain loads while its worker goes on: each number is whole, and one that is a moment older than its neighbour does no harm.
    cdef uint32_t i
    total.sum_us += one.sum_us
    for i in range(HISTOGRAM_BUCKETS):
        total.buckets[i] += one.buckets[i]


cdef tuple describe_histogram(const Histogram* histogram):
    return histogram.sum_us, describe_array(histogram.buckets, HISTOGRAM_BUCKETS)


cdef str describe_identity(const RowDetails* row):
    return row.identity[:min(row.identity_size, <uint32_t>MAX_IDENTITY_BYTES)].decode(errors="replace")


cdef int write_legend(SharedTable* table, bytes text) except -1:
    # Into new memory.
    if len(text) > LEGEND_BYTES - 4:
        raise ValueError(f"the legend has {len(text)} bytes, and there is room for {LEGEND_BYTES - 4}")
    (<uint32_t*>(table.base + LEGEND_AT))[0] = <uint32_t>len(text)
    memcpy(table.base + LEGEND_AT + 4, <const char*>text, len(text))
    return 0


cdef class SharedMemory:
    """What all processes of a node see: in-flight counts and totals of backends, each worker's counters and heartbeat.

    Made once, by `create`, and mapped by every process that got the descriptor; a fork inherits the mapping. Who may call what: the
    supervisor settles workers, the controller adds and sweeps rows, each worker opens its slot, everybody reads. It must not be closed under an Engine.

    Args:
        fd: of the memory that another process made; it is copied, and stays the caller's.

    Raises:
        ValueError: this is no shared memory, or one of another layout. OSError.
    """
    cdef:
        SharedTable table
        uint32_t n_engines          # that work on it in this process

    def __cinit__(self, int fd):
        cdef int error
        self.table.base = NULL
        self.table.fd = -1
        if fd < 0:
            return                  # create() goes on from here
        error = map_shared(&self.table, fd)
        if error == -1:
            raise ValueError("this is not shared memory, or of another layout than that of this build of fastlb")
        if error:
            raise OSError(error, os.strerror(error))

    @staticmethod
    def create():
        """New shared memory, with no worker and no row but the node's own. OSError."""
        cdef:
            SharedMemory made = SharedMemory.__new__(SharedMemory, -1)
            int error = create_shared(&made.table, <bytes>BUILD_ID.encode())
        if error:
            raise OSError(error, os.strerror(error))
        write_legend(&made.table, json.dumps(LEGEND, separators=(",", ":")).encode())
        return made

    def __dealloc__(self):
        close_shared(&self.table)

    cdef SharedTable* opened(self) except NULL:
        if self.table.base == NULL:
            raise ValueError("this shared memory is closed")
        return &self.table

    cdef WorkerBlock* worker(self, slot) except NULL:
        cdef SharedTable* table = self.opened()
        if not 0 <= slot < MAX_WORKERS:
            raise ValueError(f"worker slots are 0 to {MAX_WORKERS - 1}")
        return worker_at(table, slot)

    def fileno(self):
        """The descriptor, for other processes."""
        return self.opened().fd

    def close(self):
        """Gives the mapping and the descriptor back; other processes keep theirs. ValueError while an Engine of this process uses it."""
        if self.n_engines:
            raise ValueError("an engine still uses this shared memory")
        close_shared(&self.table)

    def open_worker(self, slot, pid):
        """Makes a slot (0 to MAX_WORKERS - 1) that of the process `pid`, before its engine is made. ValueError: the slot is in use, or
        its last worker is not settled."""
        self.worker(slot)
        if not open_worker(&self.table, slot, pid):
            raise ValueError(f"worker slot {slot} is in use or not settled")

    def settle_worker(self, slot):
        """Puts right what the worker of a slot left, after its process has ended, in order or not. The slot is then free.

        Returns: a dict. "settled": False where a sibling stood in the middle of a claim all the time (stopped, most likely); call again
        later. "exchanges_lost": what the worker had open. "rows": on how many backends it had requests in flight.
        """
        cdef Settlement done
        self.worker(slot)
        cdef uint32_t number = slot
        with nogil:
            done = settle_worker(&self.table, number)
        return {"settled": bool(done.settled), "exchanges_lost": done.exchanges_lost, "rows": done.rows}

    def settle_all(self, running=()):
        """For a supervisor that starts over existing memory: settles every worker but those in the slots of `running`, then every row.
        False: something was not settled; call again later."""
        cdef:
            SharedTable* table = self.opened()
            uint32_t slot
            bint settled = True
        for slot in range(count_workers(table)):
            if slot not in running:
                settled = settle_worker(table, slot).settled and settled
        return bool(settle_rows(table) and settled)

    def add_rows(self, image):
        """Makes rows for the backends of an image (an Image or a descriptor) that have none; before any Engine.prepare of it.

        Raises:
            OSError: all rows are used, or the memory could not grow. ValueError: the image is damaged.
        """
        cdef:
            SharedTable* table = self.opened()
            Image mapped = image if isinstance(image, Image) else Image(image)
            int error
        if mapped.data == NULL:
            raise ValueError("this image is used up")
        error = add_image_rows(table, mapped.data, time.monotonic_ns() // 1000000)
        if error == ENOSPC:
            raise OSError(error, f"a node has room for {MAX_ROWS - 1} backends, and all of them are used")
        if error:
            raise OSError(error, os.strerror(error))

    def sweep(self, image):
        """Frees the rows of backends that this image does not list, once every worker has committed it; not those that a worker still
        uses. Returns how many. ValueError: the image is damaged. OSError. MemoryError."""
        cdef:
            SharedTable* table = self.opened()
            Image mapped = image if isinstance(image, Image) else Image(image)
            int64_t freed
        if mapped.data == NULL:
            raise ValueError("this image is used up")
        freed = sweep_rows(table, mapped.data)
        if freed < 0:
            raise MemoryError
        return freed

    def set_state(self, identity, state):
        """Says of a backend why it is not picked any more: a sum of ROW_STATES, 0 = up and ready. Every worker sees it at its next pick.
        "ejected" is the workers' alone and stays as it is. For the controller alone. ValueError: no such state. KeyError: no such backend."""
        cdef:
            bytes raw = identity.encode()
            uint32_t bits = state
        if bits & ~<uint32_t>types.ROW_CONTROLLED:
            raise ValueError(f"{state} is no state of a backend")
        if not set_state(self.opened(), <const char*>raw, <uint32_t>len(raw), bits, time.monotonic_ns() // 1000000):
            raise KeyError(identity)

    cdef SharedRow* row(self, identity) except NULL:
        cdef:
            bytes raw = identity.encode()
            uint32_t number = find_row(self.opened(), <const char*>raw, <uint32_t>len(raw))
        if number == 0:
            raise KeyError(identity)
        return row_at(&self.table, number)

    def state(self, identity):
        """The state of a backend, a sum of ROW_STATES. KeyError: no such backend."""
        return self.row(identity).state

    def in_flight(self, identity):
        """Requests assigned to a backend and unfinished, in all workers. KeyError: no such backend."""
        return self.row(identity).in_flight

    def heartbeat_ms(self, slot):
        """When the engine in this slot last ended a batch, in milliseconds of the monotonic clock; 0 = no engine yet."""
        return self.worker(slot).heartbeat_ms

    def workers(self):
        """The processes of the slots that are in use or not settled yet: a dict from slot to pid."""
        cdef:
            SharedTable* table = self.opened()
            uint32_t slot
        return {slot: worker_at(table, slot).pid for slot in range(count_workers(table)) if worker_at(table, slot).use != WORKER_FREE}

    def worker_pid(self, slot):
        """Process of this slot, 0 = none."""
        return self.worker(slot).pid

    def worker_generation(self, slot):
        """Generation of the snapshot that the worker in this slot uses, 0 = none yet."""
        return self.worker(slot).generation

    def worker_connections(self, slot):
        """Client connections of the worker in this slot, when its last pump ended."""
        return self.worker(slot).gauges.clients

    def connections(self):
        """Client connections of the node, now."""
        return row_at(self.opened(), NODE_ROW).in_flight

    def counters(self, slot=None):
        """As Engine.counters, of one worker slot or summed over all, with those of workers that have ended; when their last pumps ended.
        And workers_died, exchanges_lost."""
        cdef:
            SharedTable* table = self.opened()
            WorkerBlock* worker
        slots = range(max(count_workers(table), 1)) if slot is None else (slot,)
        result = {}
        for slot in slots:
            worker = self.worker(slot)
            for name, value in describe_counters(&worker.counters, &worker.gauges).items():
                result[name] = result.get(name, 0) + value
        result["workers_died"] = table.header.workers_died
        result["exchanges_lost"] = table.header.exchanges_lost
        return result

    def backends(self):
        """A dict per backend, as Engine.backends, of all workers together."""
        cdef:
            SharedTable* table = self.opened()
            SharedRow* row
            RowDetails* details
            Column* column
            uint32_t number, slot
        rows = []
        for number in range(1, count_rows(table)):
            row = row_at(table, number)
            details = details_at(table, number)
            if details.use == ROW_FREE or details.identity[0] == QUEUE_MARK:
                continue
            idle, requests, failed = 0, 0, 0
            for slot in range(count_workers(table)):
                column = column_at(table, number, slot)
                idle += column.idle
                requests += column.claims
                failed += column.failures
            rows.append({"identity": describe_identity(details),
                         "display": details.display[:min(details.display_size, <uint32_t>ROW_DISPLAY_BYTES)].decode(errors="replace"),
                         "state": row.state, "up_since_ms": row.up_since_ms, "latency_us": row.latency >> 32, "in_flight": row.in_flight, "idle": idle, "requests": requests, "failures": failed,
                         "ups": details.ups, "downs": details.downs, "changed_ms": details.changed_ms,
                         "failed_in_row": row.failed_in_row, "ejections": details.health.ejections,
                         "ejected_until_ms": details.health.ejected_until_ms})
        rows.sort(key=lambda row: row["identity"])
        return rows

    def queues(self):
        """A dict per pool that has a queue: its name, how many wait now, and how many have waited in all."""
        cdef:
            SharedTable* table = self.opened()
            RowDetails* details
            uint32_t number, slot
        rows = []
        for number in range(1, count_rows(table)):
            details = details_at(table, number)
            if details.use == ROW_FREE or details.identity[0] != QUEUE_MARK or "|" in describe_identity(details)[1:]:
                continue
            waited = sum(column_at(table, number, slot).claims for slot in range(count_workers(table)))
            name = details.display[:min(details.display_size, <uint32_t>ROW_DISPLAY_BYTES)].decode(errors="replace")
            rows.append({"pool": name, "waiting": row_at(table, number).in_flight, "waited": waited})
        rows.sort(key=lambda row: row["pool"])
        return rows

    def limits(self):
        """A dict per limit that a pool has: its pool, its kind (an argument of SnapshotWriter.set_limits) and how many are counted now."""
        cdef:
            SharedTable* table = self.opened()
            uint32_t number
        rows = []
        for number in range(1, count_rows(table)):
            if details_at(table, number).use == ROW_FREE:
                continue
            mark, _, kind = describe_identity(details_at(table, number)).rpartition("|")
            if mark.startswith(chr(QUEUE_MARK)) and kind != "health":
                rows.append({"pool": mark[1:], "limit": kind, "taken": row_at(table, number).in_flight})
        rows.sort(key=lambda row: (row["pool"], row["limit"]))
        return rows

    def set_meter(self, number, name):
        """Says whose a meter is (1 to MAX_METERS - 1), and sets what all workers have counted there to 0; for the controller, while no worker
        counts there. b"" = nobody's. ValueError: no such number, or too long a name."""
        cdef:
            SharedTable* table = self.opened()
            MeterName* entry
            uint32_t slot
        if not 1 <= number < MAX_METERS or len(name) > MAX_METER_NAME_BYTES:
            raise ValueError(f"meters are 1 to {MAX_METERS - 1}, their names have up to {MAX_METER_NAME_BYTES} bytes")
        entry = meter_name_at(table, number)
        entry.use = 0
        for slot in range(count_workers(table)):
            if meters_at(table, slot)[number].opened or meters_at(table, slot)[number].failures:
                memset(&meters_at(table, slot)[number], 0, sizeof(Meter))
                memset(&meter_details_at(table, slot)[number], 0, sizeof(MeterDetails))
        entry.size = <uint32_t>len(name)
        memcpy(entry.name, <const char*>name, entry.size)
        entry.use = bool(name)
        if number >= table.header.n_meters:
            store_word(&table.header.n_meters, <uint32_t>number + 1)

    def meters(self):
        """Names of the meters in use, by number."""
        cdef:
            SharedTable* table = self.opened()
            MeterName* entry
            uint32_t number
        found = {}
        for number in range(1, count_meters(table)):
            entry = meter_name_at(table, number)
            if entry.use:
                found[number] = entry.name[:min(entry.size, <uint32_t>MAX_METER_NAME_BYTES)]
        return found

    def is_metering(self, number):
        """Whether something that is counted there is open in a worker."""
        cdef:
            SharedTable* table = self.opened()
            uint32_t slot
        if not 0 <= number < MAX_METERS:
            raise ValueError(f"meters are 0 to {MAX_METERS - 1}")
        for slot in range(count_workers(table)):
            if meters_at(table, slot)[number].opened != meters_at(table, slot)[number].closed:
                return True
        return False

    def read_meter(self, number, timed=True):
        """What all workers, and those that have ended, counted there: a tuple of opened, closed, exchanges by status class (6; 0 = without an
        answer), bytes_in, bytes_out, retries, connects, reused, the reasons of failures by their index (None where there are none), and
        the histograms of the total time, the first byte and the connect, each its sum in microseconds and its buckets (None where
        nothing was opened, or without `timed`)."""
        cdef:
            SharedTable* table = self.opened()
            Meter* one
            Meter total
            MeterDetails* details
            MeterDetails sums
            uint32_t slot, i, n_workers = count_workers(table), at
        if not 0 <= number < MAX_METERS:
            raise ValueError(f"meters are 0 to {MAX_METERS - 1}")
        at = number
        memset(&total, 0, sizeof(total))
        memset(&sums, 0, sizeof(sums))
        cdef bint with_times = timed
        with nogil:
            for slot in range(n_workers):
                one = &meters_at(table, slot)[at]
                if one.opened == 0 and one.failures == 0 and one.bytes_in == 0:
                    continue
                total.opened += one.opened
                total.closed += one.closed
                for i in range(6):
                    total.statuses[i] += one.statuses[i]
                total.bytes_in += one.bytes_in
                total.bytes_out += one.bytes_out
                total.retries += one.retries
                total.connects += one.connects
                total.reused += one.reused
                total.failures += one.failures
                details = &meter_details_at(table, slot)[at]
                if one.failures:
                    for i in range(FAILURE_END):
                        sums.reasons[i] += details.reasons[i]
                if with_times:
                    add_histogram(&sums.total, &details.total)
                    add_histogram(&sums.first_byte, &details.first_byte)
                    add_histogram(&sums.connect, &details.connect)
        reasons = describe_array(sums.reasons, FAILURE_END) if total.failures else None
        times = None
        if timed and total.opened:
            times = (describe_histogram(&sums.total), describe_histogram(&sums.first_byte), describe_histogram(&sums.connect))
        return (total.opened, total.closed, describe_array(total.statuses, 6), total.bytes_in, total.bytes_out, total.retries, total.connects,
                total.reused, reasons, times)

    def read_backend_meters(self):
        """What all workers counted of each backend: tuples of its identity, state, in_flight, idle connections, attempts, failures, answers by
        status class (6), bytes_in (from it), bytes_out, connects, reused, retries, failures by BACKEND_REASONS, how often health checks
        found it up and down, and how often it was ejected."""
        cdef:
            SharedTable* table = self.opened()
            SharedRow* row
            RowDetails* details
            Column* column
            BackendMeter* one
            BackendMeter total
            uint64_t idle, claims, failed
            uint32_t number, slot, i
        found = []
        for number in range(1, count_rows(table)):
            row = row_at(table, number)
            details = details_at(table, number)
            if details.use == ROW_FREE or details.identity[0] == QUEUE_MARK:
                continue
            memset(&total, 0, sizeof(total))
            idle = claims = failed = 0
            for slot in range(count_workers(table)):
                column = column_at(table, number, slot)
                if column.claims == 0:
                    continue
                idle += column.idle
                claims += column.claims
                failed += column.failures
                one = backend_meter_at(table, number, slot)
                for i in range(6):
                    total.statuses[i] += one.statuses[i]
                total.bytes_in += one.bytes_in
                total.bytes_out += one.bytes_out
                total.connects += one.connects
                total.reused += one.reused
                total.retries += one.retries
                for i in range(BACKEND_REASONS_COUNT):
                    total.reasons[i] += one.reasons[i]
            found.append((describe_identity(details), row.state, row.in_flight, idle, claims, failed, describe_array(total.statuses, 6),
                          total.bytes_in, total.bytes_out, total.connects, total.reused, total.retries,
                          describe_array(total.reasons, BACKEND_REASONS_COUNT), details.ups, details.downs,
                          details.health.ejections))
        return found

    def read_worker_times(self, slot):
        """Histograms of a worker slot, as in read_meter: how long its pumps took, and how late the outer loop called it again."""
        cdef WorkerBlock* worker = self.worker(slot)
        return describe_histogram(&worker.pumps), describe_histogram(&worker.lags)

    def worker_slots(self):
        """How many slots have had a worker so far."""
        return count_workers(self.opened())

    def waiting_workers(self):
        """The slots of the workers in which somebody waits for a backend; to be woken when counts were put right."""
        cdef uint64_t slots[2]
        list_waiting(self.opened(), slots)
        return [slot for slot in range(MAX_WORKERS) if slots[slot >> 6] >> (slot & 63) & 1]

    def sticky_records(self):
        """How many records of the sticky table have not expired. Reads all of it, and so gives all of it memory, 8 MiB: for tests."""
        return count_sticky(self.opened(), time.monotonic_ns() // 1000000)

    def identity(self):
        """A random number that tells this memory from all others."""
        return self.opened().header.identity

    def guests(self):
        """The slots with the counts of another fastlb, which may have ended."""
        cdef SharedTable* table = self.opened()
        return [slot for slot in range(count_workers(table)) if worker_at(table, slot).guest]

    def open_guest(self, slot, pid, identity):
        """Makes a slot that of another fastlb, whose supervisor is `pid` and whose memory is `identity`. The caller alone writes there, by
        the methods that follow. ValueError: the slot is in use, or its last worker is not settled."""
        self.worker(slot)
        if identity == 0 or not open_guest(&self.table, slot, pid, identity):
            raise ValueError(f"worker slot {slot} is in use or not settled")

    cdef WorkerBlock* guest(self, slot) except NULL:
        cdef WorkerBlock* worker = self.worker(slot)
        if worker.guest == 0 or worker.use != WORKER_LIVE:
            raise ValueError(f"there is no guest in slot {slot}")
        return worker

    def end_guest(self, slot):
        """Nobody works there any more; the slot is to be settled."""
        store_word(&self.guest(slot).use, WORKER_CLOSED)

    def add_to_guest(self, slot, part, number, added):
        """Adds to what a guest has counted: pairs of an index in eight bytes, as LEGEND has the struct `part`, and a number. "header": what
        the supervisor itself counts of the dead; "worker"; "meter" and "meter_details" of that number. ValueError: no such place."""
        cdef:
            WorkerBlock* worker = self.guest(slot)
            uint64_t* numbers
            size_t n
        if part == "header":
            numbers, n = <uint64_t*>self.table.header, sizeof(SharedHeader) // 8
        elif part == "worker":
            numbers, n = <uint64_t*>worker, sizeof(WorkerBlock) // 8
        elif not 0 < number < MAX_METERS:
            raise ValueError(f"meters are 1 to {MAX_METERS - 1}")
        elif part == "meter":
            numbers, n = <uint64_t*>&meters_at(&self.table, slot)[number], sizeof(Meter) // 8
        elif part == "meter_details":
            numbers, n = <uint64_t*>&meter_details_at(&self.table, slot)[number], sizeof(MeterDetails) // 8
        else:
            raise ValueError(f"a guest counts nothing in {part}")
        add_numbers(numbers, n, added)

    def change_guest_row(self, slot, identity, claims, releases, failed, idle, meter, history):
        """Adds to what a guest has done on the row of these bytes (b"": the node's own): claims and releases, which change what is in flight
        there, failed attempts, connections in its idle cache, pairs as of add_to_guest in its backend meter; and how often health checks found it
        up and down and it was ejected. False: there is no such row."""
        cdef:
            bytes raw = identity
            uint32_t at = slot, number = NODE_ROW
            Column* column
            RowDetails* details
        self.guest(slot)
        if raw:
            number = hold_row(&self.table, at, <const char*>raw, <uint32_t>len(raw))
            if number == NODE_ROW:
                return False
        column = column_at(&self.table, number, at)
        details = details_at(&self.table, number)
        if claims or releases:
            change_claims(&self.table, at, number, claims & MAX_LONG, releases & MAX_LONG)
        column.failures += <uint64_t>(failed & MAX_LONG)
        column.idle = max(0, min(column.idle + idle, 0xFFFFFFFF))
        add_numbers(<uint64_t*>backend_meter_at(&self.table, number, at), sizeof(BackendMeter) // 8, meter)
        ups, downs, ejections = history
        add_word(&details.ups, ups & 0xFFFFFFFF)
        add_word(&details.downs, downs & 0xFFFFFFFF)
        add_long(&details.health.ejections, ejections & MAX_LONG)
        if raw:
            store_word(&column.held, 0)             # whatever is in flight keeps the row
        return True

    def verify(self):
        """Compares every row with the columns of the living workers, while they go on. Returns the rows that differ: dicts of "row"
        (0 = the node), "identity", "in_flight" and "expected", which is None where no reading was stable."""
        cdef:
            SharedTable* table = self.opened()
            uint32_t number
            int64_t in_flight, expected
            bint stable
        wrong = []
        for number in range(count_rows(table)):
            if details_at(table, number).use == ROW_FREE:
                continue
            in_flight = expected = 0
            with nogil:
                stable = read_row(table, number, &in_flight, &expected)
            if not stable or in_flight != expected:
                wrong.append({"row": number, "in_flight": in_flight, "expected": expected if stable else None,
                              "identity": describe_identity(details_at(table, number))})
        return wrong

    def set_fault_point(self, uint32_t point, uint32_t after):
        """Ends this process by SIGKILL when it comes to a FaultPoint (shared_table.pxd) for the `after`th time; 0 = never. For tests.
        RuntimeError: built without FASTLB_FAULT_HOOK."""
        if not has_fault_hook:
            raise RuntimeError("built without FASTLB_FAULT_HOOK")
        self.opened().fault_point = point
        self.table.fault_after = after


@no_gc                              # it refers to nothing that could refer back, and needs its shared memory until the end
cdef class Engine:
    """One worker's data plane.

    Args:
        max_sockets: clients, backend connections and listeners together; 0 = as many as those clients can need.
        max_connections: client connections held at most; beyond it accepting pauses.
        pipes: pipes this worker may make for splice.
        shared: the node's SharedMemory; without it the engine makes some for itself.
        slot: of this worker in it, opened before (SharedMemory.open_worker).
        event_fd: an eventfd (non-blocking) whose writers wake this worker; lent, -1 = the engine makes its own.

    Raises:
        OSError: a descriptor could not be made. ValueError: the slot is not open. MemoryError.
    """
    cdef:
        EngineStruct* engine        # owned
        SharedMemory shared
        bint alone                  # nobody else adds rows
        bint closed
        dict last_counters          # of a closed engine

    def __cinit__(self, *, max_connections, max_sockets=0, pipes=192, SharedMemory shared=None, slot=0, int event_fd=-1):
        cdef:
            int error
            uint32_t most = max_connections
            # Backend connections and listeners need slots as well; an unused slab costs nothing.
            uint32_t sockets = max_sockets or 2 * most + 4096
            int32_t n_pipes = pipes
        if max_connections < 1:
            raise ValueError("max_connections must be at least 1")
        self.alone = shared is None
        if self.alone:
            shared = SharedMemory.create()
            shared.open_worker(slot, os.getpid())
        if shared.worker(slot).use != WORKER_LIVE:
            raise ValueError(f"worker slot {slot} is not open")
        self.engine = <EngineStruct*>calloc(1, sizeof(EngineStruct))
        if self.engine == NULL:
            raise MemoryError
        error = engine_open(self.engine, most, sockets, n_pipes, &shared.table, slot, event_fd)
        if error:
            free(self.engine)
            self.engine = NULL
            raise OSError(error, os.strerror(error))
        self.shared = shared
        shared.n_engines += 1

    def __dealloc__(self):
        if self.engine != NULL:
            if not self.closed:
                engine_close(self.engine)
                self.shared.n_engines -= 1
            free(self.engine)
            self.engine = NULL

    cdef EngineStruct* opened(self) except NULL:
        if self.closed:
            raise ValueError("this engine is closed")
        return self.engine

    def set_sibling(self, slot, int event_fd):
        """Gives the engine what wakes the worker in another slot: an eventfd, which is copied; this one stays the caller's. Without it that
        worker finds out by itself, a little later, that a backend for which somebody waits there is free.

        Raises:
            ValueError: there is no such slot. OSError.
        """
        cdef EngineStruct* engine = self.opened()
        self.shared.worker(slot)
        if not set_sibling(engine, slot, event_fd):
            raise OSError(errno, os.strerror(errno))

    cpdef close(self):
        """Ends every connection and gives all memory and descriptors back. Listening sockets stay with their owner. Only counters()
        may be called afterwards: now every pair of them is equal."""
        if not self.closed:
            self.closed = True
            engine_close(self.engine)
            self.last_counters = describe_counters(self.engine.counters, &self.engine.worker.gauges)
            self.shared.n_engines -= 1
            if self.alone:
                self.shared.close()

    def fileno(self):
        """The epoll descriptor: readable whenever pump() has something to do."""
        return self.opened().epoll_fd

    @binding(False)      # 5 ns instead of 20 on top of a call, since in the limited API a bound function has no fast call
    def pump(self, uint32_t budget=0):
        """Handles up to `budget` events (0 = the default) with the GIL released; returns how many."""
        cdef:
            EngineStruct* engine = self.opened()
            uint32_t handled
        if engine.snapshot == NULL:
            return 0
        with nogil:
            handled = engine_pump(engine, budget)
        return handled

    def prepare(self, image, pickers=None):
        """Makes an image the one that the next commit() swaps in, in place of an earlier one.

        Args:
            image: an Image, which is used up, or the descriptor of one, which stays the caller's.
            pickers: by index of each of Image.pickers() the address of a function as fastlb/picker.h says, which stays where it is as long as
                the engine.

        Raises:
            ValueError: the image is damaged or of another build, or has a backend without a row (SharedMemory.add_rows comes first), or a
                pool that picks with a function of the user's own and was given none.
            OSError. MemoryError.
        """
        cdef:
            EngineStruct* engine = self.opened()
            Image mapped = image if isinstance(image, Image) else Image(image)
            int error
        if mapped.data == NULL:
            raise ValueError("this image is used up")
        if self.alone:
            self.shared.add_rows(mapped)
        addresses = {index: (pickers or {}).get(index) for index, _ in mapped.pickers()}
        for index, address in addresses.items():
            if not address:
                raise ValueError(f"pool {index} picks with a function of the user's own, and was given none")
        if mapped.is_transparent() and not may_be_transparent():
            raise ValueError('source_address = "client" of a pool is not allowed to this process, which takes CAP_NET_RAW: workers have it as root only '
                             '(user = "root"); the PROXY protocol tells backends who the client is without it')
        error = engine_prepare(engine, mapped.data, mapped.size, &mapped.compiled, &mapped.tls)
        raise_prepare_error(error, mapped.tls.why)
        mapped.data = NULL
        for index, address in addresses.items():
            engine.prepared.pools[<uint32_t>index].user_picker.pick = <PickFunction><void*><uintptr_t>address

    def abort(self):
        """Lets go of what prepare() was given last, if anything."""
        engine_abort(self.opened())

    def commit(self, sockets):
        """Swaps in the prepared snapshot, whole, between two pumps.

        Args:
            sockets: pairs of a listening descriptor (non-blocking; it stays the caller's) and the index of its listener: all that are
                accepted from now on.

        Returns: descriptors no longer used, the clients in their accept queues taken in: the caller closes them.

        Raises:
            ValueError: nothing is prepared, or a socket names no listener. OSError. The old snapshot then stays.
        """
        return self.change_sockets(sockets, True)

    def assign(self, sockets):
        """Accepts from these sockets and no others from now on; arguments and errors as commit(). Clients that wait in the queues of the
        others stay there, for the worker that accepts from them now. Returns their descriptors."""
        return self.change_sockets(sockets, False)

    def apply(self, image, sockets):
        """prepare() and commit() in one; on failure nothing is prepared any more, and the old snapshot stays."""
        self.prepare(image)
        try:
            return self.commit(sockets)
        finally:
            self.abort()

    def set_log(self, uint32_t destination, int fd):
        """Gives a destination of the current snapshot's log plan its descriptor, which is copied: this one stays the caller's. The one
        before is written to no more once the writer has taken the new one, which is before any later line. After a commit a destination
        that the snapshot before had too still has its own; one that never got any loses its lines.

        Raises:
            ValueError: there is no such destination. OSError.
        """
        cdef:
            EngineStruct* engine = self.opened()
            int result
        if engine.snapshot == NULL or engine.snapshot.log_plan == NULL \
                or destination >= engine.snapshot.log_plan.header.destinations.count:
            raise ValueError(f"the snapshot has no log destination {destination}")
        result = set_log(engine, destination, fd)
        if result != 0:
            raise OSError(result, os.strerror(result))

    cdef list change_sockets(self, sockets, bint commit):
        cdef:
            EngineStruct* engine = self.opened()
            uint32_t n = <uint32_t>len(sockets), n_removed = 0, i
            Socket* wanted = <Socket*>malloc((n + 1) * sizeof(Socket))
            int* removed = <int*>malloc((self.count_listeners() + n + 1) * sizeof(int))
            int result
        try:
            if wanted == NULL or removed == NULL:
                raise MemoryError
            for i in range(n):
                wanted[i].fd, wanted[i].listener = sockets[i]
            if commit:
                result = engine_commit(engine, wanted, n, removed, &n_removed)
            else:
                result = engine_assign(engine, wanted, n, removed, &n_removed)
            if result == -1:
                raise ValueError("no snapshot is prepared")
            if result == -2:
                raise ValueError("a socket names a listener that the snapshot does not have")
            if result != 0:
                raise OSError(result, os.strerror(result))
            if commit and self.alone:
                sweep_rows(engine.shared, engine.snapshot.image)
            return [removed[i] for i in range(n_removed)]
        finally:
            free(wanted)
            free(removed)

    cdef uint32_t count_listeners(self):
        cdef:
            Listener* listener = self.engine.listeners
            uint32_t n = 0
        while listener != NULL:
            n += 1
            listener = listener.next
        return n

    def drain(self, uint32_t idle_grace_ms):
        """Stops accepting for good (accept queues drained first); exchanges finish, with Connection: close; idle keep-alive clients
        may send one more request within `idle_grace_ms`, or their idle time-out if that is shorter. Returns the listening descriptors, for
        the caller to close."""
        cdef:
            EngineStruct* engine = self.opened()
            uint32_t n_removed = 0, i
            int* removed = <int*>malloc((self.count_listeners() + 1) * sizeof(int))
        if removed == NULL:
            raise MemoryError
        try:
            engine_drain(engine, idle_grace_ms, removed, &n_removed)
            return [removed[i] for i in range(n_removed)]
        finally:
            free(removed)

    def end_idle(self):
        """After drain(): ends the connections of clients that are idle still, which END_IDLE_MS (http1) takes at most: they see our end first,
        and a request that is just on its way meets no reset."""
        engine_end_idle(self.opened())

    def cut(self, identity):
        """Ends what is in flight at a backend: 503 where no answer has begun, else a cut that the client sees. Returns how many exchanges
        that were. Call pump() afterwards."""
        cdef:
            EngineStruct* engine = self.opened()
            bytes raw = identity.encode()
            uint32_t number = find_row(engine.shared, <const char*>raw, <uint32_t>len(raw))
        return engine_cut(engine, number) if number else 0

    def connections(self):
        """Client connections open now. 0 after drain() means finished."""
        return self.opened().n_clients

    def generation(self):
        """Generation of the snapshot in use, 0 before the first."""
        return self.opened().snapshot.header.generation if self.opened().snapshot != NULL else 0

    @property
    def folded(self):
        """Tunnels of which nothing is kept but their two connections (data_plane/folded_tunnel.pyx)."""
        return 0 if self.closed else self.engine.n_folded

    def fold_after(self, uint32_t silence_ms):
        """How long a tunnel is silent before it is folded; 100 ms unless told otherwise."""
        self.opened().fold_after_ms = silence_ms

    def counters(self):
        """Cumulative counters and gauges of this engine by name. Pairs *_opened/*_closed and *_taken/*_returned are equal at rest
        (for clients and backend connections: when none is open)."""
        if self.closed:
            return dict(self.last_counters)
        engine_publish(self.engine)
        return describe_counters(self.engine.counters, &self.engine.worker.gauges)

    def backends(self):
        """A dict per backend row: identity, address as shown, in_flight of the node, and of this worker slot idle connections and totals of
        requests and failures."""
        cdef:
            EngineStruct* engine = self.opened()
            Backend* backend
            uint32_t i
        rows = []
        for i in range(engine.backends.n_chains):
            backend = engine.backends.chains[i]
            while backend != NULL:
                if backend.identity[0] == QUEUE_MARK:
                    backend = backend.next
                    continue
                rows.append({"identity": backend.identity[:backend.identity_size].decode(),
                             "display": backend.display[:backend.display_size].decode(errors="replace"),
                             "in_flight": backend.shared.in_flight, "idle": backend.idle.count,
                             "requests": backend.column.claims, "failures": backend.column.failures})
                backend = backend.next
        rows.sort(key=lambda row: row["identity"])
        return rows


def struct_sizes():
    """Bytes per connection and per running exchange, for docs and tests."""
    return {"connection": sizeof(Connection), "exchange": sizeof(Exchange)}
