"""Structs, enums and limits of the data plane, with their reasons. No function bodies.

Words in the field comments: *owned* = this struct frees it; *borrowed* = somebody else does, the comment says until when;
*counted* = a reference counted by the pointed-to struct. Fields stand in the order of how often a request changes them.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport epoll_event, iovec, mmsghdr, pthread_t, sockaddr_in6, sockaddr_storage, socklen_t


# ---------------------------------------------------------------------------------------------------------------- limits
cdef enum:
    # epoll_wait's array: 32 or more costs nothing; 64 is one batch of the usual benchmark and 768 bytes of stack.
    EVENTS_PER_BATCH = 64
    # Events one pump() handles before the outer loop gets its turn: ~5 ms of small requests.
    DEFAULT_PUMP_BUDGET = 512
    ACCEPTS_PER_EVENT = 32          # then the next listener or connection has its turn; listeners are level-triggered
    MAX_HEADERS = 256               # hard limit of fields in a head; listeners set a lower one (100)
    MAX_HEAD_BYTES = 65536 - 64     # a head and its buffer's own struct fit the 64 KiB class
    MAX_TRIED = 8                   # backends an exchange remembers as tried
    MAX_TRAILER_BYTES = 8192
    MAX_TRAILERS = 64
    # One relay turn moves at most this much before other connections get theirs (fairness under bulk transfers).
    RELAY_TURN_BYTES = 1048576
    # The first read of a response: heads and small bodies fit; what is larger than SPLICE_MIN is left for splice.
    FIRST_READ_BYTES = 16384
    RELAY_READ_BYTES = 65536        # later reads; doubled while they are filled and the sink keeps up
    READ_BUFFER_BYTES = 262144      # the worker's shared read buffer: 64 -> 256 KiB saves a quarter of the relay's cost
    WRITE_BUFFER_BYTES = 98304      # the worker's scratch for one serialised head (64 KiB, plus what we add) and small bodies
    SMALL_BODY_BYTES = 8192         # up to here a body is copied behind its head (one send); beyond, sendmsg with two parts
    SPLICE_MIN_BYTES = 131072       # below about 128 KiB splice loses against the buffer path (docs/ARCHITECTURE.md, measured)
    PIPE_BYTES = 262144
    # One splice moves at most this much, although the pipe holds more: under bbr, the default of some systems, handing the
    # socket 256 KiB at once starts its pacing timers and costs 1.35 times as much; under cubic the two are equal.
    SPLICE_MOVE_BYTES = 65536
    WRITEABLE_PIPE_MIN = 65536      # smaller pipes (an unprivileged user past the kernel's quota) are not worth splicing through
    WHEEL_SLOTS = 4096
    WHEEL_TICK_MS = 16              # 4096 slots x 16 ms = 65 s a turn; longer waits pass their slot and are filed again
    ACCEPT_RETRY_MS = 100           # after EMFILE accepting pauses this long at most (a closing connection ends the pause too)
    LINGER_MS = 2000                # a connection closed with unread input: how long we drain it, so that a reset does not eat the answer
    LINGER_BYTES = 1048576
    ADDRESS_TEXT_BYTES = 46         # INET6_ADDRSTRLEN
    MAX_HOST_BYTES = 254            # a longer name is no DNS name (RFC 1035 section 2.3.4) and matches only "any"
    MAX_LOCATION_BYTES = 4096       # of the path of a location
    MAX_MATCH_GROUPS = 16           # of a path's regular expression: what a route can use of it, with group 0
    MAX_PARAMETERS = 1000           # that are looked at, of a query, and of all cookies; PHP and Express have the same limit
    REQUEST_ID_BYTES = 32           # 16 random bytes in hexadecimal, nginx's $request_id
    MAX_MIRRORS = 1000              # mirrored requests under way in a worker; each takes two slots of the connection table
    MAX_MIRROR_BYTES = 67108864     # of all their heads and bodies in a worker: 1000 of the largest would take 316 MB
    MIRROR_ALL = 0x80000000         # ImageRoute.mirror_share of a route that mirrors every request
    DATE_BYTES = 29                 # "Sun, 06 Nov 1994 08:49:37 GMT"
    STICKY_VALUE_BYTES = 22         # 128 bits in base64url
    MAX_COOKIE_NAME_BYTES = 128
    MAX_COOKIE_ATTRIBUTES_BYTES = 1024

    # Shared memory (shared_table.pyx). 500,000 layer-4 connections take 51 workers: two descriptors each, 20,000 a worker.
    MAX_WORKERS = 128
    MAX_ROWS = 65536                # backends of the node, with the node itself
    ROWS_PER_BLOCK = 128            # one worker's columns for a block fill a page of their own
    INDEX_CHAINS = 16384            # a power of two; four rows a chain when all rows are used
    MAX_IDENTITY_BYTES = 424        # pool name, host name (253), port and address
    ROW_DISPLAY_BYTES = 128         # more is cut
    MAX_LISTENER_NAME_BYTES = 64    # as many as the configuration allows
    NODE_ROW = 0                    # the row whose in_flight is the node's client connections
    QUEUE_PRIORITIES = 8            # of waiting exchanges; 0 first

    # Metrics (meters.pxd)
    MAX_METERS = 2048               # listeners, routes and pools that are told apart; the rest of a kind share one meter
    MAX_METER_NAME_BYTES = 248
    # Four buckets for each doubling from 64 us to 134 s, one below and one above: a time is known to a quarter of its power of two.
    HISTOGRAM_LOWEST_BIT = 6
    HISTOGRAM_HIGHEST_BIT = 27
    HISTOGRAM_BUCKETS = 86
    BACKEND_REASONS = 12            # failures that speak of a backend (meters.pxd: backend_reason)

    # HTTP/2 (http2.pyx)
    MAX_HTTP2_STREAMS = 1000        # of a connection at a time, as a listener may allow
    MIN_HTTP2_WINDOW_BYTES = 65535  # what every connection begins with (RFC 9113 section 6.9.2)
    MAX_HTTP2_WINDOW_BYTES = 258048     # of a stream: what has come and was not taken fits the largest block
    MAX_HTTP2_CONNECTION_WINDOW_BYTES = 16777216

    # PROXY protocol (proxy_protocol.pyx)
    MAX_PROXY_HEADER_BYTES = 4096   # what we read of one at most; with names and certificates of clients they have some hundred
    MAX_PROXY_TIMEOUT_MS = 60000

    # UDP (datagram.pyx)
    DATAGRAMS_PER_BATCH = 64        # one system call brings or takes so many; 64 of a few hundred bytes fit the L2 cache
    # Room for one. The largest is 65,527 bytes (IPv6 without jumbograms); the rest keeps the first lines of all of them out of the same cache sets.
    DATAGRAM_BYTES = 65984
    # What the kernel says beside one: in6_pktinfo takes 40 with its head, the size of segments 24, a time stamp (of a socket that others bound) 32.
    DATAGRAM_CONTROL_BYTES = 128
    MAX_DATAGRAM_SESSIONS = 1048576
    ANY_RESPONSES = 0xFFFFFFFF
    MAX_SERVER_ID_BYTES = 16        # in a connection id of QUIC, which has 20 at most (RFC 9000 section 17.2)
    MAX_SERVER_ID_OFFSET = 19

    # TLS (tls.pyx)
    MAX_EARLY_DATA_BYTES = 16384    # of requests before a handshake is over: OpenSSL drops as much of what it does not take, so no reload ends one

cdef enum:
    NO_BACKEND = -1
    NO_PIPE = -1
    NO_INDEX = 0xFFFFFFFF
    NO_SHARED_ROW = -3              # beside an errno: a backend of the image has no row in shared memory


# ---------------------------------------------------------------------------------------------------------------- enums
ctypedef enum ConnectionKind:
    KIND_FREE = 0
    KIND_LISTENER = 1
    KIND_CLIENT = 2
    KIND_BACKEND = 3
    KIND_MIRROR = 4                 # stands for the client of a mirrored request: no descriptor, takes everything, says nothing
    KIND_STREAM = 5                 # stands for the client of one HTTP/2 stream: no descriptor, its bytes go through the session's
    KIND_BACKEND_STREAM = 6         # the same towards a backend: one attempt's share of a KIND_BACKEND connection

# What the kernel has told us and we have not used up: edges are remembered as bits (docs/ARCHITECTURE.md, "Edges").
ctypedef enum IoBits:
    IO_READABLE = 1                 # cleared by EAGAIN, or a short read without IO_HALF_CLOSED
    IO_WRITABLE = 2                 # cleared by EAGAIN or a short write
    IO_HALF_CLOSED = 4              # EPOLLRDHUP seen: the read side ends after what is queued
    IO_ERROR = 8                    # EPOLLERR or EPOLLHUP seen
    IO_READY_LISTED = 16            # on the engine's ready list
    IO_EOF = 32                     # recv returned 0
    IO_WRITE_CLOSED = 64            # we shut our write side down
    IO_RESET = 128                  # of a tunnel: this side has failed, so what it sent does not end, it is cut
    IO_SINGLE = 512                 # of a backend: it was told who its client is, so it serves no other one
    IO_PUT_OFF = 256                # a handshake that others go before: listed until its turn (tls_handshake.pyx)

ctypedef enum IoResult:
    IO_AGAIN = -1
    IO_CLOSED = -2                  # the other side reset or the socket failed; errno kept in Engine.last_errno

ctypedef enum ConnectionState:
    STATE_IDLE = 0                  # client: keep-alive, nothing read; backend: in the idle cache
    STATE_HEAD = 1                  # client: part of a head is here
    STATE_EXCHANGE = 2              # client or backend: belongs to an exchange
    STATE_CONNECTING = 3            # backend
    STATE_LINGER = 4                # client: answered, write side shut, draining input
    STATE_CLOSED = 5                # in the graveyard until the batch ends
    STATE_HANDSHAKE = 6             # client: a PROXY header is not here yet (proxy_codec.pyx), or TLS not agreed upon (tls_handshake.pyx)

ctypedef enum WaitKind:             # what a connection's timer stands for while it belongs to an exchange
    WAIT_UNSET = 0                  # nothing armed yet for this exchange
    WAIT_EXCHANGE = 1               # nothing of this side: only the exchange as a whole
    WAIT_BODY = 2                   # client: its request body
    WAIT_WRITE = 3                  # this side does not read
    WAIT_CONNECT = 4                # backend
    WAIT_FIRST_BYTE = 5             # backend
    WAIT_BETWEEN_BYTES = 6          # backend
    WAIT_TUNNEL = 7
    WAIT_QUEUE = 8                  # client: a backend of its pool (queue.pyx)
    WAIT_HEDGE = 9                  # backend: its connection or its answer; then another one is asked beside it

ctypedef enum Framing:
    FRAME_NONE = 0                  # no body
    FRAME_LENGTH = 1
    FRAME_CHUNKED = 2
    FRAME_UNTIL_CLOSE = 3
    FRAME_TUNNEL = 4                # both ways, half-close kept
    FRAME_STREAM = 5                # of a sink that frames the body by itself, and is told of its end (Transport.shut_write)

ctypedef enum Method:               # those whose semantics a proxy must know
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_OPTIONS = 6
    METHOD_TRACE = 7
    METHOD_CONNECT = 8

# Fields the data plane looks at. Bits of Head.seen, so at most 64.
ctypedef enum HeaderId:
    HEADER_OTHER = 0
    HEADER_HOST = 1
    HEADER_CONNECTION = 2
    HEADER_CONTENT_LENGTH = 3
    HEADER_TRANSFER_ENCODING = 4
    HEADER_KEEP_ALIVE = 5
    HEADER_PROXY_CONNECTION = 6
    HEADER_TE = 7
    HEADER_UPGRADE = 8
    HEADER_EXPECT = 9
    HEADER_DATE = 10
    HEADER_X_FORWARDED_FOR = 11
    HEADER_X_FORWARDED_PROTO = 12
    HEADER_X_FORWARDED_HOST = 13
    HEADER_X_REQUEST_ID = 14
    HEADER_HTTP2_SETTINGS = 15
    HEADER_TRAILER = 16
    HEADER_COOKIE = 17
    HEADER_SET_COOKIE = 18

ctypedef enum FieldFlags:
    FIELD_DROPPED = 1               # hop by hop, or named in Connection

ctypedef enum HeadFlags:
    HEAD_CLOSE = 1                  # Connection: close
    HEAD_KEEP_ALIVE = 2             # Connection: keep-alive
    HEAD_UPGRADE = 4                # Connection: upgrade with an Upgrade field
    HEAD_EXPECT_CONTINUE = 8
    HEAD_ABSOLUTE_TARGET = 16       # absolute-form: its authority replaces Host
    HEAD_PATH_IS_RAW = 32           # the normalised path equals the bytes of the target
    HEAD_DROP_LISTED = 64           # Connection names further fields, already flagged FIELD_DROPPED
    HEAD_H2C = 128                  # Upgrade asks for h2c, which is never forwarded

ctypedef enum ExchangeFlags:
    X_KEEP_ALIVE = 1                # the client connection goes on after this exchange
    X_HEAD_SENT = 2                 # the final response head has gone (or begun to go) to the client
    X_HTTP_1_0 = 4                  # client speaks HTTP/1.0
    X_IS_HEAD = 8                   # method HEAD
    X_IDEMPOTENT = 16
    X_EXPECT = 1024                 # the client waits for 100 (Continue), which has not come
    X_UPGRADE = 32                  # an upgrade was asked for and forwarded
    X_TUNNEL = 64                   # switched
    X_REPLAYABLE = 128              # everything sent of the request can be sent again
    X_BODY_DONE = 256               # request body wholly relayed (or none)
    X_RESEND = 512                  # an earlier attempt was sent something: the next one gets it again
    X_FRESH = 2048                  # a pooled connection turned out stale: the next attempt opens its own
    X_REUSABLE = 4096               # the backend's connection may serve another exchange after this response
    X_SESSION = 16384               # a TCP session: no heads, bytes both ways as soon as it is connected (tcp.pyx)
    X_CLOSE_DELIMITED = 8192        # the client sees the end of the body by our closing: a cut must be a reset
    X_QUEUED = 65536                # waits in the queue of its pool
    X_HEDGE = 262144                # a second attempt may be begun beside the first, when that takes long
    X_MIRROR = 1048576              # to be mirrored as soon as its body is here
    X_STICKY = 16777216              # its pool brings clients back to their backends (sticky.pyx)
    X_SET_COOKIE = 33554432          # the response head gets the sticky cookie
    X_COOKIE_OLD = 67108864          # the client's sticky cookie has been on its way for half of its lifetime or more
    X_CAME_BY_TLS = 134217728         # the client speaks HTTPS with us (exchange_flags), or with a trusted proxy before us where that is asked (sticky.pyx)
    X_RETRY_PLACE = 268435456       # counts among those that its pool tries again (limits.pyx)
    X_HOLDS_PLACE = 268500992       # X_QUEUED or X_RETRY_PLACE: something of its pool is given back with its retries
    X_GRPC = 536870912              # an answer of our own is due, and the client speaks gRPC

ctypedef enum AttemptState:
    ATTEMPT_IDLE = 0
    ATTEMPT_CONNECTING = 1
    ATTEMPT_SENT = 2                # at least one byte of the request was accepted by the socket
    ATTEMPT_ANSWERED = 3            # at least one byte of a response came back

ctypedef enum QueueWork:            # bits of Engine.queue_work
    QUEUE_LOOK = 1                  # somebody who waits may have a backend now
    QUEUE_LOOK_PAST = 2             # and siblings that have waited longer had their chance
    QUEUE_WAKE = 4                  # Engine.wakes is not empty
    QUEUE_GAVE_WAY = 8              # only while looking: a free backend is left to a sibling

ctypedef enum Http2End:             # why an HTTP/2 connection was ended before its time
    HTTP2_PROTOCOL_ERROR = 0        # it broke RFC 9113
    HTTP2_RAPID_RESETS = 1          # streams that were reset, by the client or because of what it sent
    HTTP2_HEADER_FLOOD = 2          # a header list far beyond what is read, or one that never ends
    HTTP2_CONTINUATION_FLOOD = 3    # too many of these frames for what moves, as are the next six
    HTTP2_PING_FLOOD = 4
    HTTP2_SETTINGS_FLOOD = 5
    HTTP2_PRIORITY_FLOOD = 6
    HTTP2_WINDOW_UPDATE_FLOOD = 7
    HTTP2_EMPTY_DATA_FLOOD = 8
    HTTP2_OTHER_FLOOD = 9
    HTTP2_WRITE_TIMEOUT = 10        # the client stopped reading
    HTTP2_OUT_OF_MEMORY = 11
    HTTP2_ENDS = 12
    HTTP2_NOT_ENDED = 255

cdef enum:
    HTTP2_HEAD_BYTES = 13           # of a frame, and behind it the first field of PRIORITY

ctypedef enum Http2StreamFlags:
    H2_REMOTE_ENDED = 1             # END_STREAM has come: nothing more does
    H2_CLOSED = 2                   # nothing can be sent on it any more
    H2_ENDED = 4                    # all of its answer is here: behind `output` and `trailers` it ends
    H2_DEFERRED = 8                 # nghttp2 waits to be told of output
    H2_MALFORMED = 16               # after what we answer it is reset with PROTOCOL_ERROR
    H2_TOO_LARGE = 32               # its header list is beyond the limit, and was not kept
    H2_CONNECT = 64                 # a WebSocket (RFC 8441)
    H2_RESET = 128                  # RST_STREAM is submitted
    H2_IN_TRAILERS = 256            # its second header list is coming (of a backend's: what follows the final one)
    # Of backends
    H2_HEAD_GONE = 512              # our HEADERS are with the socket: the backend may have seen the request
    H2_HEAD_CAME = 1024             # its final header list is here
    # Of clients
    H2_EARLY = 2048                 # its header list came before the TLS handshake was over (early_data.pyx)
    H2_AWAITS_HANDSHAKE = 4096      # it begins when that is

ctypedef enum Algorithm:
    ALGORITHM_ROUND_ROBIN = 0
    ALGORITHM_WEIGHTED_LEAST_CONNECTIONS = 1
    ALGORITHM_WEIGHTED_ROUND_ROBIN = 2
    ALGORITHM_LEAST_CONNECTIONS = 3
    ALGORITHM_IP_HASH = 4
    ALGORITHM_HASH = 5
    ALGORITHM_CONSISTENT_HASH = 6
    ALGORITHM_MAGLEV = 7
    ALGORITHM_RANDOM_TWO_CHOICES = 8
    ALGORITHM_PEAK_EWMA = 9
    ALGORITHM_LEAST_TIME = 10
    ALGORITHM_USER = 11             # a function of the user's own (select/user_picker.pxd)
    ALGORITHM_END = 12

ctypedef enum PoolFlags:            # what of the rare a pool uses
    POOL_NEEDS_KEY = 1              # its algorithm looks at the key
    POOL_NOTES_LATENCY = 2          # its algorithm looks at latencies: attempts report them
    POOL_SLOW_START = 4
    POOL_STICKY = 8                 # returning clients get the backend that they had
    POOL_HEDGES = 16
    POOL_PASSIVE_HEALTH = 32        # what comes of its attempts may eject a backend (passive_health.pyx)
    POOL_LIMITS = 64                # of what it may have under way (limits.pyx)
    POOL_PANICS = 128               # where hardly a backend is up, down ones are picked too (panic.pyx)
    POOL_HTTP2 = 256                # its backends speak HTTP/2, or may: asked only where an attempt has no idle connection
    POOL_SENDS_HEADER = 512         # its connections begin with a PROXY header (proxy_codec.pyx)
    POOL_OPENINGS = 768             # of these, what is asked where an attempt opens a connection
    POOL_ENTRY = 17                 # of these, what an exchange does more for when it enters the pool
    POOL_WATCHES = 226              # and what its attempts do more for

ctypedef enum BackendProtocol:      # what the backends of a pool speak
    PROTOCOL_HTTP1 = 0
    PROTOCOL_HTTP2 = 1
    PROTOCOL_AUTO = 2               # what they choose by ALPN
    BACKEND_PROTOCOLS = 3

ctypedef enum LimitKind:            # of what a pool may limit
    LIMIT_CONNECTIONS = 0           # to its backends, idle ones too
    LIMIT_PENDING = 1               # attempts whose connection is being made
    LIMIT_REQUESTS = 2              # attempts
    LIMIT_RETRIES = 3               # exchanges that are tried again, or hedged
    LIMIT_KINDS = 4

ctypedef enum StickyKind:           # how a client of a pool is known again
    STICKY_COOKIE = 0               # by a cookie of ours, which names its backend
    STICKY_LEARN = 1                # by a cookie of the application
    STICKY_SOURCE = 2               # by its address
    STICKY_KINDS = 3

ctypedef enum StickyFlags:
    STICKY_REJECT = 1               # a client whose backend cannot take it gets an error, not another backend
    STICKY_DRAIN = 2                # those who belong to a backend that drains, or of weight 0, still go there
    STICKY_INDIRECT = 4             # the backend does not see the cookie
    STICKY_SECURE = 8               # the cookie is for HTTPS only
    STICKY_SECURE_AUTO = 16         # ... if the client speaks it
    STICKY_NOCACHE = 32             # a response with the cookie says that it is private

ctypedef enum PathKind:             # bits
    PATH_PREFIX = 1
    PATH_EXACT = 2

ctypedef enum ConditionKind:        # in the order of what they cost
    CONDITION_METHOD = 0
    CONDITION_CLIENT = 1
    CONDITION_HEADER = 2
    CONDITION_COOKIE = 3
    CONDITION_QUERY = 4
    CONDITION_KINDS = 5

ctypedef enum ValueKind:            # how a text is compared
    VALUE_EXACT = 0
    VALUE_PREFIX = 1
    VALUE_SUFFIX = 2
    VALUE_PART = 3
    VALUE_REGEX = 4
    VALUE_KINDS = 5

ctypedef enum RouteFeature:         # bits of ImageRoute.features: what a route does besides forwarding to its pool
    ROUTE_PLAIN = 0
    ROUTE_DROPS_NAMES = 1           # an edit of the request replaces fields that have no HeaderId
    ROUTE_SETS_HOST = 2
    ROUTE_EDITS_RESPONSE = 4
    ROUTE_SPLITS = 8                # among several pools
    ROUTE_REWRITES = 16
    ROUTE_REPLACES_PREFIX = 32
    ROUTE_REDIRECTS = 64
    ROUTE_RESPONDS = 128
    ROUTE_CLOSES = 256              # without an answer
    ROUTE_NEEDS_HOST = 512          # its redirect names the host that the client named
    ROUTE_HAS_TIMEOUTS = 1024
    ROUTE_HAS_LIMITS = 2048
    ROUTE_KEEPS_MATCH = 4096        # a template of its names a group of the path's expression
    ROUTE_MIRROR = 1048576          # a share of its requests goes to `mirror_pool` as well
    ROUTE_CHANGES_HEAD = 51         # of these, what changes how a request head is written
    ROUTE_CHANGES_TARGET = 48
    ROUTE_ANSWERS = 448             # no backend is asked

ctypedef enum HeaderOperationKind:
    OPERATION_SET = 0               # drop what was received, add ours
    OPERATION_APPEND = 1            # join to the client's, comma separated (from trusted networks), else as SET
    OPERATION_KEEP_OR_SET = 2       # keep the client's where it is trusted, else as SET
    OPERATION_ADD = 3               # beside what was received
    OPERATION_REMOVE = 4            # drop what was received
    OPERATION_KINDS = 5

cdef enum:
    MAX_HEADER_OPERATIONS = 64      # of one direction of a route
    MAX_HEADER_NAME_BYTES = 128     # of an operation
    MAX_TEMPLATE_SEGMENTS = 64
    MAX_SHARES = 64                 # pools that a route splits its requests among
    MAX_BODY_TEMPLATE_BYTES = 24576     # of an answer that a route makes itself, with the values in it
    MAX_TEMPLATE_LITERAL_BYTES = 16384

ctypedef enum SegmentKind:          # what a part of a template writes
    SEGMENT_LITERAL = 0
    SEGMENT_CLIENT = 1              # address
    SEGMENT_CLIENT_PORT = 2
    SEGMENT_SCHEME = 3
    SEGMENT_HOST = 4                # as routes match it: lower case, no port, no dot at the end
    SEGMENT_HTTP_HOST = 5           # as the client sent it
    SEGMENT_METHOD = 6
    SEGMENT_URI = 7                 # raw, with the query
    SEGMENT_PATH = 8                # normalised, as routes match it
    SEGMENT_QUERY = 9               # raw, without "?"
    SEGMENT_REQUEST_ID = 10         # what the backend gets as X-Request-Id by default
    SEGMENT_LISTENER = 11           # names
    SEGMENT_ROUTE = 12
    SEGMENT_POOL = 13
    SEGMENT_BACKEND = 14            # of the current attempt
    SEGMENT_STATUS = 15             # of the backend's response
    SEGMENT_HEADER = 16             # request fields called `text`, joined by ", "
    SEGMENT_RESPONSE_HEADER = 17
    SEGMENT_COOKIE = 18             # the first one called `text`
    SEGMENT_QUERY_VALUE = 19        # the first parameter called `text`, decoded
    SEGMENT_CAPTURE = 20            # group `argument` of the expression that the path matched
    SEGMENT_TLS = 21                # and the next ones: a TlsFact each, in their order
    SEGMENT_PROXY = 30              # and the next ones: a ProxyFact each, in their order
    SEGMENT_KINDS = 40

ctypedef enum SegmentEncoding:      # what of a value is written as %HH
    ENCODE_NOTHING = 0
    ENCODE_CONTROLS = 1             # in a field value: control characters
    ENCODE_PATH = 2                 # in a path: what nginx escapes there
    ENCODE_COMPONENT = 3            # in a query or a host: all but unreserved characters (RFC 3986 section 2.3)
    SEGMENT_ENCODINGS = 4

cdef enum:
    # TLS (tls.pyx)
    MAX_KEY_TYPES = 4               # certificates of one identity: RSA, ECDSA, Ed25519 and one to spare
    MAX_TLS_TEXT_BYTES = 1048576    # a chain, a bundle of authorities, a list of revoked certificates
    MAX_TLS_LIST_BYTES = 1024       # a list of ciphers, of groups, of protocols
    MAX_TLS_NAME_BYTES = 255
    MAX_HANDSHAKE_MS = 600000
    MAX_CLIENT_DEPTH = 32           # certificates between a client's and its authority's
    TICKET_KEY_BYTES = 80           # 16 of name, 32 for HMAC, 32 for AES-256: what nginx reads from a file of that size
    MAX_TICKET_KEYS = 16

ctypedef enum ClientAuth:
    CLIENT_AUTH_NONE = 0
    CLIENT_AUTH_OPTIONAL = 1        # one that does not verify is told to the backend, and not refused
    CLIENT_AUTH_REQUIRED = 2
    CLIENT_AUTH_KINDS = 3

ctypedef enum TlsFact:              # what templates and logs can say of a client's TLS
    TLS_VERSION = 0
    TLS_CIPHER = 1
    TLS_SERVER_NAME = 2             # as it was asked for
    TLS_RESUMED = 3                 # yes or no
    TLS_CLIENT_SUBJECT = 4          # of its certificate, as its issuer: as RFC 2253 writes names
    TLS_CLIENT_ISSUER = 5
    TLS_CLIENT_SERIAL = 6           # hexadecimal
    TLS_CLIENT_FINGERPRINT = 7      # SHA-256, hexadecimal
    TLS_CLIENT_VERIFY = 8           # NONE, SUCCESS or FAILED:reason
    TLS_FACTS = 9

ctypedef enum ProxyFact:            # what templates and logs can say of the PROXY header that a client's connection began with
    PROXY_SENDER = 0                # who sent it: an address
    PROXY_DESTINATION = 1           # whom the client had connected to: an address
    PROXY_DESTINATION_PORT = 2
    PROXY_ALPN = 3
    PROXY_AUTHORITY = 4             # the name that the client asked for
    PROXY_UNIQUE_ID = 5
    PROXY_TLS_VERSION = 6           # of the client's TLS with the sender
    PROXY_TLS_CIPHER = 7
    PROXY_CLIENT_NAME = 8           # the common name of its certificate
    PROXY_CLIENT_VERIFY = 9         # NONE, SUCCESS or FAILED:number
    PROXY_FACTS = 10

ctypedef enum ProxyFlags:           # of a listener
    PROXY_FROM_UNIX = 1             # who comes by a unix socket sends headers
    PROXY_OTHERS_PLAIN = 2          # who does not send headers speaks for itself; else it is refused
    PROXY_FLAGS = 3                 # all of them

ctypedef enum ProxyHeaderFlags:     # of a pool: the header that its connections begin with; none: they do not
    PROXY_SENDS_LINE = 1            # version 1
    PROXY_SENDS_BINARY = 2          # version 2; that has the next ones, where they are known
    PROXY_SENDS_ALPN = 4
    PROXY_SENDS_AUTHORITY = 8
    PROXY_SENDS_UNIQUE_ID = 16
    PROXY_SENDS_TLS = 32
    PROXY_SENDS_CHECK_SUM = 64
    PROXY_SENDS_FLAGS = 127         # all of them


# ---------------------------------------------------------------------------------------------------------------- forward
cdef struct Engine
cdef struct Connection
cdef struct Exchange
cdef struct ImageRoute
cdef struct ImageSticky
cdef struct Attempt
cdef struct Backend
cdef struct Pool
cdef struct Queue
cdef struct Snapshot
cdef struct Listener
cdef struct Buffer
cdef struct Relay
cdef struct Head
cdef struct Timer
cdef struct SharedRow
cdef struct RowDetails
cdef struct Column
cdef struct SharedTable
cdef struct WorkerBlock
cdef struct AccessLog
cdef struct LogPlan
cdef struct LogRecord
cdef struct LogWriter
cdef struct Regex
cdef struct RegexScratch
cdef struct TlsConnection
cdef struct TlsListener
cdef struct TlsBackend
cdef struct Http2Stream
cdef struct Http2Session
cdef struct ProxyFacts
cdef struct ImageNetwork
cdef struct DatagramTable
cdef struct DatagramScratch

cdef struct ImageText:              # in a snapshot image, or in a log plan: offsets from its start
    uint32_t offset, size

cdef struct ImageSection:
    uint32_t offset, count


# ---------------------------------------------------------------------------------------------------------------- memory
cdef struct Buffer:
    # One block from the worker's free lists; data follows the struct.
    Buffer* next                    # free list, or the next block of a queue
    uint32_t capacity
    uint32_t start                  # first byte not consumed
    uint32_t end                    # one past the last byte held
    uint8_t size_class
    char* data                      # points behind this struct

cdef enum:
    BUFFER_CLASSES = 4              # 4, 16, 64, 256 KiB, struct included

cdef struct BufferPool:
    Buffer* free[BUFFER_CLASSES]    # owned
    uint32_t n_free[BUFFER_CLASSES]
    uint64_t taken, returned


# ---------------------------------------------------------------------------------------------------------------- timers
cdef struct Timer:
    Timer* next
    Timer** link                    # what points at us; NULL = not filed
    uint64_t deadline_ms            # the true deadline; may be later than the slot says (lazy re-arming)
    uint64_t filed_tick             # the slot we stand in, as an absolute tick
    # 32 bytes

cdef struct TimerWheel:
    Timer** slots                   # owned, WHEEL_SLOTS
    uint64_t* occupied              # owned, one bit a slot
    uint64_t tick                   # everything up to here has been looked at
    uint64_t armed_ms               # when the timerfd will fire; 0 = not armed
    uint64_t count
    int fd                          # owned: the timerfd


# ---------------------------------------------------------------------------------------------------------------- sockets
# The one table of functions through which bytes reach a connection; `tls` offers the same one.
cdef struct Transport:
    ssize_t (*receive)(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil
    ssize_t (*send)(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil
    ssize_t (*send_parts)(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts) noexcept nogil
    int (*shut_write)(Engine* engine, Connection* connection) noexcept nogil
    bint can_splice
    # Before the descriptor closes: what this transport keeps for the connection; with `reset` the other side sees an error. NULL: nothing.
    void (*close)(Engine* engine, Connection* connection, bint reset) noexcept nogil

# What a codec offers the engine and the exchange, whichever version of HTTP it speaks.
cdef struct Codec:                  # what a table leaves out is NULL, and never called
    # The connection has something to read, room to write, or failed.
    void (*ready)(Engine* engine, Connection* connection) noexcept nogil
    # Its deadline passed; what it was waiting for follows from its state.
    void (*timed_out)(Engine* engine, Connection* connection) noexcept nogil
    # Client side: an interim (1xx) head; the final head, with the body bytes that came with it; a local answer; its route's own; the end of a
    # complete exchange; a cut, where the client must see that its answer is not whole; the switch to a tunnel after a 101.
    void (*send_informational)(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
    bint (*send_head)(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil
    void (*send_local)(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
    void (*send_answer)(Engine* engine, Exchange* exchange, const Head* request) noexcept nogil
    void (*end)(Engine* engine, Exchange* exchange) noexcept nogil
    void (*reset)(Engine* engine, Exchange* exchange) noexcept nogil
    bint (*switch_to_tunnel)(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil
    # Backend side: sends the request of this attempt on its connection; 0 or a FAILURE_*.
    uint32_t (*send_request)(Engine* engine, Attempt* attempt) noexcept nogil
    # Takes a client over from another codec, with `size` bytes received already; client.input, where they may stand, is let go of.
    void (*adopt)(Engine* engine, Connection* client, const char* data, uint32_t size) noexcept nogil
    # The connection closes: frees what the codec keeps in Connection.http2. With `reset` the other side is to see an error.
    void (*close)(Engine* engine, Connection* connection, bint reset) noexcept nogil

cdef struct Peer:                   # who a client is
    bint trusted                    # its address lies in a trusted network (of the snapshot of the generation below)
    uint32_t number                 # counts up from 1 in each worker; names the connection in logs
    uint64_t trusted_generation
    uint8_t ip[16]                  # its address again, IPv4 as ::ffff:a.b.c.d
    uint8_t ip_version              # 4 or 6; 0 = none (a unix socket)
    char address[ADDRESS_TEXT_BYTES]
    uint32_t exchange_flags         # ExchangeFlags that each of its exchanges begins with

cdef struct FoldedTunnel:
    # What is kept of a tunnel that is quiet, while its exchange and its attempt are on their free lists (folded_tunnel.pyx). The names are theirs.
    uint64_t deadline_ms, began_us
    uint64_t up_moved, up_sent, down_moved, down_sent
    LogRecord* log                  # owned
    Backend* request_place          # counted
    uint32_t flags
    uint32_t tunnel_timeout_ms
    uint16_t route_meter, pool_meter, status
    uint8_t failure
    uint8_t watched, log_try, attempt_state
    uint8_t ended                   # FoldedEnds

ctypedef enum FoldedEnds:           # bits
    FOLDED_UP_ENDED = 1             # that direction has
    FOLDED_DOWN_ENDED = 2
    FOLDED_CLAIMED = 4              # Attempt.claimed
    FOLDED_GOOD = 8                 # Attempt.is_good

cdef struct Connection:
    Timer timer                     # first, so that a Timer* is a Connection*
    Connection* ready_next          # engine's ready list while IO_READY_LISTED
    uint32_t io                     # IoBits
    int32_t fd
    uint8_t kind                    # ConnectionKind
    uint8_t state                   # ConnectionState
    uint8_t wait                    # WaitKind
    uint8_t close_after_idle        # drain: this client gets no further exchange
    uint32_t generation             # with `index`: what the kernel gives back; a late event of an earlier use does not match
    const Transport* transport      # borrowed, static
    const Codec* codec              # borrowed, static
    Exchange* exchange              # client: owned while one runs. backend: borrowed, the exchange of `attempt`
    Attempt* attempt                # backend: borrowed, NULL while idle
    Buffer* input                   # owned: received and not consumed (part of a head, pipelined requests)
    Listener* listener              # client: counted
    Backend* backend                # backend: counted
    Connection* cache_next          # backend: idle cache; any: graveyard and free list; of a folded tunnel: the other side
    Connection* cache_previous
    # client: every open one (drain walks them). Idle backend connection with a `place`: the idle ones that are counted there (limits.pxd)
    Connection* all_next
    Connection* all_previous
    uint32_t index                  # own place in the connection table
    uint32_t n_exchanges            # served so far on this connection
    uint32_t drained_bytes          # LINGER; of a mirror: bytes of its request; of a ClientHello: how many are worth looking at
    uint16_t peer_port
    uint8_t address_size
    Backend* place                  # backend: counted: the row of a limit that it is counted in; NULL = none
    Peer peer                       # client. Backend: while its tunnel is folded, a FoldedTunnel stands here
    TlsConnection* tls              # owned by its transport (tls.pyx); NULL = plain
    # client or backend: owned, its Http2Session; client of a UDP listener: owned, its DatagramSession. Either kind of stream: borrowed, its
    # Http2Stream. NULL = none of these
    void* http2
    ProxyFacts* proxy               # client, mirror: counted. stream: borrowed from its session's client. NULL = no PROXY header said anything

cdef struct ConnectionTable:
    # Index -> connection, in slabs that never move. Closed ones wait in the graveyard until the batch ends, so that no
    # caller up the stack holds a freed pointer.
    Connection** slabs              # owned
    uint32_t n_slabs, max_slabs
    Connection* free                # borrowed from the slabs
    Connection* graveyard
    uint64_t n_open, max_open


# ---------------------------------------------------------------------------------------------------------------- heads
cdef struct HeaderField:            # offsets into Head.data; a line is name ":" OWS value OWS CRLF
    uint32_t name
    uint32_t value
    uint32_t value_size
    uint32_t end                    # one past the CRLF
    uint16_t name_size
    uint8_t id                      # HeaderId
    uint8_t flags                   # FieldFlags

cdef struct Head:
    # One parsed head, of a request or a response: offsets into `data`, valid as long as those bytes are.
    const char* data                # borrowed
    uint32_t size                   # with the empty line
    uint32_t n_fields
    uint64_t seen                   # bit per HeaderId
    int64_t content_length          # -1 = none
    uint16_t flags                  # HeadFlags
    uint16_t status                 # response
    uint8_t version                 # 0 or 1: the minor version
    uint8_t method                  # Method
    uint8_t framing                 # Framing
    uint32_t method_size            # request: method at offset 0
    uint32_t target, target_size    # as received
    uint32_t origin, origin_size    # what is forwarded: the target, in origin form
    uint32_t path_size              # of origin, up to "?"
    uint32_t host, host_size        # Host, or the authority of an absolute-form target
    uint32_t reason, reason_size    # response: reason phrase
    uint32_t fields_start           # offset of the first field line
    uint32_t connection_field       # index of the (first) Connection field, NO_INDEX = none
    uint32_t upgrade_field
    HeaderField fields[MAX_HEADERS]

cdef struct HeadLimits:
    uint32_t max_bytes, max_target_bytes, max_fields

cdef struct NamedPart:              # a parameter of a query, or a cookie, as received: borrowed from the head
    const char* name
    const char* value
    uint32_t name_size, value_size

cdef struct Match:
    # What find_route has found. `groups` are those of the rule's regular expression, in `path`; both are borrowed until the next request.
    uint32_t route                  # index
    uint32_t n_groups               # 0 = the rule has none
    const char* path                # normalised
    uint32_t path_size
    uint32_t groups[2 * MAX_MATCH_GROUPS]   # start and end; NO_INDEX twice for a group that took no part


# ---------------------------------------------------------------------------------------------------------------- relay
cdef struct Pipe:
    int read_fd, write_fd           # owned
    uint32_t fill                   # bytes inside

cdef struct PipePool:
    # Pipes are lent only while bytes move; the kernel gives an unprivileged user 256 big ones over all processes.
    Pipe* pipes                     # owned
    int32_t* idle                   # owned: stack of indices
    int32_t n_made, n_idle, capacity
    uint64_t taken, returned
    bint exhausted                  # the kernel gave a small pipe: no more are made

ctypedef enum RelayState:
    RELAY_OFF = 0
    RELAY_RUNNING = 1
    RELAY_DONE = 2                  # source ended as its framing says, everything handed to the sink
    RELAY_SOURCE_FAILED = 3         # reset, or ended before its framing said
    RELAY_SOURCE_INVALID = 4        # bad chunked framing
    RELAY_SINK_FAILED = 5
    RELAY_TOO_LARGE = 6             # past the listener's body limit
    RELAY_NO_MEMORY = 7

ctypedef enum ChunkState:           # chunked decoder; see http1_body
    CHUNK_SIZE_START = 0
    CHUNK_SIZE = 1
    CHUNK_EXTENSION = 2
    CHUNK_EXTENSION_QUOTED = 3
    CHUNK_EXTENSION_ESCAPED = 4
    CHUNK_SIZE_LF = 5
    CHUNK_DATA = 6
    CHUNK_DATA_CR = 7
    CHUNK_DATA_LF = 8
    CHUNK_TRAILER_START = 9
    CHUNK_TRAILER = 10
    CHUNK_END_LF = 12
    CHUNK_DONE = 13
    CHUNK_BAD = 14

cdef struct ChunkDecoder:
    uint64_t remaining              # bytes of the current chunk's data still to come
    uint32_t extension_bytes        # of this body so far
    uint8_t state                   # ChunkState
    uint8_t digits
    Buffer* trailers                # owned: raw trailer lines, checked at the end

cdef struct Relay:
    # One direction: bytes from source to sink. Framing is taken off the source and put on the sink.
    Connection* source              # borrowed while RELAY_RUNNING
    Connection* sink                # borrowed while RELAY_RUNNING
    Buffer* pending                 # owned: read (or made) and not yet accepted by the sink
    int64_t remaining               # FRAME_LENGTH: bytes still to come
    uint64_t moved                  # body bytes taken from the source
    uint64_t sent                   # bytes the sink's socket accepted, framing and heads included
    uint64_t limit                  # RELAY_TOO_LARGE past this; 0 = none
    Exchange* exchange              # borrowed
    uint32_t read_size
    int32_t pipe                    # lent, NO_PIPE
    uint8_t state                   # RelayState
    uint8_t source_framing, sink_framing
    bint source_ended               # nothing more will be read; `pending` may still wait
    bint source_extra               # bytes beyond the framing came (a backend's connection is then not reused)
    bint keep                       # the bytes sent are kept in exchange.replay
    ChunkDecoder chunk


# ---------------------------------------------------------------------------------------------------------------- access log
cdef enum:
    MAX_LOGS = 16                   # of one listener
    MAX_LOG_CAPTURES = 64           # values that the logs of one listener keep of each exchange
    MAX_LOG_OPERATIONS = 256        # of one format
    MAX_LOG_LITERAL_BYTES = 8192    # of one format
    MAX_LOG_DESTINATIONS = 64       # of one snapshot; see LOG_SLOTS
    MAX_LOG_TRIES = 12              # attempts that a line can tell of
    LOG_VALUE_BYTES = 4096          # a longer value is cut
    LOG_VALUES_BYTES = 16000        # all values of an exchange: they fit a 16 KiB block
    LOG_SLOTS = 256                 # of a worker: destinations of this snapshot, and of earlier ones that tunnels still log to
    LOG_LINE_BYTES = 65528          # a line with its newline
    LOG_STREAM_LINE_BYTES = 4096    # PIPE_BUF: what workers write to one pipe at the same time is not mixed up to here
    LOG_DATAGRAM_LINE_BYTES = 8192  # what rsyslog takes by default
    LOG_SAMPLE_ALL = 0x80000000      # ImageLog.sample of a log that takes every exchange
    LOG_ABSENT = 0xFFFF             # LogValue.size: there was none
    LOG_NO_TIME = 0xFFFFFFFF        # LogTry: has not happened

ctypedef enum LogCaptureKind:       # what is kept of heads, which are gone when the line is written
    CAPTURE_METHOD = 0
    CAPTURE_TARGET = 1
    CAPTURE_PATH = 2
    CAPTURE_QUERY = 3
    CAPTURE_PROTOCOL = 4
    CAPTURE_REQUEST_LINE = 5
    CAPTURE_HOST = 6
    CAPTURE_USER = 7                # of Basic credentials
    CAPTURE_REQUEST_ID = 8          # the client's own, where it is believed
    CAPTURE_POOL = 9
    CAPTURE_REQUEST_FIELD = 10
    CAPTURE_RESPONSE_FIELD = 11
    CAPTURE_TLS = 12                # and the next ones: a TlsFact each, in their order
    CAPTURE_GRPC_STATUS = 21        # keeps no text, and has LogRecord.grpc_status filled
    CAPTURE_PROXY = 22              # and the next ones: a ProxyFact each, in their order
    CAPTURE_KINDS = 32

ctypedef enum LogField:             # what an operation writes, or a condition looks at
    LOG_LITERAL = 0                 # argument, size: where it stands in the plan
    LOG_CAPTURE = 1                 # argument: index of the capture
    LOG_CLIENT = 2
    LOG_REQUEST_ID = 3              # argument: index of a CAPTURE_REQUEST_ID
    LOG_REASON = 4
    LOG_BACKEND = 5                 # of the last attempt, as are the next four
    LOG_TEXTS_END = 6
    LOG_BACKEND_STATUS = 6
    LOG_CONNECT_MS = 7
    LOG_FIRST_BYTE_MS = 8
    LOG_BACKEND_MS = 9
    LOG_STATUS = 10
    LOG_BYTES_SENT = 11
    LOG_BODY_BYTES_SENT = 12
    LOG_REQUEST_BYTES = 13
    LOG_REQUEST_BODY_BYTES = 14
    LOG_DURATION_MS = 15
    LOG_ATTEMPTS = 16
    LOG_CLIENT_PORT = 17
    LOG_CONNECTION = 18
    LOG_CONNECTION_REQUESTS = 19
    LOG_KEEP_ALIVE = 20
    LOG_TUNNEL = 21
    LOG_PID = 22
    LOG_QUEUE_MS = 23
    LOG_GRPC_STATUS = 24
    LOG_NUMBERS_END = 25
    LOG_DURATION = 25               # seconds with milliseconds, as are msec and nginx's times
    LOG_TIME_LOCAL = 26             # 10/Oct/2000:13:55:36 -0700
    LOG_TIME = 27                   # 2000-10-10T20:55:36.123Z
    LOG_TIME_SECONDS = 28           # since 1970, with milliseconds
    LOG_TIME_SYSLOG = 29            # Oct 10 13:55:36, local (RFC 3164)
    LOG_BACKENDS = 30               # of every attempt, joined by ", "
    LOG_BACKEND_STATUSES = 31
    LOG_FIELDS_END = 32

ctypedef enum LogEscape:
    ESCAPE_TEXT = 0                 # nginx's default: \xHH for '"', '\' and all that is not printable ASCII; "-" where there is none
    ESCAPE_JSON = 1                 # a whole JSON value: a string in quotes, a number, or null
    ESCAPE_JSON_TEXT = 2            # the inside of a JSON string; nothing where there is none (nginx's escape=json)
    ESCAPE_NONE = 3                 # as it came, "-" where there is none (nginx's escape=none)
    ESCAPES_END = 4

ctypedef enum LogComparison:
    COMPARE_EQUAL = 0
    COMPARE_NOT_EQUAL = 1
    COMPARE_LESS = 2                # numbers only, as are the next three
    COMPARE_LESS_OR_EQUAL = 3
    COMPARE_GREATER = 4
    COMPARE_GREATER_OR_EQUAL = 5
    COMPARE_STARTS_WITH = 6         # texts only, as are the next two
    COMPARE_ENDS_WITH = 7
    COMPARE_CONTAINS = 8
    COMPARE_END = 9

cdef enum:
    LOG_ACCEPT = 0xFFFFFFFF         # where a term of a condition may lead besides a later term
    LOG_REJECT = 0xFFFFFFFE

ctypedef enum LogDestinationKind:
    LOG_TO_FILE = 0
    LOG_TO_STREAM = 1               # stdout, stderr: perhaps a pipe that others write to as well
    LOG_TO_DATAGRAMS = 2            # a connected datagram socket (syslog): a message for each line, without its newline
    LOG_DESTINATION_KINDS = 3

# A plan has offsets of its own, from its start, so that it can outlive its snapshot: an exchange holds on to the plan alone.
cdef struct ImageLogPlan:
    uint32_t size                   # in bytes, with all that follows
    uint32_t ring_bytes             # a power of two
    ImageSection sets               # of each listener that logs: what it keeps, and its logs
    ImageSection logs
    ImageSection captures
    ImageSection operations
    ImageSection terms
    ImageSection destinations

cdef struct ImageLogSet:
    ImageSection logs               # offsets are record indices, here and below
    ImageSection captures
    uint32_t max_sample             # the largest of its logs

cdef struct ImageLog:
    uint32_t destination
    uint32_t sample                 # 0 to LOG_SAMPLE_ALL: how many exchanges of that many
    ImageSection operations
    ImageSection terms              # none: every exchange

cdef struct ImageLogCapture:
    uint32_t kind                   # LogCaptureKind
    ImageText name                  # of a header field, lower case

cdef struct ImageLogOperation:
    uint32_t field                  # LogField
    uint32_t escape                 # LogEscape
    uint32_t argument, size

cdef struct ImageLogTerm:           # one comparison, and which term decides next
    uint64_t number
    ImageText text
    uint32_t field, argument        # as in an operation; texts and numbers only
    uint32_t comparison             # LogComparison
    uint32_t on_true, on_false      # a later term, LOG_ACCEPT or LOG_REJECT

cdef struct ImageLogDestination:
    ImageText identity              # its lines go on to the same descriptor in every snapshot that has it
    uint32_t kind                   # LogDestinationKind

cdef struct LogPlan:
    # A snapshot's log plan, with the slots of its destinations.
    const char* data                # owned copy of an ImageLogPlan and what belongs to it
    const ImageLogPlan* header      # = data
    int64_t references              # snapshot + listeners + records
    bint bound                      # holds its slots
    uint16_t slots[MAX_LOG_DESTINATIONS]

cdef struct LogValue:               # in LogRecord.values
    uint16_t offset, size

cdef struct LogTry:
    uint64_t started_ms
    LogValue backend
    uint32_t status                 # 0 = no answer
    uint32_t connect_ms, first_byte_ms, end_ms      # since the attempt began; LOG_NO_TIME

cdef struct LogRecord:
    # What the lines of one exchange will need and nothing else keeps.
    LogRecord* next                 # free list
    LogPlan* plan                   # counted
    const ImageLogSet* set          # borrowed from plan
    Buffer* values                  # owned
    uint64_t started_ms
    uint64_t informational_bytes    # of interim heads sent
    uint32_t head_bytes             # of the final head sent
    uint32_t request_head_bytes
    uint32_t draw                   # random, below LOG_SAMPLE_ALL
    uint32_t queued_ms              # spent in queues that it has left
    uint8_t reason                  # FAILURE_* of a local answer or a cut one
    uint8_t n_tries
    uint8_t shown_try               # index of the one that the line's single values tell of: what answered, else what began last
    uint16_t grpc_status            # LOG_ABSENT
    LogTry tries[MAX_LOG_TRIES]
    LogValue captured[MAX_LOG_CAPTURES]
    char request_id[REQUEST_ID_BYTES]       # of a tunnel that is folded: the exchange's

ctypedef enum LogSlotState:
    SLOT_FREE = 0                   # set by the thread when it has let go of it, or never used
    SLOT_USED = 1

cdef struct LogSlot:
    # One destination. Each field belongs to one side, but for those that are handed over with one atomic word.
    int next_fd                     # handed over: taken by the thread (which then owns it) or closed by the next hand-over; -1 = none
    uint32_t closing                # handed over: no line follows that stands before close_at
    uint32_t state                  # handed over: LogSlotState
    uint32_t kind                   # LogDestinationKind; set before the first line
    uint64_t close_at               # pump, before `closing`
    int64_t references              # pump: plans that are bound to it
    char* identity                  # pump: owned
    uint32_t identity_size          # pump
    int fd                          # thread: owned, -1 = none; nobody else reads or closes it while the thread runs
    bint torn                       # thread: what was written last ends in the middle of a line
    socklen_t address_size          # thread: of a datagram socket's other end, to connect again
    sockaddr_storage address

cdef struct LogWriter:
    # The ring between the pump (puts) and the thread (takes), positions count bytes since the start.
    char* ring                      # owned
    uint64_t mask
    uint64_t head                   # pump
    uint64_t free_until             # pump: the tail it saw last, plus the size of the ring
    uint64_t woken_head             # pump
    uint32_t changes                # pump: counts hand-overs
    uint32_t stop                   # pump
    uint64_t stop_ms                # pump, before `stop`: when to give up
    char apart[64]                  # a cache line: what follows is written by the thread
    uint64_t tail                   # thread
    uint64_t lines_written, lines_lost, bytes_written       # thread
    uint32_t sleeping               # both: the thread waits for event_fd
    uint32_t changes_seen           # thread
    bint closing                    # thread: a slot waits for its last lines
    char* block                     # thread: owned; one byte, then the lines of one write
    int event_fd                    # owned: wakes the thread
    int done_fd                     # owned: the thread has ended
    pthread_t thread
    bint started
    LogSlot slots[LOG_SLOTS]

cdef struct AccessLog:
    # The pump's side of logging.
    LogWriter* writer               # owned
    LogRecord* free_records         # owned
    uint32_t n_free_records
    uint32_t pid
    uint64_t lines_written, lines_lost, bytes_written       # of the writer's, what the engine's counters have already
    uint64_t random
    uint64_t clock_s                # wall-clock second of the texts below
    char time_local[32]
    char time_utc[32]
    char time_syslog[24]
    char* line                      # owned scratch, LOG_LINE_BYTES

# ---------------------------------------------------------------------------------------------------------------- exchange
cdef struct Attempt:
    Attempt* next                   # free list
    Exchange* exchange              # borrowed: its owner
    Connection* connection          # borrowed: it owns itself; NULL before and after
    Backend* backend                # counted; its in_flight is claimed while `claimed`
    int32_t pick                    # index in the pool of the exchange's snapshot
    uint8_t state                   # AttemptState
    uint8_t log_try                 # index in LogRecord.tries
    bint is_hedge                   # begun beside another one
    bint reused                     # connection came from the idle cache
    bint claimed
    bint peak                       # how its latency counts: see select/latency.pxd
    uint8_t watched                 # those of POOL_WATCHES that its pool has
    uint8_t is_good                 # POOL_PASSIVE_HEALTH: its answer began well, and nothing has come between since
    uint64_t began_us               # monotonic
    Backend* request_place          # counted: the row of a limit that it is counted in; NULL = none
    Backend* pending_place          # the same, while it connects

cdef struct Exchange:
    Exchange* next                  # free list, graveyard; X_QUEUED: who is behind us
    Connection* client              # borrowed: owns us; NULL once it is gone
    Attempt* attempt                # owned: the current one
    Attempt* hedge                  # owned: the other one, while there are two (hedge.pyx)
    Snapshot* snapshot              # counted, until no retry is possible; then NULL
    const ImageRoute* route         # borrowed from snapshot
    Pool* pool                      # borrowed from snapshot
    int32_t sticky                  # X_STICKY: where the client belongs, in the pool; NO_BACKEND = nowhere yet
    uint64_t sticky_hash            # X_STICKY: by which the node's table knows the client; 0 = by nothing
    uint32_t flags                  # ExchangeFlags
    uint16_t status                 # of the final head
    uint8_t failure                 # of the last attempt that failed
    uint8_t method                  # Method
    uint8_t n_attempts, max_attempts
    uint8_t n_tried
    int32_t tried[MAX_TRIED]        # picks that failed
    uint64_t key                    # what its pool's algorithm hashes, hashed (select/key.pxd); 0 where it hashes nothing
    Buffer* request_head            # owned: raw bytes, kept until no retry is possible
    Buffer* replay                  # owned: body bytes sent so far, while X_REPLAYABLE
    Buffer* matched                 # owned: the path and its groups (ROUTE_KEEPS_MATCH; template.pyx: keep_match)
    Buffer* target                  # owned: what backends get instead of the target (ROUTE_CHANGES_TARGET)
    uint64_t max_body_bytes         # 0 = no limit
    uint32_t replay_limit
    # copied from the pool, so that a tunnel open for days pins no snapshot
    uint32_t connect_timeout_ms, first_byte_timeout_ms, between_bytes_timeout_ms, tunnel_timeout_ms
    uint64_t deadline_ms            # of the whole exchange
    uint64_t started_ms             # when it entered its pool
    uint64_t began_us               # monotonic: its request head was here
    uint16_t route_meter, pool_meter        # numbers; 0 = nobody's
    Relay up                        # request body, client -> backend
    Relay down                      # response body, backend -> client; also carries every byte sent to the client
    LogRecord* log                  # owned: what its log line will need; NULL where nothing is logged
    Exchange* previous              # X_QUEUED: who is before us
    uint64_t queue_order            # X_QUEUED: priority and since when (queue.pxd)
    Backend* retry_place            # X_RETRY_PLACE: counted
    bint half_closed                # X_QUEUED: the client had shut its writing side down before it began to wait
    char request_id[REQUEST_ID_BYTES]


# ---------------------------------------------------------------------------------------------------------------- HTTP/2
cdef struct Allowance:              # a token bucket: what is used up fills again with time
    int64_t left
    uint64_t filled_ms

cdef struct Http2Numbers:
    # The numbers of a client's streams, for http2_numbers.pxd.
    uint32_t next                   # the lowest that a new stream may have; 0: 1
    uint64_t finished               # bit n: the client has ended or reset the stream n + 1 before `next`
    uint64_t skipped                # bit n: there is no such stream, as a later one was opened before

cdef struct Http2Session:
    # What a connection that speaks HTTP/2 keeps (http2.pyx).
    void* handle                    # owned: nghttp2_session
    Engine* engine                  # borrowed
    Connection* connection          # borrowed: owns us
    Http2Stream* streams            # owned: all that nghttp2 knows of
    uint32_t n_streams
    uint32_t n_exchanges            # of these, with a connection of their own
    Buffer* held                    # owned: frames that the socket has not taken
    char* batch                     # while frames are gathered: where the next one goes, and where they should end
    char* batch_end
    uint64_t written_ms             # when the socket last took something, or had nothing to take
    uint64_t idle_ms                # since when there is no stream
    uint64_t checked_ms             # when whole answers were last looked at, whether their clients take them; or `held` went
    uint64_t block_ms               # since when a header block is coming; 0 = none is
    uint64_t told_ms                # when the client was told to leave; 0 = it was not
    uint32_t block_bytes            # of the header list that is coming, as RFC 9113 section 6.5.2 counts
    uint8_t end                     # Http2End: why it is to be ended, HTTP2_NOT_ENDED
    bint has_left                   # told_ms: no later stream will be served
    bint gone                       # nothing is read or written any more: closes when the last exchange is over
    Allowance frames                # how many frames that move nothing may come
    Allowance resets
    Http2Numbers numbers
    uint32_t stream_flags           # Http2StreamFlags that a new stream of a client has
    uint32_t window_bytes           # of each stream
    # Of backends (http2_backend.pyx)
    Http2Session* next              # those to the same backend
    Http2Session* previous
    uint32_t max_streams            # at a time, as the pool allows; its backend may allow less
    bint refuses                    # no new stream: it ends with those that it has
    bint is_listed                  # idle: counted among its backend's idle connections, and on the list of its limit (limits.pxd)
    bint is_settled                 # its backend has said what it allows (SETTINGS)
    bint speaks_http1               # its first bytes are an answer of HTTP/1.1
    uint64_t received_ms            # when something came last
    uint64_t pinged_ms              # when it was asked whether it is still there, and has not answered since; 0 = it was not
    uint64_t late_ms                # when the first of the streams whose end has not come, though their attempts are over, is reset; 0 = none is
    # What nghttp2 says nothing of (http2_frames.pxd)
    uint32_t frame_left             # bytes that come before the next frame's head
    uint8_t head[HTTP2_HEAD_BYTES]  # of it, what has come so far
    uint32_t n_head
    uint32_t broken                 # why the frame that came last may not come; 0 = it may
    uint32_t unseen_frames          # without data, or of kinds that nobody knows, and not shown to us since
    int64_t unseen_bytes            # of DATA frames, as above
    int64_t late_bytes              # how much DATA may still come on streams that we have reset

cdef struct Http2Stream:
    # A stream, from its header list until nghttp2 has closed it; its connection is closed earlier, with its exchange.
    Http2Session* session           # borrowed: owns us
    Connection* connection          # borrowed: of KIND_STREAM; NULL once its exchange is over
    Http2Stream* next
    Http2Stream* previous
    Buffer* fields                  # owned: its header list, until its exchange begins
    Buffer* input                   # owned: body bytes that its exchange has not taken
    Buffer* output                  # owned: body bytes that nghttp2 has not taken
    Buffer* trailers                # owned: that we send, as lines
    Buffer* received_trailers       # owned: a header list; once it is whole, lines
    int64_t content_length          # as the request says, once that is known; -1 = it does not
    int64_t received                # body bytes
    uint64_t moved_ms               # when output was last taken, or began to wait
    int32_t id
    uint32_t flags                  # Http2StreamFlags
    # Of backends
    Buffer* head                    # owned: its heads, as HTTP/1.1 has them, that its exchange has not taken
    uint32_t failure                # FAILURE_* of its attempt; 0 = none
    uint64_t began_ms


# ---------------------------------------------------------------------------------------------------------------- UDP
cdef struct DatagramKey:            # what tells sessions at one socket apart; without holes, so that it is compared and hashed as bytes
    uint8_t client[16]              # IPv4 as ::ffff:a.b.c.d, as is `local`
    uint8_t local[16]               # the address that the client asked, where the socket has several; else zeroes
    uint32_t scope                  # interface of a link-local client
    uint16_t port                   # as on the wire
    uint16_t padding                # 0

cdef struct DatagramSession:
    # One client of a UDP listener, from its first datagram on (datagram_session.pyx).
    DatagramSession* next           # in its chain
    DatagramSession* newer          # by when anything was last heard of it
    DatagramSession* older
    Connection* client              # borrowed: owns us
    uint64_t hash
    uint64_t n_asked                # datagrams of the client that were sent on
    uint64_t n_answered
    DatagramKey key
    uint64_t began_ms
    uint64_t heard_ms               # when anything was last heard of it
    bint keeps_copy                 # its exchange's `replay` is one of engine.n_datagram_copies

cdef struct DatagramTable:
    # The sessions at one socket (datagram_table.pyx).
    DatagramSession** chains        # owned; a power of two
    DatagramSession* newest
    DatagramSession* oldest
    uint32_t n_chains
    uint32_t count
    uint64_t seed[2]                # random: nobody can aim at one chain
    int fd                          # answers leave through it. The listener's, borrowed; -1 = that is gone
    bint owns_fd                    # it is a copy of our own
    bint tells_local                # the socket has several addresses, and the kernel tells which one was asked
    uint32_t per_turn               # how many datagrams the next turn takes
    uint64_t ends_ms                # the socket is another worker's, or nobody's: the end of all sessions here; 0 = it is ours

cdef struct DatagramBatch:
    # What one recvmmsg brings: each part is a datagram, or several that the kernel has put together. Headers to send them on point into it.
    mmsghdr messages[DATAGRAMS_PER_BATCH]
    iovec parts[DATAGRAMS_PER_BATCH]    # room while empty, then what came
    sockaddr_in6 names[DATAGRAMS_PER_BATCH]
    char control[DATAGRAMS_PER_BATCH][DATAGRAM_CONTROL_BYTES]
    uint16_t segments[DATAGRAMS_PER_BATCH]      # of a part: the size of each of its datagrams but the last, which may be smaller; 0 = it is one
    mmsghdr leaving[DATAGRAMS_PER_BATCH]
    char leaving_control[DATAGRAMS_PER_BATCH][DATAGRAM_CONTROL_BYTES]
    char* data                      # owned: DATAGRAM_BYTES for each

cdef struct DatagramScratch:
    # Shared by all UDP listeners of an engine. Of `data` only the pages that datagrams have reached take memory.
    DatagramBatch asked             # empty between two events
    DatagramBatch answers           # empty between two batches of events
    uint32_t n_answers              # parts that wait to leave, as `n_leaving` messages
    uint32_t n_leaving
    int sockets[DATAGRAMS_PER_BATCH]    # of messages: through which each leaves

# ---------------------------------------------------------------------------------------------------------------- shared memory
# What all processes of a node see (shared_table.pyx says who writes what). No pointers: every process maps it elsewhere.
ctypedef enum RowUse:
    ROW_FREE = 0
    ROW_USED = 1
    ROW_LEAVING = 2                 # the controller looks whether anybody still holds it

ctypedef enum RowState:             # bits; 0 = up and ready. What keeps a backend from being picked, at run time
    ROW_DOWN = 1                    # its health checks say so
    ROW_DRAIN = 2                   # the operator: no new work, what runs is finished
    ROW_MAINTENANCE = 4             # the operator: out of use
    ROW_EJECTED = 8                 # its answers say so; the workers, for a time
    ROW_CONTROLLED = 7              # of these, what the controller says
    ROW_BARRED = 15                 # all of them: any keeps a backend from being picked

ctypedef enum WorkerUse:
    WORKER_FREE = 0
    WORKER_LIVE = 1
    WORKER_CLOSED = 2               # its engine closed in order: nothing is open
    WORKER_DYING = 3                # dead, and being settled: its columns and its operation count no more

cdef struct SharedRow:
    # One backend of the node, or the node itself: the cache line that a pick reads. What it does not read is in RowDetails.
    int64_t in_flight               # claims - releases of all workers; claim_row, release_row and settlement change it
    uint32_t state                  # RowState; changed by compare-and-exchange only, each bit by who it belongs to
    uint32_t failed_in_row          # attempts that failed since the last one that did not; workers (passive_health.pyx)
    uint64_t latency                # packed (select/latency.pxd), 0 = none measured; any worker, by compare-and-exchange
    uint64_t up_since_ms            # monotonic; when it came up, or was added to a running pool. 0 = before that mattered. Whoever says so
    uint64_t waiting[2]             # of a pool's queue: a bit per worker slot in which somebody waits (queue.pyx)
    uint64_t ejecting_ms            # of a pool's health: since when a worker ejects one of its backends; 0 = none does
    uint32_t wanted                 # of a pool's limit of connections: places that were refused (limits.pyx)
    uint8_t more_padding[4]
    # 64 bytes

cdef struct RowHealth:
    # What workers know of a backend's failures; they write it, when one fails (passive_health.pyx).
    uint64_t failures               # that count against it, in all
    uint64_t window_ms              # monotonic; when the window began in which the share of failures is looked at; 0 = none has
    uint64_t window_failures        # `failures` as of then,
    uint64_t window_requests        # and attempts that had ended
    uint64_t ejected_until_ms       # monotonic; ROW_EJECTED: when it is to come back
    uint64_t returned_ms            # when it last came back
    uint64_t ejections              # in all
    uint32_t repeats                # ejections that follow one another
    uint32_t padding
    # 64 bytes

cdef struct RowDetails:
    # The rest of a row. The controller writes it; what names the row, before anybody can find it. `health` is the workers'.
    uint64_t identity_hash
    uint32_t next                   # row number of the next in its chain; 0 = none
    uint32_t use                    # RowUse
    uint32_t identity_size, display_size
    char identity[MAX_IDENTITY_BYTES]
    char display[ROW_DISPLAY_BYTES]
    uint32_t ups, downs             # how often its health checks changed their verdict; the controller counts, from 0 for a new row
    uint64_t changed_ms             # monotonic; when they last did. 0 = never
    uint8_t padding[16]             # a block's details fill whole pages
    RowHealth health
    # 672 bytes

cdef struct Column:
    # What one worker did on one row. It alone writes here while it lives; all but the last two only grow.
    uint64_t claims, releases, failures
    uint32_t idle                   # connections in its idle cache
    uint32_t held                   # 1 while it may claim: the row must not be freed
    # 32 bytes

cdef struct Histogram:              # of times in microseconds
    uint64_t sum_us
    uint64_t buckets[HISTOGRAM_BUCKETS]
    uint64_t padding

cdef struct Meter:
    # What one worker counted of one listener, route or pool. It alone writes here, with plain stores. Only grows.
    uint64_t opened, closed         # exchanges; of a listener: client connections
    uint64_t statuses[6]            # exchanges that have ended, by status // 100; 0 = without an answer
    uint64_t bytes_in, bytes_out    # of clients: heads and bodies as they came and went
    uint64_t retries
    uint64_t connects, reused       # connections to backends that were begun, and those that served again
    uint64_t failures               # sum of MeterDetails.reasons
    uint64_t padding[2]
    # 128 bytes

cdef struct MeterDetails:
    # The rest of a meter, apart from it: who looks for what has been used at all reads the meters only, and gives no memory to the rest.
    uint64_t reasons[64]            # FAILURE_COUNT
    Histogram total                 # from the request's head to the end of the exchange
    Histogram first_byte            # from the beginning of the attempt that answered to its response head
    Histogram connect               # of connections that were made
    # 2624 bytes

cdef struct BackendMeter:           # what one worker counted of one backend, as Meter. A row has one per worker, as it has a Column
    uint64_t statuses[6]            # answers, by status // 100
    uint64_t bytes_in, bytes_out    # from the backend, to the backend
    uint64_t connects, reused
    uint64_t retries                # attempts here that another attempt followed
    uint64_t padding
    uint64_t reasons[BACKEND_REASONS]
    # 192 bytes

cdef struct MeterName:              # whose meter it is. The controller writes it; workers have the number from their image
    uint32_t use                    # 0 = nobody's
    uint32_t size
    char name[MAX_METER_NAME_BYTES]

cdef struct SharedHeader:
    uint64_t magic
    uint32_t layout_version
    uint32_t n_workers              # slots used so far: the highest + 1
    uint32_t n_rows                 # rows used so far: the highest + 1
    uint32_t n_free                 # of these, free again
    uint64_t index_changes          # counted up before a freed row is used again
    uint64_t workers_died, exchanges_lost
    uint64_t state_changes          # counted up behind each change of a row's state: what is built of eligible rows is built anew
    char build[128]                 # that made it, for people
    uint64_t sticky_key[2]          # random: what the hashes of the sticky table are keyed with
    uint32_t n_meters               # used so far: the highest number + 1
    uint32_t header_padding
    uint64_t layout_sizes           # measure_layout of the build that made it
    uint64_t identity               # random: which memory this is

cdef struct SharedTable:
    # One process's mapping of it.
    char* base                      # owned mapping; NULL = none
    SharedHeader* header            # = base
    uint32_t n_rows                 # rows that the file has room for, as far as this process has looked
    uint32_t free_cursor            # where the controller looks for the next free row
    int fd                          # owned
    uint32_t fault_point, fault_after       # FaultPoint at which to end this process, and the how-manieth time (FASTLB_FAULT_HOOK)


# ---------------------------------------------------------------------------------------------------------------- running rows
cdef struct IdleCache:              # reusable connections to one backend, the most recent first
    Connection* newest
    Connection* oldest
    uint32_t count

cdef struct Backend:
    # The running row of one backend in this worker, found by identity, outliving snapshots. Counts live in shared memory.
    SharedRow* shared               # borrowed: the mapping outlives the engine
    Column* column                  # borrowed: ours of that row
    BackendMeter* meter             # borrowed: ours of that row
    uint32_t number                 # of that row
    IdleCache idle
    int64_t references              # snapshots that list it + attempts + connections
    uint32_t max_idle               # of the current snapshot; 0 once it is listed no more
    uint32_t idle_timeout_ms
    Backend* next                   # identity table's chain
    uint64_t identity_hash
    char* identity                  # owned
    uint32_t identity_size
    uint32_t address_size           # 0 = not resolved
    char address[112]               # a packed sockaddr
    char display[ADDRESS_TEXT_BYTES + 72]
    uint32_t display_size
    uint32_t max_in_flight          # of the last snapshot that listed it
    Backend* queue                  # counted: the row of its pool's queue; NULL = that has none
    Queue* waiting                  # owned: this row is a pool's queue; NULL = it is a backend
    Pool* pool                      # borrowed: of the current snapshot; NULL = that does not list it
    uint64_t tls_settings           # TlsBackend.settings of the current snapshot; 0 = plain
    void* tls_session               # owned: SSL_SESSION that the next connection may resume; NULL = none
    uint64_t tls_session_settings   # those that it was made under: another verification must not be skipped
    Http2Session* sessions          # owned through their connections: all that speak HTTP/2 with it, the newest first
    uint32_t protocol               # BackendProtocol of the current snapshot
    uint64_t http1_until_ms         # PROTOCOL_AUTO: it has chosen HTTP/1.1, and is not asked for another one before
    uint32_t allowed_streams        # how many streams of a connection it allowed last, at least 1; 0 = it has not said yet

cdef struct WaitList:               # first in, first out; linked through Exchange.next and previous
    Exchange* first
    Exchange* last

cdef struct Queue:
    # Who waits for a backend of one pool in this worker, whatever snapshot they came with. Its row is found by the pool's name, as backends'
    # rows are; in shared memory that row's in_flight is how many wait in all workers.
    Backend* row                    # borrowed: owns us
    Queue* next                     # Engine.queues, while somebody waits
    Queue* previous
    uint32_t count
    WaitList lists[QUEUE_PRIORITIES]

cdef struct BackendTable:
    SharedTable* shared             # borrowed
    uint32_t slot                   # ours in shared memory
    Backend** chains                # owned
    uint32_t n_chains
    uint64_t count

cdef struct ListenerSettings:
    uint32_t head_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms
    HeadLimits head
    uint64_t max_body_bytes         # 0 = no limit
    uint32_t http2_streams          # of a connection at a time; 0 = HTTP/2 is not spoken
    uint32_t http2_window_bytes, http2_connection_window_bytes      # of request bodies
    uint32_t session_timeout_ms     # of a TCP or UDP session as a whole; 0 = none
    uint32_t proxy_timeout_ms       # of a PROXY header; 0 = connections begin without one
    uint32_t proxy_flags            # ProxyFlags
    # of a UDP listener; max_sessions is 0 for any other
    uint32_t max_sessions           # in each worker, at each of its sockets
    uint32_t silence_ms             # a session ends when neither side has sent anything for so long
    uint32_t responses              # that are expected to each datagram; ANY_RESPONSES
    uint32_t server_id_offset, server_id_bytes      # in connection ids of QUIC; 0 bytes: they are not looked at

cdef struct Listener:
    # One listening socket. Lives until its last connection is gone.
    Connection* connection          # owned while accepting; NULL once removed
    ListenerSettings settings       # copied from the current snapshot at each commit
    int64_t references
    bint removed                    # its clients are told Connection: close
    bint wanted                     # scratch of settle_sockets
    uint32_t host_set               # of the current snapshot's route table
    uint32_t meter                  # number of its meter
    LogPlan* log_plan               # counted; NULL where nothing is logged
    const ImageLogSet* log_set      # borrowed from log_plan
    char name[MAX_LISTENER_NAME_BYTES]      # copied from the current snapshot at each commit
    uint32_t name_size
    Listener* next
    int fd                          # borrowed from the caller of commit or assign
    TlsListener* tls                # counted; NULL = its clients speak without TLS
    const Codec* codec              # borrowed, static: of its clients, once any TLS is agreed upon
    uint32_t session_route          # index in the current snapshot: where its sessions go; NO_INDEX = see `chooses_by_name`
    bint chooses_by_name            # what clients of TLS ask for chooses routes (passthrough.pyx): from the next two, of the current snapshot
    ImageSection sni_names
    uint32_t sni_others
    const Codec* opening            # borrowed, static: what its clients begin with: a PROXY header, TLS, or `codec`
    const ImageNetwork* senders     # borrowed from the current snapshot: who sends PROXY headers
    uint32_t n_senders
    DatagramTable* datagrams        # owned: its socket is a UDP socket; NULL = it listens for connections
    ImageSection server_ids         # of the current snapshot

cdef struct Socket:                 # a listening descriptor and which listener of the snapshot it belongs to
    int fd
    uint32_t listener


# ---------------------------------------------------------------------------------------------------------------- snapshot
# The image: offsets from its start, no pointers, so that any process maps it anywhere. Written by SnapshotWriter only.
cdef struct ImageSegment:           # of a template (template.pyx): an ImageSection of them
    uint32_t kind                   # SegmentKind
    uint32_t encoding               # SegmentEncoding
    uint32_t argument
    ImageText text                  # literal, or a name: of a field in lower case, else as it is

cdef struct ImageHeaderOperation:
    uint32_t kind                   # HeaderOperationKind
    uint32_t header_id              # HeaderId; HEADER_OTHER is found by its name
    ImageText name                  # as sent
    ImageSection value              # template

cdef struct ImageHeaderEdits:       # of one direction of a route (header_edits.pyx)
    uint64_t replaced_ids           # bit per HeaderId that is not copied (never bit 0)
    uint64_t replaced_sizes         # bit per size of a name without an id that is not copied; bit 63: 63 bytes and more
    ImageSection operations

cdef struct ImageNetwork:           # IPv4 as ::ffff:a.b.c.d
    uint8_t address[16]
    uint32_t prefix_bits

cdef struct ImageListener:
    ImageText name
    uint32_t log_set                # index in the log plan, NO_INDEX = nothing is logged
    uint32_t host_set               # index in the route table
    uint32_t meter                  # number of its meter; 0 = it has none. Below MAX_METERS, here and below
    ListenerSettings settings
    uint32_t tls                    # index of its ImageTls, NO_INDEX = plain
    uint32_t session_route          # index of the route of its TCP sessions, NO_INDEX = none
    ImageSection sni_names          # what its clients of TLS ask for chooses routes: names lead to a first choice each,
    uint32_t sni_others             # and what has no name there, or none, to this one; NO_INDEX = refused
    uint32_t chooses_by_name        # so it is; else this and the two above are 0
    ImageSection senders            # who sends PROXY headers; counts records
    ImageSection server_ids         # what backends call themselves in connection ids of QUIC: names lead to backends of its sessions' pool

cdef struct ImageSniChoice:
    ImageText alpn                  # who offers one of these, as on the wire; size 0: everybody
    uint32_t route
    uint32_t is_last                # of its run; else the next one is tried

# TLS (tls_image.pyx checks it). Texts of settings that OpenSSL reads are ended by a zero byte, which counts.
cdef struct ImageCertificate:
    ImageText chain                 # PEM, the leaf first
    ImageText key                   # PEM, PKCS #8
    ImageText ocsp                  # DER; size 0 = none

cdef struct ImageTlsIdentity:       # what is served for the same names: certificates of different types of key
    uint32_t certificates[MAX_KEY_TYPES]
    uint32_t n_certificates

cdef struct ImageName:              # of a server (name_table.pyx)
    ImageText name                  # lower case; a wildcard with its "*."
    uint32_t target                 # index among the listener's identities; of a challenge: of a certificate
    uint32_t padding

cdef struct ImageTls:               # how a listener speaks TLS
    ImageSection identities         # sections count records of the image's
    ImageSection names              # ascending (name_table.pyx: compare_names), each once
    ImageSection challenges         # of the image's names too, ascending
    uint32_t default_identity       # for a name that is not known, and for none; NO_INDEX: refused
    uint32_t min_version, max_version
    uint32_t handshake_timeout_ms
    ImageText ciphers, ciphersuites, groups     # size 0: ours
    ImageText alpn                  # as on the wire, what we prefer first; size 0 = none
    uint32_t session_timeout_s
    uint32_t tickets
    uint32_t client_auth            # ClientAuth
    uint32_t client_depth
    ImageText client_ca, client_crl  # PEM
    uint32_t early_data_bytes       # of requests before a resumed handshake is over; 0 = none are taken
    uint32_t padding

cdef struct ImageBackendTls:        # how the backends of a pool are spoken to
    uint32_t verify
    uint32_t certificate            # that we show, NO_INDEX = none
    uint32_t min_version, max_version
    ImageText server_name           # of all of them; size 0: of each its own
    ImageText authorities           # PEM: who may have signed
    ImageText ciphers, ciphersuites, groups     # size 0: ours
    ImageText alpn
    uint32_t resume                 # sessions
    uint32_t padding

cdef struct ImageTicketKey:         # the newest first: that one encrypts
    uint8_t data[TICKET_KEY_BYTES]

# The route table (route_table.pyx): which route a request takes. Offsets count from its own start; the sections inside a record, and every
# index, count records.
cdef struct ImageRouteTable:
    uint32_t size                   # in bytes, with all that follows
    ImageSection host_sets          # at least one; the first is for listeners that are removed as well
    ImageSection host_slots
    ImageSection hosts
    ImageSection path_lengths
    ImageSection location_slots
    ImageSection locations
    ImageSection rules
    ImageSection conditions
    ImageSection values
    ImageSection networks
    ImageSection regexes

cdef struct ImageHostSet:           # the hosts that a listener knows
    ImageSection slots              # of the hosts with a name: open addressing, a power of two with an empty one; none: no names
    uint32_t any_host               # where no name matches, NO_INDEX
    uint32_t has_wildcards

cdef struct ImageHostSlot:
    uint32_t hash
    uint32_t host                   # index + 1; 0 = empty

cdef struct ImageHost:
    ImageText name                  # lower case; a wildcard without its "*"
    uint32_t wildcard
    ImageSection path_lengths       # of its locations, ascending, each once
    ImageSection slots              # of its locations: as those of a host set

cdef struct ImagePathLength:
    uint16_t size
    uint16_t kinds                  # PathKind bits: which kinds of location have a path of this size

cdef struct ImageLocationSlot:      # with what a comparison needs, so that it does not wait for the location's own memory
    uint32_t hash
    uint16_t size
    uint16_t kind                   # PathKind
    uint32_t path                   # offset
    uint32_t location               # index + 1; 0 = empty

cdef struct ImageLocation:          # an exact path or a prefix of a host
    uint32_t route                  # taken when no rule is, NO_INDEX = none
    uint32_t shorter                # then: the longest other location that matches whatever this one does; below this index, or NO_INDEX
    ImageSection rules              # tried first, in this order

cdef struct ImageRule:              # all of it has to hold
    uint32_t route
    uint32_t regex                  # what the path has to match, NO_INDEX = anything
    ImageSection conditions

cdef struct ImageCondition:         # holds when one of the values matches
    uint32_t kind                   # ConditionKind
    uint32_t negated                # holds when none matches
    uint32_t methods                # CONDITION_METHOD: bit per Method; METHOD_OTHER: those of the values
    ImageText name                  # of the header field (lower case), the parameter or the cookie
    ImageSection values             # CONDITION_CLIENT: of networks. None: it is enough to be there

cdef struct ImageValue:
    uint32_t kind                   # ValueKind
    uint32_t regex                  # VALUE_REGEX
    ImageText text

cdef struct ImageRegex:
    ImageText pattern
    uint32_t flags                  # RegexFlags

cdef struct ImageRoute:             # what happens to a request: its program (request_program.pyx)
    uint32_t features               # RouteFeature; none: it is forwarded to `pool` as it is
    uint32_t pool
    ImageHeaderEdits request
    ImageText name                  # for messages and logs
    ImageHeaderEdits response       # ROUTE_EDITS_RESPONSE
    ImageSection host               # ROUTE_SETS_HOST: template
    ImageSection target             # ROUTE_REWRITES: what the backend gets; ROUTE_REDIRECTS: where the client goes; template
    ImageText prefix                # ROUTE_REPLACES_PREFIX: what comes in place of so many bytes of the path
    uint32_t prefix_size
    uint32_t status                 # ROUTE_REDIRECTS, ROUTE_RESPONDS
    ImageText phrase                # its reason phrase
    ImageText content_type          # ROUTE_RESPONDS
    ImageSection body               # template
    ImageSection shares             # ROUTE_SPLITS
    ImageSection split_by           # template of its key; empty: at random
    uint64_t max_body_bytes         # ROUTE_HAS_LIMITS: 0 = none
    uint64_t exchange_timeout_ms    # ROUTE_HAS_TIMEOUTS: 0 = as the pool says, as are the next four
    uint32_t connect_timeout_ms, first_byte_timeout_ms, between_bytes_timeout_ms, tunnel_timeout_ms
    uint32_t mirror_pool            # ROUTE_MIRROR
    uint32_t mirror_share           # 0 to MIRROR_ALL: how many requests of that many
    uint32_t priority               # in the queue of the pool, below QUEUE_PRIORITIES
    uint32_t meter

cdef struct ImageShare:             # of a route's requests
    uint32_t bound                  # a draw up to here, and above the bound of the one before, goes to
    uint32_t pool

cdef struct ImageHealth:            # passive health of a pool's backends (passive_health.pyx)
    ImageText row                   # identity of the pool's row for it; size 0 = it has none
    uint32_t counts                 # RetryOn: which ends of an attempt are failures
    uint32_t failures_in_row        # that eject a backend; 0 = however many
    uint32_t error_permille         # share of failures in a window that does; 0 = whatever it is
    uint32_t min_requests           # of that window
    uint32_t window_ms
    uint32_t ejection_ms            # the first; each that follows takes as much longer
    uint32_t max_ejection_ms
    uint32_t max_ejected_permille   # of the pool

cdef struct ImageLimit:
    ImageText row                   # identity of its row
    uint32_t most                   # 0 = no limit

cdef struct ImageSocket:            # what the sockets of a pool have that others do not
    uint32_t is_set                 # any of it
    uint32_t keepalive_idle_s       # 0 = no keep-alive probes
    uint32_t keepalive_interval_s, keepalive_count
    uint32_t source_size            # 0 = the system chooses the address
    char source[28]                 # a packed sockaddr_in or sockaddr_in6
    uint32_t is_transparent         # they come from the client's address, and source_size is 0

cdef struct ImagePool:
    ImageText name
    ImageSection hash_key           # template, for a pool that needs a key; empty: the client's address
    uint32_t algorithm
    uint32_t attempts
    uint32_t retry_on               # RetryOn (failure.pxd)
    uint32_t retry_within_ms        # a later attempt begins within this time of the exchange
    uint32_t retry_share_ppm        # the budget's: retries per million exchanges,
    uint32_t retry_floor            # and per second beyond that
    uint32_t replay_limit_bytes
    uint32_t max_idle, idle_timeout_ms
    uint32_t connect_timeout_ms, first_byte_timeout_ms, between_bytes_timeout_ms, tunnel_timeout_ms
    uint64_t exchange_timeout_ms
    uint32_t hedge_after_ms         # 0 = no hedges
    uint32_t balance_permille       # consistent_hash: most load of a backend, in thousandths of the mean; 0 = no bound
    uint32_t slow_start_ms          # 0 = off
    ImageSection backends           # those of its first group, then those of the next
    ImageSection groups
    ImageText queue                 # identity of the queue's row; size 0 = no queue
    uint32_t queue_max, queue_timeout_ms
    uint32_t sticky                 # index in the stickies, NO_INDEX = none
    uint32_t meter
    ImageText picker                # ALGORITHM_USER: "module:name"
    ImageHealth health
    ImageLimit limits[LIMIT_KINDS]
    uint32_t panics                 # where hardly a backend is up, down ones are picked too
    uint32_t panic_permille         # when fewer than this are; or none is
    uint32_t tls                    # index of its ImageBackendTls, NO_INDEX = plain
    uint32_t protocol               # BackendProtocol
    uint32_t http2_streams          # of a connection at a time
    uint32_t http2_window_bytes     # of each of them, of answers
    uint32_t proxy_header           # ProxyHeaderFlags; then max_idle is 0
    uint32_t proxy_padding
    ImageSocket socket              # of connections to its backends


cdef struct ImageRingPoint:         # of a ketama ring
    uint32_t hash
    uint32_t backend                # in its group

cdef struct ImageAlias:             # of an alias table: a slot is its own backend with this probability (of 2^32), else `other`
    uint32_t threshold
    uint32_t other

cdef struct ImageGroup:             # backends that are tried before those of the next group
    uint32_t n_backends
    uint32_t index_bits             # ring: the index has a word for each value of the top bits
    # Ring: ImageRingPoint. maglev: uint16 per slot. Random choices: ImageAlias. weighted_round_robin: uint32, backends by weight.
    ImageSection table
    ImageSection index              # ring: uint32, the first point at or behind each value of the top bits

cdef struct ImageSticky:            # how the clients of one pool come back to their backends
    uint32_t kind                   # StickyKind
    uint32_t flags                  # StickyFlags
    ImageText cookie                # its name
    ImageText attributes            # STICKY_COOKIE: what stands behind its value in Set-Cookie, but for Secure
    uint32_t lifetime_s             # STICKY_COOKIE: 0 = until the browser ends
    uint32_t ticks                  # the others: how long a record lasts after it was last wanted (sticky_table.pxd)
    ImageSection slots              # STICKY_COOKIE: by ImageBackend.cookie: power-of-two open-addressing table of index in the pool + 1
    uint64_t pool_hash              # the others: of the pool's name, as a part of the hash of what is looked up
    uint32_t first, mask            # the others: its part of the node's table
    uint32_t v4_bits, v6_bits       # STICKY_SOURCE: how much of an address counts

cdef struct ImageBackend:
    ImageText identity, display
    char cookie[STICKY_VALUE_BYTES + 2]     # what a sticky cookie calls it; zeroes where there is none
    uint32_t address_size
    uint32_t weight
    uint32_t max_in_flight          # 0 = no cap
    char address[112]
    ImageText tls_name              # what its certificate is for, where its pool says nothing else; ended by a zero byte, size 0 = its address

cdef struct ImageHeader:
    uint64_t magic
    uint32_t layout_version
    uint32_t size                   # of the whole image
    uint64_t generation
    ImageText reason_header         # size 0 = off
    ImageSection operations         # of header edits
    ImageSection networks
    ImageSection listeners
    ImageSection route_table        # an ImageRouteTable and what belongs to it: `count` bytes
    ImageSection routes
    ImageSection pools
    ImageSection backends
    ImageSection groups
    ImageSection log_plan           # an ImageLogPlan and what belongs to it: `count` bytes, 0 = none
    ImageSection segments           # of templates
    ImageSection stickies
    ImageSection shares
    ImageSection certificates
    ImageSection tls_identities
    ImageSection names
    ImageSection tls
    ImageSection ticket_keys
    ImageSection backend_tls
    ImageSection sni_choices
    ImageSection senders            # networks
    uint32_t max_connections        # client connections of the node; 0 = no cap
    uint32_t padding
    ImageText python_path           # where pickers of the user's own are looked for: directories, each ended by a zero byte

cdef struct PoolBackend:            # dense: what a pick looks at
    SharedRow* shared               # borrowed: of `row`
    Backend* row                    # counted
    uint32_t weight
    uint32_t max_in_flight
    bint eligible                   # as far as the image can say: it has an address and a weight
    uint32_t barred_by              # RowState: which states keep it from being picked (panic.pyx)

cdef struct WeightClass:            # weighted_round_robin: backends of one weight, which take turns
    int64_t credit                  # of the backend whose turn it is; the highest is next
    int64_t weight
    uint32_t first, n               # in Group.members
    uint32_t next                   # in Group.members: whose turn it is
    uint32_t taken                  # turns since all of them were charged equally often

cdef struct Group:
    # Backends of a pool that are tried before those of the next group. Indices are those of the pool.
    PoolBackend* backends           # borrowed: the pool's, from `first` on
    uint32_t first, n_backends
    uint32_t cursor                 # in the group: round robin position; tie rotation
    uint32_t max_weight
    uint32_t total_weight           # of all, eligible or not
    uint32_t same_weight            # what all of them have; 0 = they differ
    # tables of the image, borrowed from it: checked, so what they hold is in the group
    const ImageRingPoint* ring
    const uint16_t* slots
    const ImageAlias* aliases
    const uint32_t* by_weight
    const uint32_t* ring_index
    uint32_t n_ring, ring_shift, n_slots
    uint32_t* weights_below         # owned by the snapshot: sum of the weights before each backend
    # bounded load
    int64_t in_flight               # of all, as of `summed_ms` and with what was picked since
    int64_t eligible_weight         # of those that are eligible, as of then
    uint64_t summed_ms
    # least_time
    double* costs                   # owned by the snapshot: latency / weight of each backend, below 0 where nobody knows it
    uint64_t costs_ms               # when they were read
    # weighted_round_robin
    uint32_t* members               # owned by the snapshot: eligible backends by class
    WeightClass* classes            # owned by the snapshot
    uint32_t n_classes
    int64_t class_weight            # of all members together
    uint64_t classes_of             # SharedHeader.state_changes that they were made of
    uint64_t classes_until_ms       # when a slow start makes them old; 0 = never

cdef struct RetryBudget:            # what a pool may ask of its backends beyond its exchanges (retry_budget.pxd)
    uint64_t tokens                 # in millionths of a retry
    uint64_t counted                # Pool.n_exchanges as of `filled_ms`
    uint64_t filled_ms

cdef extern from "fastlb/picker.h":
    enum:
        FASTLB_PICKER_VERSION
    ctypedef struct PickContext "fastlb_pick_context":
        uint32_t version, n_backends, n_eligible, attempt
        uint64_t key, random, now_ms
        const uint8_t* eligible
        const uint32_t* weights
        const int64_t* in_flight

ctypedef int32_t (*PickFunction)(const PickContext* context) noexcept nogil

cdef struct UserPicker:
    # What a pool with ALGORITHM_USER picks with.
    PickFunction pick               # borrowed: what was loaded stays as long as the process
    PickContext context
    uint32_t* weights               # owned: of all backends of the pool
    uint8_t* eligible               # owned, as in_flight: of the group that is picked from
    int64_t* in_flight
    uint64_t* rejected              # borrowed: Counters.picks_rejected

cdef struct Pool:
    const ImagePool* image          # borrowed from the snapshot
    PoolBackend* backends           # borrowed from the snapshot's block
    Group* groups                   # borrowed from the snapshot's block
    uint32_t n_backends
    uint32_t n_groups               # at least 1
    uint32_t flags                  # PoolFlags
    uint8_t algorithm
    uint64_t random                 # splitmix64
    const uint64_t* now_ms          # borrowed: the engine's clock
    const uint64_t* state_changes   # borrowed: the node's, in shared memory
    uint32_t balance_permille
    uint32_t slow_start_ms
    Queue* queue                    # counted through its row; NULL = none
    bint in_panic
    Backend* health                 # counted: its row for passive health; NULL = off
    Backend* limits[LIMIT_KINDS]    # counted: rows of its limits; NULL = no limit
    uint64_t n_exchanges            # that entered it in this worker, since its first snapshot
    RetryBudget budget
    UserPicker* user_picker         # owned by the snapshot; NULL but for ALGORITHM_USER
    TlsBackend* tls                 # owned by the snapshot; NULL = its backends speak plain HTTP
    uint32_t* sticky_rows           # owned: open-addressing table from row numbers to index in the pool + 1; NULL = it needs none
    uint32_t sticky_row_mask

cdef struct Snapshot:
    const char* image               # owned mapping
    const ImageHeader* header       # = image
    size_t image_size
    int64_t references              # the engine's own + exchanges
    LogPlan* log_plan               # counted; NULL = none
    Pool* pools                     # owned
    PoolBackend* backends           # owned
    Group* groups                   # owned, with what it owns
    uint32_t n_pools
    uint32_t n_groups
    Regex** regexes                 # owned, and each of them: those of the route table
    uint32_t n_regexes
    TlsListener** tls               # owned, and each of them counted: by index in the image's `tls`
    uint32_t n_tls
    TlsBackend** backend_tls        # owned, and each of them: by index in the image's `backend_tls`
    uint32_t n_backend_tls


# ---------------------------------------------------------------------------------------------------------------- regex
# The void pointers are PCRE2's structs: only regex.pyx knows its header.
cdef struct Regex:                  # never changes: engines may share it
    void* code                      # owned: pcre2_code
    bint is_machine_code            # else it is interpreted
    uint32_t step_ns, step_kib_ns   # most that a counted step may cost: on an empty subject, and for each KiB of another
    uint32_t budget_ns              # of all steps from one start
    uint32_t n_groups               # with group 0
    const uint8_t* names            # borrowed from code: its table of named groups
    uint32_t n_names, name_bytes    # entries, and bytes of each

cdef struct RegexScratch:           # what an engine matches with
    void* match_data                # owned: pcre2_match_data
    void* match_context             # owned: pcre2_match_context
    void* jit_stack                 # owned: pcre2_jit_stack
    char* frames[2]                 # owned: lent to the interpreter
    uint64_t starts                 # of this match
    uint64_t clock_ns, spent_ns     # of this match, from its second start on
    bint lent[2]
    bint opened


# ---------------------------------------------------------------------------------------------------------------- PROXY protocol
cdef struct ProxyFacts:
    # What a connection keeps of the PROXY header that it began with (proxy_codec.pyx). Never changes but for the count.
    uint32_t references             # connections: the client's, and those of its mirrors
    uint16_t destination_port
    uint8_t destination[16]         # IPv4 as ::ffff:a.b.c.d
    bint has_destination
    uint16_t start[PROXY_FACTS]     # in `text`, by ProxyFact
    uint16_t size[PROXY_FACTS]
    char text[MAX_PROXY_HEADER_BYTES + 256]     # only what is used of it is allocated


# ---------------------------------------------------------------------------------------------------------------- TLS
# The void pointers are OpenSSL's structs: only tls.pyx knows its headers.
cdef struct TlsIdentity:            # certificates of one or more types of key for the same names
    void* context                   # owned: SSL_CTX
    void* leaves[MAX_KEY_TYPES]     # borrowed from context: X509
    char* ocsp[MAX_KEY_TYPES]       # owned; NULL = none
    uint32_t ocsp_size[MAX_KEY_TYPES]
    uint32_t n_leaves

cdef struct TlsListener:
    # How a listener speaks TLS in one snapshot, compiled. Never changes but for the count. Held by the snapshot, by listeners and by
    # connections while they shake hands.
    int64_t references
    void* context                   # owned: SSL_CTX that connections begin with
    TlsIdentity* identities         # owned
    uint32_t n_identities
    uint32_t default_identity       # NO_INDEX = none
    TlsIdentity* challenges         # owned: one for each of challenge_names
    ImageName* names                # owned, ascending; in `texts`
    uint32_t n_names
    ImageName* challenge_names      # owned, ascending; in `texts`
    uint32_t n_challenges
    char* texts                     # owned: of names and ALPN
    uint32_t alpn, alpn_size        # in texts
    uint32_t handshake_timeout_ms
    uint32_t client_auth            # ClientAuth
    uint32_t n_ticket_keys
    uint8_t ticket_keys[MAX_TICKET_KEYS * TICKET_KEY_BYTES]
    bint takes_early                # requests before a handshake is over

cdef struct TlsBackend:             # how the backends of a pool are spoken to, compiled
    void* context                   # owned: SSL_CTX
    uint64_t settings               # a hash of all that decides who is believed; never 0
    bint verify
    bint resume

cdef struct TlsFacts:
    # Made for the first who asks.
    uint32_t start[TLS_FACTS]       # in `text`, by TlsFact
    uint32_t size[TLS_FACTS]
    char text[4096]

cdef struct TlsConnection:
    # What a connection keeps beside its socket while it speaks TLS.
    void* ssl                       # owned: SSL
    Connection* connection          # borrowed: its owner
    Engine* engine                  # borrowed
    Buffer* received                # owned: read from the socket and not taken by OpenSSL yet
    Buffer* held                    # owned: records that the socket has not taken yet, or (holds_back) was not given
    TlsListener* listener           # client: counted, until hands are shaken; then NULL
    uint64_t settings               # backend: TlsBackend.settings
    TlsFacts* facts                 # owned; NULL until somebody asks
    bint may_receive                # the call that runs may read from the socket (once more)
    bint ended                      # the other side has sent its FIN
    bint broken                     # the socket failed, or memory is out
    bint connected                  # backend: TCP is
    bint stands                     # hands are shaken
    bint byte_taken                 # the next byte to be sent is encrypted already (tls_send)
    bint offers_acme                # the client has offered acme-tls/1
    bint is_challenge               # it gets the certificate of a challenge, and nothing else
    bint holds_back                 # client: `held` is a session, which goes with what is sent next; the socket has room
    bint said_goodbye               # close_notify is sent, or is among the records that are
    uint32_t failure                # FAILURE_* that a callback found; 0 = none
    uint32_t silent_bytes           # received since data came last, or since hands are shaken
    bint takes_early                # what comes now may be early data
    bint early_waits                # it is not given to HTTP before hands are shaken
    bint passes_early               # HTTP gets it as it comes
    Buffer* early                   # owned: early data that HTTP has not got
    uint64_t early_until_ms         # HTTP has begun: when hands must be shaken

cdef struct TlsScratch:
    # Shared by all TLS connections of an engine; empty between two calls of the transport.
    char* received                  # owned: what one recv brought
    uint32_t start, end             # not taken by OpenSSL yet
    char* sending                   # owned: records on their way to one send
    uint32_t n_sending
    char* record                    # owned: where parts are put together to fill a record
    uint64_t batch                  # of handshakes: which one (Counters.batches), and how many steps were made in it
    uint32_t n_steps


# ---------------------------------------------------------------------------------------------------------------- engine
cdef enum:
    FAILURE_COUNT = 64              # room in Counters; failure.pxd checks that it is enough

cdef struct Counters:
    uint64_t clients_opened, clients_closed
    uint64_t backend_connections_opened, backend_connections_closed
    uint64_t exchanges_opened, exchanges_closed
    uint64_t attempts_opened, attempts_closed
    uint64_t claims_taken, claims_returned
    uint64_t snapshots_opened, snapshots_closed
    uint64_t responses_1xx, responses_2xx, responses_3xx, responses_4xx, responses_5xx
    uint64_t backend_reused, retries, replays
    uint64_t retries_refused        # hedges too; the pool's budget was used up, or its limit reached
    uint64_t hedges_started, hedges_won     # won: the first byte came from it, or the other attempt failed before
    uint64_t client_bytes_in, client_bytes_out, backend_bytes_in, backend_bytes_out
    uint64_t spliced_bytes
    uint64_t tunnels_opened, tunnels_closed
    uint64_t waits_opened, waits_closed     # in queues of full pools
    uint64_t sticky_kept, sticky_moved      # clients that went where they belong; that could not
    uint64_t sticky_noted, sticky_forgotten     # records made in the node's table; others that were in the way
    uint64_t accept_pauses, accept_refused
    uint64_t pumps, batches, events, ready_turns
    uint64_t timers_fired, timers_refiled
    uint64_t ejections, returns     # of backends, by passive health
    uint64_t ejections_refused      # too many of their pools were ejected already, or no other one was up
    uint64_t panics, panic_picks    # how often a pool began to pick backends that are not up; attempts meanwhile
    uint64_t picks_rejected         # answers of pickers of the user's own that named nothing that can be picked
    uint64_t mirrors_opened, mirrors_closed
    # not made: too many or too large, or the body was not kept; and made, but without a whole answer
    uint64_t mirrors_skipped, mirrors_failed
    uint64_t log_records_taken, log_records_returned
    # lines: handed to the kernel; not taken because the ring was full; taken and refused by the kernel (full disk, no reader)
    uint64_t log_lines_written, log_lines_dropped, log_lines_lost, log_bytes_written
    uint64_t tls_opened, tls_closed         # connections that speak TLS, on both sides
    uint64_t tls_handshakes, tls_resumed    # with clients, that succeeded; of them with a session of before
    uint64_t reasons[FAILURE_COUNT]
    uint64_t http2_sessions_opened, http2_sessions_closed
    uint64_t http2_streams_opened, http2_streams_closed
    uint64_t http2_resets_received, http2_resets_sent, http2_streams_refused
    uint64_t http2_ends[HTTP2_ENDS]
    uint64_t backend_sessions_opened, backend_sessions_closed       # HTTP/2 with backends: connections, and attempts on them
    uint64_t backend_streams_opened, backend_streams_closed
    uint64_t backend_resets_received, backend_resets_sent
    uint64_t backend_goaways        # that backends sent
    uint64_t backend_http2_ends[HTTP2_ENDS]
    uint64_t udp_sessions_opened, udp_sessions_closed
    uint64_t udp_sessions_shed, udp_sessions_moved      # ended because the table was full; that went on at another backend
    uint64_t datagrams_in, datagrams_out, datagrams_dropped     # of clients; to clients; of either side, passed on to nobody
    uint64_t tls_early_accepted, tls_early_refused      # handshakes of clients that had sent early data
    uint64_t tls_renegotiations     # that the other side asked for, and was refused

cdef struct WorkerGauges:           # written when a pump ends
    uint64_t buffers_taken, buffers_returned
    uint64_t pipes_taken, pipes_returned
    uint64_t clients, descriptors, timers, backend_rows

cdef struct WorkerBlock:
    # A worker's own page in shared memory. The worker writes it, and settlement when it is dead.
    uint32_t operation              # row number + 1 while a claim or release changes that row, else 0
    uint32_t use                    # WorkerUse
    int32_t pid
    uint32_t padding
    uint64_t heartbeat_ms           # monotonic; when its engine last ended a batch
    uint64_t generation             # of its snapshot; 0 = none yet
    WorkerGauges gauges
    Counters counters               # cumulative over all workers that this slot had
    Histogram pumps                 # how long pumps took, and with them whoever waited for the outer loop
    Histogram lags                  # how long the outer loop took to come back when there was more to do
    uint64_t guest                  # identity of the memory whose counts are carried over to here; 0 = a worker's own

cdef struct Engine:
    uint64_t now_ms                 # monotonic; read once per batch
    uint64_t clock_us               # monotonic; read when somebody asks, once every few events at most; 0 = not yet
    Meter* meters                   # borrowed, as `shared`: ours, by number
    MeterDetails* meter_details     # borrowed, as `shared`: ours, by number
    Counters* counters              # = &worker.counters
    WorkerBlock* worker             # borrowed, as `shared`
    SharedRow* node                 # borrowed, as `shared`: its in_flight is the node's client connections
    Column* node_column             # borrowed, as `shared`
    SharedTable* shared             # borrowed: outlives the engine
    char* read_buffer               # owned
    char* write_buffer              # owned
    Snapshot* snapshot              # counted: the current one
    Snapshot* prepared              # counted: the one that the next commit swaps in; NULL = none
    Connection* ready_head          # ready list: a queue
    Connection* ready_tail
    Exchange* free_exchanges        # owned
    Exchange* exchange_graveyard    # ended in this batch
    Exchange* last_ended_exchange   # of the graveyard, the first that ended; only while there is one
    uint32_t n_ended_exchanges
    Attempt* free_attempts          # owned
    uint32_t n_free_exchanges, n_free_attempts
    BufferPool buffers
    TimerWheel timers
    PipePool pipes
    ConnectionTable connections
    BackendTable backends
    Connection* clients             # every open client connection
    Listener* listeners             # owned
    const Codec* client_codec       # borrowed, static: HTTP/1.1 (a later issue: chosen by ALPN)
    const Codec* backend_codec
    const Codec* tls_codec          # of clients while they shake hands
    const Codec* tls_backend_codec
    const Transport* plain          # borrowed, static
    const Codec* mirror_codec
    const Transport* mirror_transport
    uint32_t n_mirrors
    uint64_t mirror_bytes           # drained_bytes of them all
    Head request                    # scratch of the request being parsed
    Head response                   # scratch of the response being parsed
    char* path                      # owned scratch: the normalised path
    Match match                     # scratch of the request being routed
    uint64_t random[4]              # xoshiro256**; request ids
    uint64_t date_s                 # wall-clock second of `date`
    char date[DATE_BYTES + 3]
    int epoll_fd                    # owned
    int event_fd                    # owned, unless event_fd_lent
    int last_errno
    uint32_t max_clients
    uint32_t n_clients
    bint event_fd_lent
    bint accept_paused
    bint draining
    bint ready_turn                 # whose turn it is when the budget is one event
    uint64_t accept_resume_ms
    uint32_t drain_idle_grace_ms
    uint64_t wall_offset_ms         # wall clock - monotonic, for Date
    AccessLog* log                  # owned; NULL until a snapshot logs something
    RegexScratch* regex_scratch     # owned; NULL until a snapshot has a regular expression
    uint64_t buffers_before, pipes_before   # taken by earlier workers of this slot
    uint32_t queue_work             # QueueWork: what the end of the batch has to do for queues
    Queue* queues                   # borrowed: those in which somebody waits
    Timer queue_timer               # the next look that nobody had to ask for
    Timer return_timer              # when the next ejected backend comes back
    uint64_t states_seen            # SharedHeader.state_changes at the last look (states.pyx); NEVER_LOOKED
    bint watches_states             # a pool of the current snapshot has to know of them
    uint64_t pump_due_us            # when the last pump asked to be called again at once; 0 = it did not
    uint64_t gave_way_ms            # since when every look has left a free backend to a sibling; 0 = the last one did not
    uint64_t wakes[2]               # a bit per sibling that is told of a free place when the batch ends
    int siblings[MAX_WORKERS]       # owned eventfds, by slot; -1 = not known
    TlsScratch tls                  # NULLs until a snapshot speaks TLS
    epoll_event events[EVENTS_PER_BATCH]
    const Codec* http2_client_codec     # borrowed, static
    const Codec* http2_stream_codec
    const Transport* http2_stream_transport
    uint32_t n_streams              # connections of KIND_STREAM
    const Codec* session_codec      # borrowed, static: of clients of TCP sessions
    const Codec* session_backend_codec
    const Codec* http2_backend_codec        # borrowed, static
    const Codec* http2_backend_stream_codec
    const Transport* http2_backend_stream_transport
    uint32_t n_backend_streams      # connections of KIND_BACKEND_STREAM
    const Codec* folded_codec       # borrowed, static: of both sides of a folded tunnel
    uint32_t n_folded               # tunnels
    uint32_t fold_after_ms          # of silence
    const Codec* proxy_codec        # borrowed, static: of clients whose PROXY header is not here yet
    const Codec* proxy_backend_codec    # and of backends that have not got theirs
    const Codec* datagram_codec     # borrowed, static: of clients of UDP sessions
    const Codec* datagram_backend_codec
    DatagramScratch* datagrams      # owned; NULL until there is a UDP listener
    uint32_t n_datagram_sessions
    uint32_t n_datagram_copies      # kept for backends that turn out not to be there
