"""Failures are data: a kind, a side, which retry condition it is; and the one table from kind to status, reason id and words.

The table is C source, because a .pxd cannot define data; it is the only place where a status or a reason id is written.
Order is the identity: append only. `FAILURE_COUNT` in types.pxd bounds it.
"""
from libc.stdint cimport uint16_t, uint32_t


cdef extern from *:
    """
    enum fastlb_failure {
        FAILURE_NONE = 0,
        FAILURE_BAD_REQUEST_LINE, FAILURE_BAD_HEADER, FAILURE_BAD_FRAMING, FAILURE_BAD_HOST, FAILURE_BAD_TARGET,
        FAILURE_HEAD_TIMEOUT, FAILURE_BODY_TIMEOUT, FAILURE_BODY_TOO_LARGE, FAILURE_TARGET_TOO_LONG, FAILURE_HEAD_TOO_LARGE,
        FAILURE_UNKNOWN_TRANSFER_CODING, FAILURE_METHOD_NOT_SUPPORTED, FAILURE_BAD_VERSION,
        FAILURE_NO_ROUTE, FAILURE_NO_BACKEND, FAILURE_POOL_FULL, FAILURE_OUT_OF_MEMORY, FAILURE_EXCHANGE_TIMEOUT,
        FAILURE_CONNECT_REFUSED, FAILURE_CONNECT_FAILED, FAILURE_CONNECT_TIMEOUT,
        FAILURE_BACKEND_CLOSED, FAILURE_BACKEND_RESET, FAILURE_BAD_RESPONSE, FAILURE_RESPONSE_HEAD_TOO_LARGE,
        FAILURE_FIRST_BYTE_TIMEOUT, FAILURE_BETWEEN_BYTES_TIMEOUT, FAILURE_TRUNCATED,
        FAILURE_CLIENT_CLOSED, FAILURE_CLIENT_RESET, FAILURE_CLIENT_WRITE_TIMEOUT,
        FAILURE_QUEUE_FULL, FAILURE_QUEUE_TIMEOUT,
        FAILURE_BAD_STATUS, FAILURE_NO_STICKY_BACKEND,
        FAILURE_REGEX_LIMIT, FAILURE_TOO_MANY_PARAMETERS,
        FAILURE_CLOSED_BY_ROUTE,
        FAILURE_CONNECTIONS_LIMIT, FAILURE_PENDING_LIMIT, FAILURE_REQUESTS_LIMIT,
        FAILURE_BACKEND_DRAINED,
        FAILURE_TLS_TIMEOUT, FAILURE_TLS_CLOSED, FAILURE_TLS_PROTOCOL, FAILURE_TLS_NO_SHARED_CIPHER, FAILURE_TLS_UNKNOWN_NAME,
        FAILURE_TLS_CLIENT_CERTIFICATE, FAILURE_TLS_ALERT, FAILURE_PLAIN_HTTP,
        FAILURE_BACKEND_TLS, FAILURE_BACKEND_CERTIFICATE,
        FAILURE_SESSION_IDLE, FAILURE_SESSION_TIMEOUT,
        FAILURE_BACKEND_NO_HTTP2,
        FAILURE_PROXY_SENDER, FAILURE_PROXY_HEADER, FAILURE_PROXY_TIMEOUT,
        FAILURE_SESSION_SHED,
        FAILURE_NO_UPGRADE,
        FAILURE_NO_LOCAL_ADDRESS,
        FAILURE_END
    };
    enum fastlb_side { SIDE_SELF = 0, SIDE_CLIENT = 1, SIDE_BACKEND = 2 };
    /* RetryOn: bits of ImagePool.retry_on, which ends of an attempt may be followed by another one (retry.pxd). */
    enum fastlb_retry_on {
        RETRY_NO = 0,                   /* nothing would be gained */
        RETRY_ON_CONNECT = 1,           /* nothing of the request reached the backend */
        RETRY_ON_CLOSED = 2,            /* it ended the connection before it answered */
        RETRY_ON_RESET = 4,
        RETRY_ON_TIMEOUT = 8,           /* it was too slow to take the request, or to answer */
        RETRY_ON_BAD_RESPONSE = 16,     /* what it answered is no HTTP, or ends within its head */
        RETRY_ON_403 = 32, RETRY_ON_404 = 64, RETRY_ON_429 = 128,
        RETRY_ON_500 = 256, RETRY_ON_502 = 512, RETRY_ON_503 = 1024, RETRY_ON_504 = 2048,
        RETRY_ON_OTHER_5XX = 4096,
        RETRY_UNSAFE = 8192,            /* not an end: methods that are not idempotent too, although the backend may have done what they ask */
        RETRY_BITS = 16383              /* all of them */
    };
    typedef struct {
        const char* id;          /* header value and counter name */
        const char* sentence;    /* body of the local response: what happened */
        unsigned short status;   /* 0 = no response is possible any more */
        unsigned char side, retry_on;
    } FailureInfo;
    static const FailureInfo fastlb_failures[FAILURE_END] = {
        [FAILURE_NONE] = {"", "", 0, SIDE_SELF, RETRY_NO},
        [FAILURE_BAD_REQUEST_LINE] = {"client:bad_request_line", "The request line is not METHOD SP target SP HTTP/1.x.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BAD_HEADER] = {"client:bad_header", "A header line is malformed.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BAD_FRAMING] = {"client:bad_framing", "The length of the request body is ambiguous or malformed.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BAD_HOST] = {"client:bad_host", "The Host header is missing, repeated or malformed.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BAD_TARGET] = {"client:bad_target", "The request target is malformed or leaves the root.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_HEAD_TIMEOUT] = {"client:head_timeout", "The request head did not arrive in time.", 408, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BODY_TIMEOUT] = {"client:body_timeout", "The request body did not arrive in time.", 408, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BODY_TOO_LARGE] = {"client:body_too_large", "The request body is larger than is allowed here.", 413, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TARGET_TOO_LONG] = {"client:target_too_long", "The request target is longer than this listener allows.", 414, SIDE_CLIENT, RETRY_NO},
        [FAILURE_HEAD_TOO_LARGE] = {"client:head_too_large", "The request head is larger, or has more fields, than this listener allows.", 431, SIDE_CLIENT, RETRY_NO},
        [FAILURE_UNKNOWN_TRANSFER_CODING] = {"client:unknown_transfer_coding", "The only transfer coding understood is chunked.", 501, SIDE_CLIENT, RETRY_NO},
        [FAILURE_METHOD_NOT_SUPPORTED] = {"client:method_not_supported", "CONNECT is not served here.", 501, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BAD_VERSION] = {"client:bad_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.", 505, SIDE_CLIENT, RETRY_NO},
        [FAILURE_NO_ROUTE] = {"no_route", "No route matches this host and path.", 404, SIDE_SELF, RETRY_NO},
        [FAILURE_NO_BACKEND] = {"no_backend", "No backend of this pool can be used now.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_POOL_FULL] = {"pool_full", "Every backend of this pool is at its limit.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_OUT_OF_MEMORY] = {"out_of_memory", "The load balancer is out of memory or descriptors.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_EXCHANGE_TIMEOUT] = {"exchange_timeout", "The exchange took longer than its pool allows.", 504, SIDE_SELF, RETRY_NO},
        [FAILURE_CONNECT_REFUSED] = {"backend:connect_refused", "The backend refused the connection.", 502, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_CONNECT_FAILED] = {"backend:connect_failed", "The backend could not be reached.", 502, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_CONNECT_TIMEOUT] = {"backend:connect_timeout", "The backend did not accept the connection in time.", 504, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_BACKEND_CLOSED] = {"backend:closed", "The backend closed the connection before it answered.", 502, SIDE_BACKEND, RETRY_ON_CLOSED},
        [FAILURE_BACKEND_RESET] = {"backend:reset", "The backend reset the connection before it answered.", 502, SIDE_BACKEND, RETRY_ON_RESET},
        [FAILURE_BAD_RESPONSE] = {"backend:bad_response", "The backend's response is malformed.", 502, SIDE_BACKEND, RETRY_ON_BAD_RESPONSE},
        [FAILURE_RESPONSE_HEAD_TOO_LARGE] = {"backend:head_too_large", "The backend's response head is too large.", 502, SIDE_BACKEND, RETRY_ON_BAD_RESPONSE},
        [FAILURE_FIRST_BYTE_TIMEOUT] = {"backend:first_byte_timeout", "The backend did not answer in time.", 504, SIDE_BACKEND, RETRY_ON_TIMEOUT},
        [FAILURE_BETWEEN_BYTES_TIMEOUT] = {"backend:between_bytes_timeout", "The backend stopped in the middle of its answer.", 504, SIDE_BACKEND, RETRY_ON_TIMEOUT},
        [FAILURE_TRUNCATED] = {"backend:truncated", "The backend ended its answer before it was complete.", 0, SIDE_BACKEND, RETRY_NO},
        [FAILURE_CLIENT_CLOSED] = {"client:closed", "The client closed before its request or answer was complete.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_CLIENT_RESET] = {"client:reset", "The client reset the connection.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_CLIENT_WRITE_TIMEOUT] = {"client:write_timeout", "The client stopped reading its answer.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_QUEUE_FULL] = {"queue_full", "Every backend of this pool is at its limit, and so is the queue for them.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_QUEUE_TIMEOUT] = {"queue_timeout", "No backend of this pool came free in time.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_BAD_STATUS] = {"backend:bad_status", "The backend answered with an error, and no other one could be asked.", 502, SIDE_BACKEND, RETRY_NO},
        [FAILURE_NO_STICKY_BACKEND] = {"no_sticky_backend", "The backend that this client belongs to cannot be used now.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_REGEX_LIMIT] = {"regex_limit", "A regular expression took too long to decide about this request.", 500, SIDE_SELF, RETRY_NO},
        [FAILURE_TOO_MANY_PARAMETERS] = {"client:too_many_parameters", "The query or the cookies have more parts than are looked at.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_CLOSED_BY_ROUTE] = {"closed_by_route", "This route closes the connection without an answer.", 0, SIDE_SELF, RETRY_NO},
        [FAILURE_CONNECTIONS_LIMIT] = {"connections_limit", "This pool has as many connections to its backends as it may have.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_PENDING_LIMIT] = {"pending_limit", "As many requests as this pool allows wait for a connection to a backend.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_REQUESTS_LIMIT] = {"requests_limit", "As many requests as this pool allows are under way.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_BACKEND_DRAINED] = {"backend_drained", "The backend was taken out of use before it had answered.", 503, SIDE_SELF, RETRY_NO},
        [FAILURE_TLS_TIMEOUT] = {"client:tls_timeout", "The TLS handshake took longer than this listener allows.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_CLOSED] = {"client:tls_closed", "The client closed during the TLS handshake.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_PROTOCOL] = {"client:tls_protocol", "The client broke the TLS protocol.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_NO_SHARED_CIPHER] = {"client:tls_no_shared_cipher", "Client and listener share no version, cipher, group or protocol.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_UNKNOWN_NAME] = {"client:tls_unknown_name", "The client asked for a name that has no certificate here.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_CLIENT_CERTIFICATE] = {"client:tls_certificate", "The client's certificate is missing or does not verify.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_TLS_ALERT] = {"client:tls_alert", "The client refused the TLS handshake, as one that does not trust the certificate.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_PLAIN_HTTP] = {"client:plain_http", "This port speaks HTTPS, and the request came as plain HTTP.", 400, SIDE_CLIENT, RETRY_NO},
        [FAILURE_BACKEND_TLS] = {"backend:tls_handshake", "The TLS handshake with the backend failed.", 502, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_BACKEND_CERTIFICATE] = {"backend:tls_certificate", "The backend's certificate does not verify.", 502, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_SESSION_IDLE] = {"idle_timeout", "Nothing came from either side for as long as the pool allows.", 0, SIDE_SELF, RETRY_NO},
        [FAILURE_SESSION_TIMEOUT] = {"session_timeout", "The session took longer than its listener allows.", 0, SIDE_SELF, RETRY_NO},
        [FAILURE_BACKEND_NO_HTTP2] = {"backend:no_http2", "The backend does not speak HTTP/2, which its pool asks for.", 502, SIDE_BACKEND, RETRY_ON_CONNECT},
        [FAILURE_PROXY_SENDER] = {"client:proxy_sender", "Connections to this listener begin with a PROXY header, and this address may not send one.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_PROXY_HEADER] = {"client:proxy_header", "The connection does not begin with a PROXY header that is whole and well-formed.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_PROXY_TIMEOUT] = {"client:proxy_timeout", "The PROXY header did not arrive in time.", 0, SIDE_CLIENT, RETRY_NO},
        [FAILURE_SESSION_SHED] = {"session_shed", "The table of UDP sessions was full, and this one had been silent longest.", 0, SIDE_SELF, RETRY_NO},
        [FAILURE_NO_UPGRADE] = {"no_upgrade", "The backend speaks HTTP/2 and does not take this upgrade.", 501, SIDE_SELF, RETRY_NO},
        [FAILURE_NO_LOCAL_ADDRESS] = {"no_local_address", "The load balancer has no address, or no port, left to connect to this backend from.", 503, SIDE_SELF, RETRY_ON_CONNECT},
    };
    """
    ctypedef struct FailureInfo:
        const char* id
        const char* sentence
        uint16_t status
        unsigned char side
        unsigned char retry_on
    enum:
        FAILURE_NONE
        FAILURE_BAD_REQUEST_LINE, FAILURE_BAD_HEADER, FAILURE_BAD_FRAMING, FAILURE_BAD_HOST, FAILURE_BAD_TARGET
        FAILURE_HEAD_TIMEOUT, FAILURE_BODY_TIMEOUT, FAILURE_BODY_TOO_LARGE, FAILURE_TARGET_TOO_LONG, FAILURE_HEAD_TOO_LARGE
        FAILURE_UNKNOWN_TRANSFER_CODING, FAILURE_METHOD_NOT_SUPPORTED, FAILURE_BAD_VERSION
        FAILURE_NO_ROUTE, FAILURE_NO_BACKEND, FAILURE_POOL_FULL, FAILURE_OUT_OF_MEMORY, FAILURE_EXCHANGE_TIMEOUT
        FAILURE_CONNECT_REFUSED, FAILURE_CONNECT_FAILED, FAILURE_CONNECT_TIMEOUT
        FAILURE_BACKEND_CLOSED, FAILURE_BACKEND_RESET, FAILURE_BAD_RESPONSE, FAILURE_RESPONSE_HEAD_TOO_LARGE
        FAILURE_FIRST_BYTE_TIMEOUT, FAILURE_BETWEEN_BYTES_TIMEOUT, FAILURE_TRUNCATED
        FAILURE_CLIENT_CLOSED, FAILURE_CLIENT_RESET, FAILURE_CLIENT_WRITE_TIMEOUT
        FAILURE_QUEUE_FULL, FAILURE_QUEUE_TIMEOUT
        FAILURE_BAD_STATUS, FAILURE_NO_STICKY_BACKEND
        FAILURE_REGEX_LIMIT, FAILURE_TOO_MANY_PARAMETERS
        FAILURE_CLOSED_BY_ROUTE
        FAILURE_CONNECTIONS_LIMIT, FAILURE_PENDING_LIMIT, FAILURE_REQUESTS_LIMIT
        FAILURE_BACKEND_DRAINED
        FAILURE_TLS_TIMEOUT, FAILURE_TLS_CLOSED, FAILURE_TLS_PROTOCOL, FAILURE_TLS_NO_SHARED_CIPHER, FAILURE_TLS_UNKNOWN_NAME
        FAILURE_TLS_CLIENT_CERTIFICATE, FAILURE_TLS_ALERT, FAILURE_PLAIN_HTTP
        FAILURE_BACKEND_TLS, FAILURE_BACKEND_CERTIFICATE
        FAILURE_SESSION_IDLE, FAILURE_SESSION_TIMEOUT
        FAILURE_BACKEND_NO_HTTP2
        FAILURE_PROXY_SENDER, FAILURE_PROXY_HEADER, FAILURE_PROXY_TIMEOUT
        FAILURE_SESSION_SHED
        FAILURE_NO_UPGRADE
        FAILURE_NO_LOCAL_ADDRESS
        FAILURE_END
        SIDE_SELF, SIDE_CLIENT, SIDE_BACKEND
        RETRY_NO
        RETRY_ON_CONNECT, RETRY_ON_CLOSED, RETRY_ON_RESET, RETRY_ON_TIMEOUT, RETRY_ON_BAD_RESPONSE
        RETRY_ON_403, RETRY_ON_404, RETRY_ON_429, RETRY_ON_500, RETRY_ON_502, RETRY_ON_503, RETRY_ON_504, RETRY_ON_OTHER_5XX
        RETRY_UNSAFE
        RETRY_BITS
    const FailureInfo* failures "fastlb_failures"


cdef inline const char* status_phrase(uint32_t status) noexcept nogil:
    # Reason phrase of the statuses we produce ourselves (RFC 9110 section 15).
    if status == 400:
        return "Bad Request"
    if status == 404:
        return "Not Found"
    if status == 408:
        return "Request Timeout"
    if status == 413:
        return "Content Too Large"
    if status == 414:
        return "URI Too Long"
    if status == 431:
        return "Request Header Fields Too Large"
    if status == 500:
        return "Internal Server Error"
    if status == 501:
        return "Not Implemented"
    if status == 502:
        return "Bad Gateway"
    if status == 503:
        return "Service Unavailable"
    if status == 504:
        return "Gateway Timeout"
    if status == 505:
        return "HTTP Version Not Supported"
    return "Error"
