"""Access log: what is kept of an exchange while it runs, and the lines that it becomes at its end.

A snapshot's log plan is a few arrays: for each listener the values to keep of its heads (captures) and its logs, each with a format
(operations), a condition (terms) and a destination. The plan has offsets of its own and is copied when it is loaded, so that an exchange
that runs for days holds on to it and not to its snapshot.

An exchange of a listener that logs gets a LogRecord: times, numbers, and the captured values in a block of the buffer pool, 16 KB at
most. Where nothing is logged, Exchange.log is NULL and that is all that is ever tested. A record is written in close_exchange, which
every exchange comes to once, so each gives exactly one line in each log that wants it.

State: Engine.log, made when the first snapshot with a plan is committed. Lines go into the ring of log_writer.pyx; nothing here waits.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.failure cimport SIDE_CLIENT, failures
from fastlb.data_plane.http1_head cimport parse_trailers
from fastlb.data_plane.trust cimport is_trusted, make_request_id
from fastlb.data_plane.log_writer cimport (NO_LOG_SLOT, drop_slot, get64, hand_over, hold_slot, log_writer_close, log_writer_open,
                                           log_writer_start, put_line, wake_log_writer)
from fastlb.data_plane.proxy_codec cimport proxy_fact
from fastlb.data_plane.queue cimport time_queued
from fastlb.data_plane.system cimport (ENOMEM, F_DUPFD_CLOEXEC, errno, fcntl, getpid, gmtime_r, likely, localtime_r, memchr, memcmp, memcpy,
                                       strlen, time_t, tm, unlikely)
from fastlb.data_plane.tls cimport tls_fact
from fastlb.data_plane.types cimport CAPTURE_GRPC_STATUS, CAPTURE_PROXY, CAPTURE_TLS, LOG_GRPC_STATUS, TLS_SERVER_NAME, Buffer
from fastlb.data_plane.types cimport (CAPTURE_HOST, CAPTURE_KINDS, CAPTURE_METHOD, CAPTURE_PATH, CAPTURE_POOL, CAPTURE_PROTOCOL,
                                      CAPTURE_QUERY, CAPTURE_REQUEST_FIELD, CAPTURE_REQUEST_ID, CAPTURE_REQUEST_LINE,
                                      CAPTURE_RESPONSE_FIELD, CAPTURE_TARGET, CAPTURE_USER, COMPARE_CONTAINS, COMPARE_END,
                                      COMPARE_ENDS_WITH, COMPARE_EQUAL, COMPARE_GREATER, COMPARE_GREATER_OR_EQUAL, COMPARE_LESS,
                                      COMPARE_LESS_OR_EQUAL, COMPARE_NOT_EQUAL, COMPARE_STARTS_WITH, ESCAPES_END, ESCAPE_JSON,
                                      ESCAPE_JSON_TEXT, ESCAPE_NONE, ESCAPE_TEXT, HEADER_X_REQUEST_ID, KIND_STREAM, LOG_ABSENT, LOG_ACCEPT, LOG_ATTEMPTS,
                                      LOG_BACKEND, LOG_BACKENDS, LOG_BACKEND_STATUS, LOG_BACKEND_STATUSES, LOG_BODY_BYTES_SENT,
                                      LOG_BYTES_SENT, LOG_CAPTURE, LOG_CLIENT, LOG_CLIENT_PORT, LOG_CONNECTION, LOG_CONNECTION_REQUESTS,
                                      LOG_CONNECT_MS, LOG_DATAGRAM_LINE_BYTES, LOG_DESTINATION_KINDS, LOG_DURATION, LOG_DURATION_MS,
                                      LOG_FIELDS_END, LOG_FIRST_BYTE_MS, LOG_KEEP_ALIVE, LOG_LINE_BYTES, LOG_LITERAL, LOG_NO_TIME,
                                      LOG_NUMBERS_END, LOG_PID, LOG_QUEUE_MS, LOG_REASON, LOG_REJECT, LOG_REQUEST_BODY_BYTES, LOG_REQUEST_BYTES,
                                      LOG_REQUEST_ID, LOG_SAMPLE_ALL, LOG_STATUS, LOG_STREAM_LINE_BYTES, LOG_TEXTS_END, LOG_TIME_LOCAL,
                                      LOG_TIME_SECONDS, LOG_TIME_SYSLOG, LOG_TO_DATAGRAMS, LOG_TO_STREAM, LOG_TUNNEL, LOG_VALUES_BYTES,
                                      LOG_VALUE_BYTES, MAX_LOGS, MAX_LOG_CAPTURES, MAX_LOG_DESTINATIONS, MAX_LOG_LITERAL_BYTES,
                                      MAX_LOG_OPERATIONS, MAX_LOG_TRIES, NO_INDEX, REQUEST_ID_BYTES, X_KEEP_ALIVE, X_QUEUED, X_TUNNEL, AccessLog,
                                      Connection, Engine, Exchange, Head, HeaderField, ImageLog, ImageLogCapture, ImageLogDestination,
                                      ImageLogOperation, ImageLogPlan, ImageLogSet, ImageLogTerm, ImageSection, ImageText, Listener,
                                      LogPlan, LogRecord, LogTry, LogValue, Snapshot)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef enum:
    FREE_RECORDS_KEPT = 256
    CLOSE_PATIENCE_MS = 1000        # how long the last lines may take when the engine closes
    MIN_RING_BYTES = 131072         # two of the longest lines
    MAX_RING_BYTES = 1 << 28
    USER_BYTES = 256                # of a user name; a longer one is cut
    CLIENT_CLOSED_STATUS = 499      # nginx's: the client left before there was an answer
    CUT_STEPS = 5

cdef const char* MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"
cdef const char* HEX = b"0123456789ABCDEF"

# How much of each value is written: first all, then less, until the line fits its destination.
cdef uint32_t CUTS[CUT_STEPS]
CUTS[:] = [LOG_VALUE_BYTES, 512, 128, 32, 0]

# Character classes, filled when the module is imported and never written again.
cdef uint8_t PLAIN_TEXT[256]
cdef uint8_t PLAIN_JSON[256]
cdef uint8_t BASE64[256]


def _fill_classes() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for byte in range(256):
        PLAIN_TEXT[byte] = 0x20 <= byte <= 0x7E and chr(byte) not in '"\\'      # what nginx leaves alone
        PLAIN_JSON[byte] = PLAIN_TEXT[byte]
        BASE64[byte] = alphabet.index(chr(byte)) if chr(byte) in alphabet else 0xFF


_fill_classes()


# ---------------------------------------------------------------------------------------------------------- the plan
cdef bint section_fits(uint32_t size, const ImageSection* section, size_t record) noexcept nogil:
    return section.offset <= size and <uint64_t>section.count * record <= size - section.offset and section.offset % 8 == 0


cdef bint range_fits(const ImageSection* inner, const ImageSection* outer) noexcept nogil:
    return inner.offset <= outer.count and inner.count <= outer.count - inner.offset


cdef bint text_fits(uint32_t size, uint32_t offset, uint32_t length) noexcept nogil:
    return offset <= size and length <= size - offset


cdef bint check_field(uint32_t field, uint32_t argument, const ImageLogSet* set, const ImageLogCapture* captures) noexcept nogil:
    # Whether the capture that a field names exists and is of the right kind.
    if field == LOG_CAPTURE:
        return argument < set.captures.count
    if field == LOG_REQUEST_ID:
        return argument < set.captures.count and captures[set.captures.offset + argument].kind == CAPTURE_REQUEST_ID
    return True


cdef bint check_log(const ImageLogPlan* plan, const ImageLogSet* set, const ImageLog* log) noexcept nogil:
    cdef:
        const char* data = <const char*>plan
        const ImageLogOperation* operation = <const ImageLogOperation*>(data + plan.operations.offset) + log.operations.offset
        const ImageLogTerm* term = <const ImageLogTerm*>(data + plan.terms.offset) + log.terms.offset
        const ImageLogCapture* captures = <const ImageLogCapture*>(data + plan.captures.offset)
        uint32_t i, _i, literals = 0
    if log.destination >= plan.destinations.count or log.sample > <uint32_t>LOG_SAMPLE_ALL or log.sample > set.max_sample \
            or log.operations.count > MAX_LOG_OPERATIONS:
        return False
    for _i in range(log.operations.count):
        if operation.field >= LOG_FIELDS_END or operation.escape >= ESCAPES_END \
                or not check_field(operation.field, operation.argument, set, captures):
            return False
        if operation.field == LOG_LITERAL:
            if operation.size > MAX_LOG_LITERAL_BYTES or not text_fits(plan.size, operation.argument, operation.size):
                return False
            literals += operation.size
        operation += 1
    if literals > MAX_LOG_LITERAL_BYTES:
        return False
    for i in range(log.terms.count):
        if term.field == LOG_LITERAL or term.field >= LOG_NUMBERS_END or term.comparison >= COMPARE_END \
                or not check_field(term.field, term.argument, set, captures) or not text_fits(plan.size, term.text.offset, term.text.size):
            return False
        # A term leads to later ones only, so that a condition ends.
        if not (term.on_true == <uint32_t>LOG_ACCEPT or term.on_true == <uint32_t>LOG_REJECT or i < term.on_true < log.terms.count):
            return False
        if not (term.on_false == <uint32_t>LOG_ACCEPT or term.on_false == <uint32_t>LOG_REJECT or i < term.on_false < log.terms.count):
            return False
        term += 1
    return True


cdef bint check_log_plan(const char* data, size_t size) noexcept nogil:
    # Everything that an index or offset of a plan can reach, once, so that no later code has to.
    cdef:
        const ImageLogPlan* plan = <const ImageLogPlan*>data
        const ImageLogSet* sets
        const ImageLog* logs
        const ImageLogCapture* captures
        const ImageLogDestination* destinations
        uint32_t i, k
    if size < sizeof(ImageLogPlan) or plan.size != size:
        return False
    if plan.ring_bytes & (plan.ring_bytes - 1) or not MIN_RING_BYTES <= plan.ring_bytes <= MAX_RING_BYTES:
        return False
    if not (section_fits(plan.size, &plan.sets, sizeof(ImageLogSet)) and section_fits(plan.size, &plan.logs, sizeof(ImageLog))
            and section_fits(plan.size, &plan.captures, sizeof(ImageLogCapture))
            and section_fits(plan.size, &plan.operations, sizeof(ImageLogOperation))
            and section_fits(plan.size, &plan.terms, sizeof(ImageLogTerm))
            and section_fits(plan.size, &plan.destinations, sizeof(ImageLogDestination))
            and plan.destinations.count <= MAX_LOG_DESTINATIONS):
        return False
    destinations = <const ImageLogDestination*>(data + plan.destinations.offset)
    for i in range(plan.destinations.count):
        if destinations[i].kind >= LOG_DESTINATION_KINDS \
                or not text_fits(plan.size, destinations[i].identity.offset, destinations[i].identity.size):
            return False
    captures = <const ImageLogCapture*>(data + plan.captures.offset)
    for i in range(plan.captures.count):
        if captures[i].kind >= CAPTURE_KINDS or not text_fits(plan.size, captures[i].name.offset, captures[i].name.size):
            return False
    logs = <const ImageLog*>(data + plan.logs.offset)
    for i in range(plan.logs.count):
        if not range_fits(&logs[i].operations, &plan.operations) or not range_fits(&logs[i].terms, &plan.terms):
            return False
    sets = <const ImageLogSet*>(data + plan.sets.offset)
    for i in range(plan.sets.count):
        if not range_fits(&sets[i].logs, &plan.logs) or not range_fits(&sets[i].captures, &plan.captures) \
                or sets[i].logs.count > MAX_LOGS or sets[i].captures.count > MAX_LOG_CAPTURES:
            return False
        for k in range(sets[i].logs.count):
            if not check_log(plan, &sets[i], &logs[sets[i].logs.offset + k]):
                return False
    return True


cdef LogPlan* load_log_plan(const char* data) noexcept nogil:
    # A copy of a checked plan: one reference, the caller's. NULL: out of memory.
    cdef:
        uint32_t size = (<const ImageLogPlan*>data).size
        LogPlan* plan = <LogPlan*>calloc(1, sizeof(LogPlan))
        char* copy = <char*>malloc(size)
    if plan == NULL or copy == NULL:
        free(plan)
        free(copy)
        return NULL
    memcpy(copy, data, size)
    plan.data = copy
    plan.header = <const ImageLogPlan*>copy
    plan.references = 1
    return plan


cdef void drop_log_plan(Engine* engine, LogPlan* plan) noexcept nogil:
    # One reference less. NULL is allowed.
    cdef uint32_t i
    if plan == NULL:
        return
    plan.references -= 1
    if plan.references > 0:
        return
    if plan.bound:
        for i in range(plan.header.destinations.count):
            drop_slot(engine.log.writer, plan.slots[i])
    free(<void*>plan.data)
    free(plan)


cdef bint open_access_log(Engine* engine, uint32_t ring_bytes) noexcept nogil:
    # False: out of memory, descriptors or threads.
    cdef AccessLog* log = <AccessLog*>calloc(1, sizeof(AccessLog))
    cdef uint64_t ignored = 0
    if log == NULL:
        return False
    log.line = <char*>malloc(LOG_LINE_BYTES)
    log.writer = log_writer_open(ring_bytes)
    if log.line == NULL or log.writer == NULL or not log_writer_start(log.writer):
        if log.writer != NULL:
            log_writer_close(log.writer, 0, &ignored, &ignored, &ignored)
        free(log.line)
        free(log)
        return False
    log.pid = <uint32_t>getpid()
    log.random = engine.random[0] | 1
    engine.log = log
    return True


cdef int prepare_log(Engine* engine, LogPlan* plan) noexcept nogil:
    # Starts the thread if this is the first plan, and takes a slot for each destination. 0 or an errno, with nothing taken.
    # The ring keeps the size that it began with.
    cdef:
        const ImageLogDestination* destinations
        uint32_t i
        int slot
    if plan == NULL or plan.bound:
        return 0
    if engine.log == NULL and not open_access_log(engine, plan.header.ring_bytes):
        return ENOMEM
    destinations = <const ImageLogDestination*>(plan.data + plan.header.destinations.offset)
    for i in range(plan.header.destinations.count):
        slot = hold_slot(engine.log.writer, plan.data + destinations[i].identity.offset, destinations[i].identity.size,
                         destinations[i].kind)
        if slot == NO_LOG_SLOT:
            while i > 0:
                i -= 1
                drop_slot(engine.log.writer, plan.slots[i])
            return ENOMEM
        plan.slots[i] = <uint16_t>slot
    plan.bound = True
    return 0


cdef int set_log(Engine* engine, uint32_t destination, int fd) noexcept nogil:
    # Gives a destination of the current snapshot a copy of this descriptor. 0 or an errno.
    cdef int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if copy < 0:
        return errno
    hand_over(engine.log.writer, engine.snapshot.log_plan.slots[destination], copy)
    return 0


cdef void set_listener_log(Engine* engine, Listener* listener, const Snapshot* snapshot, uint32_t index) noexcept nogil:
    # What this listener's exchanges log from now on: a set of the snapshot's plan, NO_INDEX for nothing.
    cdef LogPlan* old = listener.log_plan
    listener.log_plan = NULL
    listener.log_set = NULL
    if index != <uint32_t>NO_INDEX:
        listener.log_plan = snapshot.log_plan
        listener.log_plan.references += 1
        listener.log_set = <const ImageLogSet*>(listener.log_plan.data + listener.log_plan.header.sets.offset) + index
    drop_log_plan(engine, old)


cdef void drop_listener_log(Engine* engine, Listener* listener) noexcept nogil:
    drop_log_plan(engine, listener.log_plan)
    listener.log_plan = NULL
    listener.log_set = NULL


# ---------------------------------------------------------------------------------------------------------- what is kept
cdef inline uint32_t draw_sample(AccessLog* log) noexcept nogil:
    # 31 random bits (xorshift64*): good enough to choose by, and three shifts.
    log.random ^= log.random >> 12
    log.random ^= log.random << 25
    log.random ^= log.random >> 27
    return <uint32_t>((log.random * <uint64_t>0x2545F4914F6CDD1D) >> 33)


cdef void open_log(Engine* engine, Exchange* exchange) noexcept nogil:
    # A record for this exchange, unless none of its listener's logs has drawn it. Without memory it is not logged, and counted as dropped.
    cdef:
        Connection* client = exchange.client
        const ImageLogSet* set = client.listener.log_set
        uint32_t draw = draw_sample(engine.log), i
        LogRecord* record
    if draw >= set.max_sample:
        return
    record = engine.log.free_records
    if likely(record != NULL):
        engine.log.free_records = record.next
        engine.log.n_free_records -= 1
    else:
        record = <LogRecord*>malloc(sizeof(LogRecord))
        if record == NULL:
            engine.counters.log_lines_dropped += 1
            return
    engine.counters.log_records_taken += 1
    record.next = NULL
    record.plan = client.listener.log_plan
    record.plan.references += 1
    record.set = set
    record.values = NULL
    record.draw = draw
    record.informational_bytes = 0
    record.head_bytes = record.request_head_bytes = 0
    record.reason = 0
    record.n_tries = 0
    record.queued_ms = 0
    record.shown_try = 0
    record.grpc_status = LOG_ABSENT
    record.started_ms = engine.now_ms
    for i in range(set.captures.count):
        record.captured[i].offset = 0
        record.captured[i].size = LOG_ABSENT
    exchange.log = record


cdef void drop_log_record(Engine* engine, LogRecord* record) noexcept nogil:
    return_buffer(&engine.buffers, record.values)
    record.values = NULL
    drop_log_plan(engine, record.plan)
    record.plan = NULL
    engine.counters.log_records_returned += 1
    if engine.log.n_free_records >= FREE_RECORDS_KEPT:
        free(record)
        return
    record.next = engine.log.free_records
    engine.log.free_records = record
    engine.log.n_free_records += 1


cdef void append_value(Engine* engine, LogRecord* record, LogValue* value, const char* data, uint32_t size) noexcept nogil:
    # Adds to a value that is absent, or the last one appended. What is too long ends in "...".
    cdef:
        uint32_t held = record.values.end if record.values != NULL else 0
        uint32_t room = LOG_VALUES_BYTES - held
        bint cut
    if value.size == LOG_ABSENT:
        value.offset = <uint16_t>held
        value.size = 0
    if room > <uint32_t>LOG_VALUE_BYTES - value.size:
        room = <uint32_t>LOG_VALUE_BYTES - value.size
    cut = size > room
    if cut:
        if room < 3:
            return
        size = room - 3
    if size and not append_bytes(&engine.buffers, &record.values, data, size):
        return
    value.size += <uint16_t>size
    if cut and append_bytes(&engine.buffers, &record.values, b"...", 3):
        value.size += 3


cdef inline char lower(char byte) noexcept nogil:
    return byte | 0x20 if c"A" <= byte <= c"Z" else byte


cdef bint is_named(const char* name, const char* wanted, uint32_t size) noexcept nogil:
    # `wanted` is lower case.
    cdef uint32_t i
    for i in range(size):
        if lower(name[i]) != wanted[i]:
            return False
    return True


cdef void capture_fields(Engine* engine, LogRecord* record, LogValue* value, const Head* head, const char* name, uint32_t size) noexcept nogil:
    # Every field of this name, joined by ", ".
    cdef:
        const HeaderField* field = &head.fields[0]
        uint32_t _i
    for _i in range(head.n_fields):
        if field.name_size == size and is_named(head.data + field.name, name, size):
            if value.size != LOG_ABSENT:
                append_value(engine, record, value, b", ", 2)
            append_value(engine, record, value, head.data + field.value, field.value_size)
        field += 1


cdef uint32_t decode_user(const char* text, uint32_t size, char* user) noexcept nogil:
    # The user of Basic credentials (RFC 7617), at most USER_BYTES; 0 where there is none.
    cdef:
        uint32_t i, bits = 0, n_bits = 0, n = 0
        uint8_t digit
    for i in range(size):
        digit = BASE64[<uint8_t>text[i]]
        if digit == 0xFF:
            break
        bits = bits << 6 | digit
        n_bits += 6
        if n_bits >= 8:
            n_bits -= 8
            user[n] = <char>(bits >> n_bits & 0xFF)
            if user[n] == c":":
                return n
            n += 1
            if n == USER_BYTES:
                return n
    return 0                                    # without a colon it is no user


cdef void capture_user(Engine* engine, LogRecord* record, LogValue* value, const Head* head) noexcept nogil:
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* text
        char user[USER_BYTES]
        uint32_t _i, size
    for _i in range(head.n_fields):
        if field.name_size == 13 and field.value_size > 6 and is_named(head.data + field.name, b"authorization", 13):
            text = head.data + field.value
            if is_named(text, b"basic ", 6):
                size = decode_user(text + 6, field.value_size - 6, user)
                if size:
                    append_value(engine, record, value, user, size)
            return
        field += 1


cdef const ImageLogCapture* captures_of(const LogRecord* record) noexcept nogil:
    return <const ImageLogCapture*>(record.plan.data + record.plan.header.captures.offset) + record.set.captures.offset


cdef void capture_fact(Engine* engine, Exchange* exchange, LogValue* value, uint32_t kind) noexcept nogil:
    # Of the client's TLS, or of its PROXY header.
    cdef:
        const char* text = NULL
        uint32_t size
    if kind < CAPTURE_PROXY:
        size = tls_fact(exchange.client, kind - <uint32_t>CAPTURE_TLS, &text)
    else:
        size = proxy_fact(exchange.client, kind - <uint32_t>CAPTURE_PROXY, &text)
    if size:
        append_value(engine, exchange.log, value, text, size)


cdef void log_request_head(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # Keeps what the formats want of a whole request head, while its bytes are here.
    cdef:
        LogRecord* record = exchange.log
        const ImageLogCapture* capture = captures_of(record)
        LogValue* value = &record.captured[0]
        const char* data = head.data
        uint32_t _i, k
    record.request_head_bytes = head.size
    for _i in range(record.set.captures.count):
        if capture.kind == CAPTURE_REQUEST_FIELD:
            capture_fields(engine, record, value, head, record.plan.data + capture.name.offset, capture.name.size)
        elif capture.kind == CAPTURE_METHOD:
            append_value(engine, record, value, data, head.method_size)
        elif capture.kind == CAPTURE_TARGET:
            append_value(engine, record, value, data + head.target, head.target_size)
        elif capture.kind == CAPTURE_PATH:
            if head.path_size:
                append_value(engine, record, value, data + head.origin, head.path_size)
            else:
                append_value(engine, record, value, b"/", 1)
        elif capture.kind == CAPTURE_QUERY:
            if head.path_size < head.origin_size:
                append_value(engine, record, value, data + head.origin + head.path_size + 1, head.origin_size - head.path_size - 1)
        elif capture.kind == CAPTURE_PROTOCOL:
            if exchange.client.kind == KIND_STREAM:
                append_value(engine, record, value, b"HTTP/2.0", 8)
            else:
                append_value(engine, record, value, b"HTTP/1.1" if head.version else b"HTTP/1.0", 8)
        elif capture.kind == CAPTURE_REQUEST_LINE:
            append_value(engine, record, value, data, head.target + head.target_size + 9)
            if exchange.client.kind == KIND_STREAM and value.size == head.target + head.target_size + 9:
                memcpy(record.values.data + value.offset + value.size - 3, b"2.0", 3)
        elif capture.kind == CAPTURE_HOST:
            if head.host:
                append_value(engine, record, value, data + head.host, head.host_size)
        elif capture.kind == CAPTURE_USER:
            capture_user(engine, record, value, head)
        elif capture.kind == CAPTURE_REQUEST_ID:
            if (head.seen >> HEADER_X_REQUEST_ID) & 1 and is_trusted(engine, exchange):
                for k in range(head.n_fields):
                    if head.fields[k].id == HEADER_X_REQUEST_ID and head.fields[k].value_size:
                        append_value(engine, record, value, data + head.fields[k].value, head.fields[k].value_size)
                        break
        elif CAPTURE_TLS <= capture.kind < <uint32_t>CAPTURE_GRPC_STATUS or capture.kind >= CAPTURE_PROXY:
            capture_fact(engine, exchange, value, capture.kind)
        capture += 1
        value += 1


cdef void log_session(Engine* engine, Exchange* exchange) noexcept nogil:
    # A TCP session begins: what is known of its client's TLS and PROXY header. Everything else that is captured, but for its pool, it has not.
    cdef:
        const ImageLogCapture* capture = captures_of(exchange.log)
        uint32_t i
    for i in range(exchange.log.set.captures.count):
        if capture[i].kind >= CAPTURE_TLS and capture[i].kind != CAPTURE_GRPC_STATUS:
            capture_fact(engine, exchange, &exchange.log.captured[i], capture[i].kind)


cdef void log_server_name(Engine* engine, Exchange* exchange, const char* name, uint32_t size) noexcept nogil:
    # The name in a ClientHello that is passed on: no TLS of ours tells it.
    cdef:
        const ImageLogCapture* capture = captures_of(exchange.log)
        uint32_t i
    for i in range(exchange.log.set.captures.count):
        if capture[i].kind == <uint32_t>CAPTURE_TLS + TLS_SERVER_NAME and size:
            append_value(engine, exchange.log, &exchange.log.captured[i], name, size)


cdef void log_partial_head(Engine* engine, Exchange* exchange, const char* data, uint32_t size) noexcept nogil:
    # Of a head that was refused or did not come whole: its first line, as far as it is here.
    cdef:
        LogRecord* record = exchange.log
        const ImageLogCapture* capture = captures_of(record)
        LogValue* value = &record.captured[0]
        const char* end = <const char*>memchr(data, c"\n", size) if size else NULL
        const char* space
        uint32_t _i, line, method, target = 0, target_size = 0
    record.request_head_bytes = size
    line = size if end == NULL else <uint32_t>(end - data)
    if line and data[line - 1] == c"\r":
        line -= 1
    space = <const char*>memchr(data, c" ", line) if line else NULL
    method = line if space == NULL else <uint32_t>(space - data)
    if method < line:
        target = method + 1
        space = <const char*>memchr(data + target, c" ", line - target) if target < line else NULL
        target_size = line - target if space == NULL else <uint32_t>(space - data) - target
    for _i in range(record.set.captures.count):
        if capture.kind == CAPTURE_REQUEST_LINE and line:
            append_value(engine, record, value, data, line)
        elif capture.kind == CAPTURE_METHOD and method < line:
            append_value(engine, record, value, data, method)
        elif capture.kind == CAPTURE_TARGET and target_size:
            append_value(engine, record, value, data + target, target_size)
        capture += 1
        value += 1


cdef void log_pool(Engine* engine, Exchange* exchange) noexcept nogil:
    # The request is routed.
    cdef:
        LogRecord* record = exchange.log
        const ImageLogCapture* capture = captures_of(record)
        const ImageText* name = &exchange.pool.image.name
        uint32_t i
    for i in range(record.set.captures.count):
        if capture[i].kind == CAPTURE_POOL:
            append_value(engine, record, &record.captured[i], exchange.snapshot.image + name.offset, name.size)


cdef void log_attempt(Engine* engine, Exchange* exchange) noexcept nogil:
    # An attempt begins; its backend is known.
    cdef:
        LogRecord* record = exchange.log
        LogTry* entry
    if record.n_tries < 255:
        record.n_tries += 1
    # Of more tries than there is room for the last slot tells of the last one.
    record.shown_try = (record.n_tries if record.n_tries <= MAX_LOG_TRIES else <uint8_t>MAX_LOG_TRIES) - 1
    exchange.attempt.log_try = record.shown_try
    entry = &record.tries[record.shown_try]
    entry.started_ms = engine.now_ms
    entry.status = 0
    entry.connect_ms = entry.first_byte_ms = entry.end_ms = LOG_NO_TIME
    entry.backend.size = LOG_ABSENT
    append_value(engine, record, &entry.backend, exchange.attempt.backend.display, exchange.attempt.backend.display_size)


cdef void log_connected(Engine* engine, Exchange* exchange) noexcept nogil:
    cdef LogTry* entry = &exchange.log.tries[exchange.attempt.log_try]
    entry.connect_ms = <uint32_t>(engine.now_ms - entry.started_ms)


cdef void log_answer(Engine* engine, Exchange* exchange, uint32_t status) noexcept nogil:
    # The final head of a backend, whether the client gets it or not.
    cdef LogTry* entry = &exchange.log.tries[exchange.attempt.log_try]
    exchange.log.shown_try = exchange.attempt.log_try
    entry.status = status
    entry.first_byte_ms = <uint32_t>(engine.now_ms - entry.started_ms)


cdef void log_response_head(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # The final head that the client gets, while its bytes are here.
    cdef:
        LogRecord* record = exchange.log
        const ImageLogCapture* capture = captures_of(record)
        uint32_t i
    log_answer(engine, exchange, head.status)
    for i in range(record.set.captures.count):
        if capture[i].kind == CAPTURE_RESPONSE_FIELD:
            capture_fields(engine, record, &record.captured[i], head, record.plan.data + capture[i].name.offset, capture[i].name.size)
        elif capture[i].kind == CAPTURE_GRPC_STATUS:
            note_grpc_status(record, head)


cdef void note_grpc_status(LogRecord* record, const Head* head) noexcept nogil:
    # What a head, or a trailer section, says of it: a number of up to three digits.
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* value
        uint32_t _i, i, number = 0
    for _i in range(head.n_fields):
        if field.name_size == 11 and is_named(head.data + field.name, b"grpc-status", 11):
            value = head.data + field.value
            if not 1 <= field.value_size <= 3:
                return
            for i in range(field.value_size):
                if not c"0" <= value[i] <= c"9":
                    return
                number = 10 * number + <uint32_t>(value[i] - c"0")
            record.grpc_status = <uint16_t>number
            return
        field += 1


cdef void log_trailers(Exchange* exchange, const Buffer* trailers) noexcept nogil:
    # The trailer section of the answer that the client gets, checked already.
    cdef:
        LogRecord* record = exchange.log
        const ImageLogCapture* capture = captures_of(record)
        Head head
        uint32_t i
    for i in range(record.set.captures.count):
        if capture[i].kind == CAPTURE_GRPC_STATUS and parse_trailers(&head, trailers.data + trailers.start, trailers.end - trailers.start) > 0:
            note_grpc_status(record, &head)
            return


cdef void log_attempt_end(Engine* engine, Exchange* exchange) noexcept nogil:
    cdef LogTry* entry = &exchange.log.tries[exchange.attempt.log_try]
    entry.end_ms = <uint32_t>(engine.now_ms - entry.started_ms)


# ---------------------------------------------------------------------------------------------------------- values
cdef bint read_text(Engine* engine, Exchange* exchange, LogRecord* record, uint32_t field, uint32_t argument, const char** data,
                    uint32_t* size) noexcept nogil:
    # A field below LOG_TEXTS_END. False: there is none.
    cdef LogValue* value = NULL
    if field == LOG_CAPTURE:
        value = &record.captured[argument]
    elif field == LOG_BACKEND:
        if record.n_tries:
            value = &record.tries[record.shown_try].backend
    elif field == LOG_CLIENT:
        data[0] = exchange.client.peer.address
        size[0] = exchange.client.address_size
        return True
    elif field == LOG_REASON:
        if record.reason:
            data[0] = failures[record.reason].id
            size[0] = <uint32_t>strlen(data[0])
            return True
    elif field == LOG_REQUEST_ID:
        if record.captured[argument].size != LOG_ABSENT:
            value = &record.captured[argument]
        else:
            if exchange.request_id[0] == 0:
                make_request_id(engine, exchange.request_id)
            data[0] = exchange.request_id
            size[0] = REQUEST_ID_BYTES
            return True
    if value == NULL or value.size == LOG_ABSENT:
        return False
    size[0] = value.size
    data[0] = record.plan.data                  # of nothing, from anywhere
    if value.size:
        data[0] = record.values.data + value.offset
    return True


cdef bint read_number(Engine* engine, Exchange* exchange, LogRecord* record, uint32_t field, uint64_t* number) noexcept nogil:
    # A field from LOG_TEXTS_END to LOG_NUMBERS_END. False: there is none.
    cdef:
        LogTry* shown = &record.tries[record.shown_try]
        uint64_t sent = exchange.down.sent
        uint32_t when
    if field == LOG_STATUS:
        number[0] = exchange.status
        if exchange.status == 0 and failures[record.reason].side == SIDE_CLIENT:
            number[0] = CLIENT_CLOSED_STATUS
    elif field == LOG_BYTES_SENT:
        number[0] = sent + record.informational_bytes
    elif field == LOG_BODY_BYTES_SENT:
        number[0] = sent - record.head_bytes if sent > record.head_bytes else 0
    elif field == LOG_REQUEST_BYTES:
        number[0] = record.request_head_bytes + exchange.up.moved
    elif field == LOG_REQUEST_BODY_BYTES:
        number[0] = exchange.up.moved
    elif field == LOG_DURATION_MS:
        number[0] = engine.now_ms - record.started_ms
    elif field == LOG_ATTEMPTS:
        number[0] = record.n_tries
    elif field == LOG_CLIENT_PORT:
        number[0] = exchange.client.peer_port
        return exchange.client.peer_port != 0
    elif field == LOG_CONNECTION:
        number[0] = exchange.client.peer.number
    elif field == LOG_CONNECTION_REQUESTS:
        number[0] = <uint64_t>exchange.client.n_exchanges + 1
    elif field == LOG_KEEP_ALIVE:
        number[0] = exchange.flags & X_KEEP_ALIVE != 0
    elif field == LOG_TUNNEL:
        number[0] = exchange.flags & X_TUNNEL != 0
    elif field == LOG_PID:
        number[0] = engine.log.pid
    elif field == LOG_QUEUE_MS:
        number[0] = record.queued_ms
        if exchange.flags & X_QUEUED:           # it ends there
            number[0] += time_queued(engine, exchange)
    elif field == LOG_GRPC_STATUS:
        number[0] = record.grpc_status
        return record.grpc_status != <uint16_t>LOG_ABSENT
    elif record.n_tries == 0:
        return False
    elif field == LOG_BACKEND_STATUS:
        number[0] = shown.status
        return shown.status != 0
    else:
        when = shown.connect_ms if field == LOG_CONNECT_MS else shown.first_byte_ms if field == LOG_FIRST_BYTE_MS else shown.end_ms
        number[0] = when
        return when != <uint32_t>LOG_NO_TIME
    return True


cdef bint term_holds(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLogTerm* term) noexcept nogil:
    # A text that there is none of counts as empty; with a number that there is none of, only "is not" holds.
    cdef:
        const char* wanted = record.plan.data + term.text.offset
        const char* text = b""
        uint32_t size = 0, length = term.text.size, comparison = term.comparison, i
        uint64_t number = 0
    if term.field >= LOG_TEXTS_END:
        if not read_number(engine, exchange, record, term.field, &number):
            return comparison == COMPARE_NOT_EQUAL
        if comparison == COMPARE_EQUAL:
            return number == term.number
        if comparison == COMPARE_NOT_EQUAL:
            return number != term.number
        if comparison == COMPARE_LESS:
            return number < term.number
        if comparison == COMPARE_LESS_OR_EQUAL:
            return number <= term.number
        if comparison == COMPARE_GREATER:
            return number > term.number
        return comparison == COMPARE_GREATER_OR_EQUAL and number >= term.number
    if not read_text(engine, exchange, record, term.field, term.argument, &text, &size):
        size = 0
    if comparison == COMPARE_EQUAL or comparison == COMPARE_NOT_EQUAL:
        return (size == length and memcmp(text, wanted, size) == 0) == (comparison == COMPARE_EQUAL)
    if length > size:
        return False
    if comparison == COMPARE_STARTS_WITH:
        return memcmp(text, wanted, length) == 0
    if comparison == COMPARE_ENDS_WITH:
        return memcmp(text + size - length, wanted, length) == 0
    if comparison == COMPARE_CONTAINS:
        for i in range(size - length + 1):
            if memcmp(text + i, wanted, length) == 0:
                return True
    return False


cdef bint condition_holds(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLog* log) noexcept nogil:
    cdef:
        const ImageLogTerm* terms = <const ImageLogTerm*>(record.plan.data + record.plan.header.terms.offset) + log.terms.offset
        uint32_t at = 0
    if log.terms.count == 0:
        return True
    while at < log.terms.count:
        at = terms[at].on_true if term_holds(engine, exchange, record, &terms[at]) else terms[at].on_false
    return at == <uint32_t>LOG_ACCEPT


# ---------------------------------------------------------------------------------------------------------- lines
cdef void put_seconds(Writer* out, uint64_t ms) noexcept nogil:
    cdef char rest[4]
    put_number(out, ms // 1000)
    rest[0] = c"."
    rest[1] = <char>(c"0" + ms // 100 % 10)
    rest[2] = <char>(c"0" + ms // 10 % 10)
    rest[3] = <char>(c"0" + ms % 10)
    put(out, rest, 4)


cdef void put_plain(Writer* out, const char* data, uint32_t size) noexcept nogil:
    # nginx's escaping: \xHH for what is not printable ASCII, for '"' and for '\'.
    cdef:
        uint32_t at = 0, run = 0
        char code[4]
    while at < size:
        if likely(PLAIN_TEXT[<uint8_t>data[at]]):
            at += 1
            continue
        put(out, data + run, at - run)
        code[0] = c"\\"
        code[1] = c"x"
        code[2] = HEX[<uint8_t>data[at] >> 4]
        code[3] = HEX[<uint8_t>data[at] & 15]
        put(out, code, 4)
        at += 1
        run = at
    put(out, data + run, at - run)


cdef uint32_t character_size(const uint8_t* data, uint32_t size) noexcept nogil:
    # Bytes of the UTF-8 character that begins here, as RFC 3629 has it, if it may stand in a log: no C1 control. 0: none does.
    cdef uint8_t first = data[0]
    if size >= 2 and 0xC2 <= first <= 0xDF and data[1] & 0xC0 == 0x80:
        return 0 if first == 0xC2 and data[1] < 0xA0 else 2
    if size >= 3 and first & 0xF0 == 0xE0 and data[1] & 0xC0 == 0x80 and data[2] & 0xC0 == 0x80:
        if (first == 0xE0 and data[1] < 0xA0) or (first == 0xED and data[1] >= 0xA0):
            return 0                            # overlong; a surrogate
        return 3
    if size >= 4 and 0xF0 <= first <= 0xF4 and data[1] & 0xC0 == 0x80 and data[2] & 0xC0 == 0x80 and data[3] & 0xC0 == 0x80:
        if (first == 0xF0 and data[1] < 0x90) or (first == 0xF4 and data[1] >= 0x90):
            return 0
        return 4
    return 0


cdef void put_json(Writer* out, const char* data, uint32_t size) noexcept nogil:
    # The inside of a JSON string (RFC 8259). A byte that is no UTF-8 stands for the Latin-1 character of that number.
    cdef:
        uint32_t at = 0, run = 0, length
        char code[6]
    while at < size:
        if likely(PLAIN_JSON[<uint8_t>data[at]]):
            at += 1
            continue
        if <uint8_t>data[at] >= 0x80:
            length = character_size(<const uint8_t*>data + at, size - at)
            if length:
                at += length
                continue
        put(out, data + run, at - run)
        code[0] = c"\\"
        if <uint8_t>data[at] == 0xC2 and at + 1 < size and data[at + 1] & 0xC0 == 0x80:
            at += 1                             # a C1 control: its number is its second byte
        if data[at] == c'"' or data[at] == c"\\":
            code[1] = data[at]
            put(out, code, 2)
        else:
            memcpy(code + 1, b"u00", 3)
            code[4] = HEX[<uint8_t>data[at] >> 4]
            code[5] = HEX[<uint8_t>data[at] & 15]
            put(out, code, 6)
        at += 1
        run = at
    put(out, data + run, at - run)


cdef void put_escaped(Writer* out, const char* data, uint32_t size, uint32_t escape, uint32_t cut) noexcept nogil:
    cdef uint32_t kept = size if size <= cut else cut
    if escape == ESCAPE_TEXT:
        put_plain(out, data, kept)
    elif escape == ESCAPE_NONE:
        put(out, data, kept)
    else:
        put_json(out, data, kept)
    if kept < size:
        put(out, b"...", 3)


cdef void put_absent(Writer* out, uint32_t escape) noexcept nogil:
    if escape == ESCAPE_JSON:
        put(out, b"null", 4)
    elif escape != ESCAPE_JSON_TEXT:
        put(out, b"-", 1)


cdef void put_status(Writer* out, uint64_t status) noexcept nogil:
    cdef char digits[3]
    digits[0] = <char>(c"0" + status // 100 % 10)
    digits[1] = <char>(c"0" + status // 10 % 10)
    digits[2] = <char>(c"0" + status % 10)
    put(out, digits, 3)


cdef void put_tries(LogRecord* record, uint32_t field, uint32_t escape, uint32_t cut, Writer* out) noexcept nogil:
    # Addresses or statuses of all attempts, joined by ", " as nginx does.
    cdef:
        uint32_t i, n = record.n_tries if record.n_tries <= MAX_LOG_TRIES else MAX_LOG_TRIES
        LogTry* entry
    if n == 0:
        put_absent(out, escape)
        return
    if escape == ESCAPE_JSON:
        put(out, b'"', 1)
    for i in range(n):
        entry = &record.tries[i]
        if i:
            put(out, b", ", 2)
        if field == LOG_BACKEND_STATUSES:
            if entry.status:
                put_status(out, entry.status)
            else:
                put(out, b"-", 1)
        elif entry.backend.size != LOG_ABSENT and entry.backend.size:
            put_escaped(out, record.values.data + entry.backend.offset, entry.backend.size, escape, cut)
    if escape == ESCAPE_JSON:
        put(out, b'"', 1)


cdef void two_digits(char* at, int value) noexcept nogil:
    at[0] = <char>(c"0" + value // 10 % 10)
    at[1] = <char>(c"0" + value % 10)


cdef void read_clock(Engine* engine) noexcept nogil:
    # The texts of the present second, made once in it.
    cdef:
        AccessLog* log = engine.log
        uint64_t now_s = (engine.now_ms + engine.wall_offset_ms) // 1000
        time_t when = <time_t>now_s
        tm parts
        char* text
        long offset
    if likely(log.clock_s == now_s and log.time_utc[0] != 0):
        return
    log.clock_s = now_s
    gmtime_r(&when, &parts)
    text = log.time_utc
    memcpy(text, b"2000-01-01T00:00:00", 20)
    two_digits(text, (parts.tm_year + 1900) // 100)
    two_digits(text + 2, parts.tm_year % 100)
    two_digits(text + 5, parts.tm_mon + 1)
    two_digits(text + 8, parts.tm_mday)
    two_digits(text + 11, parts.tm_hour)
    two_digits(text + 14, parts.tm_min)
    two_digits(text + 17, parts.tm_sec)
    localtime_r(&when, &parts)
    text = log.time_local
    memcpy(text, b"01/Jan/2000:00:00:00 +0000", 27)
    two_digits(text, parts.tm_mday)
    memcpy(text + 3, MONTHS + 3 * parts.tm_mon, 3)
    two_digits(text + 7, (parts.tm_year + 1900) // 100)
    two_digits(text + 9, parts.tm_year % 100)
    two_digits(text + 12, parts.tm_hour)
    two_digits(text + 15, parts.tm_min)
    two_digits(text + 18, parts.tm_sec)
    offset = parts.tm_gmtoff // 60
    if offset < 0:
        text[21] = c"-"
        offset = -offset
    two_digits(text + 22, <int>(offset // 60))
    two_digits(text + 24, <int>(offset % 60))
    text = log.time_syslog
    memcpy(text, b"Jan  1 00:00:00", 16)
    memcpy(text, MONTHS + 3 * parts.tm_mon, 3)
    two_digits(text + 4, parts.tm_mday)
    if parts.tm_mday < 10:
        text[4] = c" "
    two_digits(text + 7, parts.tm_hour)
    two_digits(text + 10, parts.tm_min)
    two_digits(text + 13, parts.tm_sec)


cdef void put_time(Engine* engine, uint32_t field, Writer* out) noexcept nogil:
    cdef:
        uint64_t now_ms = engine.now_ms + engine.wall_offset_ms
        uint32_t ms = <uint32_t>(now_ms % 1000)
        char rest[5]
    read_clock(engine)
    if field == LOG_TIME_LOCAL:
        put(out, engine.log.time_local, 26)
    elif field == LOG_TIME_SYSLOG:
        put(out, engine.log.time_syslog, 15)
    elif field == LOG_TIME_SECONDS:
        put_seconds(out, now_ms)
    else:
        put(out, engine.log.time_utc, 19)
        rest[0] = c"."
        rest[1] = <char>(c"0" + ms // 100)
        rest[2] = <char>(c"0" + ms // 10 % 10)
        rest[3] = <char>(c"0" + ms % 10)
        rest[4] = c"Z"
        put(out, rest, 5)


cdef void put_field(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLogOperation* operation, uint32_t cut,
                    Writer* out) noexcept nogil:
    cdef:
        const char* data = NULL
        uint32_t size = 0, field = operation.field, escape = operation.escape
        uint64_t number = 0
        bint quoted = escape == ESCAPE_JSON
    if field == LOG_LITERAL:
        put(out, record.plan.data + operation.argument, operation.size)
    elif field < LOG_TEXTS_END:
        if not read_text(engine, exchange, record, field, operation.argument, &data, &size):
            put_absent(out, escape)
            return
        if quoted:
            put(out, b'"', 1)
        put_escaped(out, data, size, escape, cut)
        if quoted:
            put(out, b'"', 1)
    elif field < LOG_NUMBERS_END:
        if not read_number(engine, exchange, record, field, &number):
            put_absent(out, escape)
        elif quoted and (field == LOG_KEEP_ALIVE or field == LOG_TUNNEL):
            put(out, b"true" if number else b"false", 4 if number else 5)
        elif field == LOG_STATUS and not quoted:
            put_status(out, number)
        else:
            put_number(out, number)
    elif field == LOG_DURATION:
        put_seconds(out, engine.now_ms - record.started_ms)
    elif field == LOG_BACKENDS or field == LOG_BACKEND_STATUSES:
        put_tries(record, field, escape, cut, out)
    else:
        quoted = quoted and field != LOG_TIME_SECONDS
        if quoted:
            put(out, b'"', 1)
        put_time(engine, field, out)
        if quoted:
            put(out, b'"', 1)


cdef uint32_t format_line(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLog* log, char* line, uint32_t room) noexcept nogil:
    # The line with its newline. 0: it does not fit even with its values cut to nothing.
    cdef:
        const ImageLogOperation* first = <const ImageLogOperation*>(record.plan.data + record.plan.header.operations.offset) \
            + log.operations.offset
        const ImageLogOperation* operation
        Writer out
        uint32_t step, _i
    for step in range(CUT_STEPS):
        out.at = line
        out.end = line + room
        out.overflow = False
        operation = first
        for _i in range(log.operations.count):
            put_field(engine, exchange, record, operation, CUTS[step], &out)
            operation += 1
        put(&out, b"\n", 1)
        if likely(not out.overflow):
            return <uint32_t>(out.at - line)
    return 0


cdef void write_log(Engine* engine, Exchange* exchange) noexcept nogil:
    # The exchange ends: its line in every log that wants it. Uses up its record.
    cdef:
        LogRecord* record = exchange.log
        AccessLog* state = engine.log
        const ImageLog* log = <const ImageLog*>(record.plan.data + record.plan.header.logs.offset) + record.set.logs.offset
        const ImageLogDestination* destinations = <const ImageLogDestination*>(record.plan.data + record.plan.header.destinations.offset)
        uint32_t _i, size, room
    exchange.log = NULL
    for _i in range(record.set.logs.count):
        if record.draw < log.sample and condition_holds(engine, exchange, record, log):
            room = LOG_LINE_BYTES
            if destinations[log.destination].kind == LOG_TO_STREAM:
                room = LOG_STREAM_LINE_BYTES
            elif destinations[log.destination].kind == LOG_TO_DATAGRAMS:
                room = LOG_DATAGRAM_LINE_BYTES
            size = format_line(engine, exchange, record, log, state.line, room)
            if unlikely(size == 0 or not put_line(state.writer, record.plan.slots[log.destination], state.line, size)):
                engine.counters.log_lines_dropped += 1
        log += 1
    drop_log_record(engine, record)


# ---------------------------------------------------------------------------------------------------------- the engine
cdef void read_log_counters(Engine* engine) noexcept nogil:
    # The thread counts for itself, so that it never needs the engine.
    add_counts(engine, get64(&engine.log.writer.lines_written), get64(&engine.log.writer.lines_lost),
               get64(&engine.log.writer.bytes_written))


cdef void add_counts(Engine* engine, uint64_t lines_written, uint64_t lines_lost, uint64_t bytes_written) noexcept nogil:
    # What the thread has counted since the last time: the engine's counters may be older than this thread.
    cdef AccessLog* log = engine.log
    engine.counters.log_lines_written += lines_written - log.lines_written
    engine.counters.log_lines_lost += lines_lost - log.lines_lost
    engine.counters.log_bytes_written += bytes_written - log.bytes_written
    log.lines_written = lines_written
    log.lines_lost = lines_lost
    log.bytes_written = bytes_written


cdef void end_log_batch(Engine* engine) noexcept nogil:
    # The thread learns of the batch's lines.
    wake_log_writer(engine.log.writer)


cdef void close_log(Engine* engine) noexcept nogil:
    # When every exchange has ended and every plan is gone: writes what is in the ring, within a second, and ends the thread.
    cdef:
        AccessLog* log = engine.log
        LogRecord* record
        uint64_t lines_written = 0, lines_lost = 0, bytes_written = 0
    if log == NULL:
        return
    log_writer_close(log.writer, CLOSE_PATIENCE_MS, &lines_written, &lines_lost, &bytes_written)
    log.writer = NULL
    add_counts(engine, lines_written, lines_lost, bytes_written)
    engine.log = NULL
    while log.free_records != NULL:
        record = log.free_records
        log.free_records = record.next
        free(record)
    free(log.line)
    free(log)
