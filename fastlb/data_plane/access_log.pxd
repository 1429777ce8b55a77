from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport (Attempt, Buffer, Connection, Engine, Exchange, Head, ImageLog, Listener, LogPlan, LogRecord, Snapshot)

# The plan: what a snapshot says about logging.
cdef bint check_log_plan(const char* data, size_t size) noexcept nogil
cdef LogPlan* load_log_plan(const char* data) noexcept nogil
cdef void drop_log_plan(Engine* engine, LogPlan* plan) noexcept nogil
cdef int prepare_log(Engine* engine, LogPlan* plan) noexcept nogil
cdef int set_log(Engine* engine, uint32_t destination, int fd) noexcept nogil
cdef void set_listener_log(Engine* engine, Listener* listener, const Snapshot* snapshot, uint32_t index) noexcept nogil
cdef void drop_listener_log(Engine* engine, Listener* listener) noexcept nogil

# One exchange. All but open_log are called only where Exchange.log is not NULL.
cdef void open_log(Engine* engine, Exchange* exchange) noexcept nogil
cdef void log_request_head(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil
cdef void log_partial_head(Engine* engine, Exchange* exchange, const char* data, uint32_t size) noexcept nogil
cdef void log_session(Engine* engine, Exchange* exchange) noexcept nogil
cdef void log_server_name(Engine* engine, Exchange* exchange, const char* name, uint32_t size) noexcept nogil
cdef void log_pool(Engine* engine, Exchange* exchange) noexcept nogil
cdef void log_attempt(Engine* engine, Exchange* exchange) noexcept nogil
cdef void log_connected(Engine* engine, Exchange* exchange) noexcept nogil
cdef void log_answer(Engine* engine, Exchange* exchange, uint32_t status) noexcept nogil
cdef void log_response_head(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil
cdef void log_trailers(Exchange* exchange, const Buffer* trailers) noexcept nogil
cdef void log_attempt_end(Engine* engine, Exchange* exchange) noexcept nogil
cdef void write_log(Engine* engine, Exchange* exchange) noexcept nogil
cdef uint32_t format_line(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLog* log, char* line, uint32_t room) noexcept nogil
cdef bint condition_holds(Engine* engine, Exchange* exchange, LogRecord* record, const ImageLog* log) noexcept nogil
cdef void drop_log_record(Engine* engine, LogRecord* record) noexcept nogil

# The engine.
cdef void end_log_batch(Engine* engine) noexcept nogil
cdef void close_log(Engine* engine) noexcept nogil
cdef void read_log_counters(Engine* engine) noexcept nogil
