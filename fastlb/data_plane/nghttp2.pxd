"""The part of nghttp2 that HTTP/2 uses. Its functions are called in http2.pyx and in no other module: the library is linked into that one alone."""
from libc.stdint cimport int32_t, uint8_t, uint32_t


cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_option:
        pass
    ctypedef struct nghttp2_priority_spec:
        pass
    ctypedef struct nghttp2_nv:
        uint8_t* name
        uint8_t* value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_headers:
        int cat
    ctypedef struct nghttp2_rst_stream:
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        uint32_t error_code
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
    ctypedef union nghttp2_data_source:
        void* ptr
    ctypedef ssize_t (*nghttp2_data_source_read_callback)(nghttp2_session* session, int32_t stream_id, uint8_t* buf, size_t length,
                                                          uint32_t* data_flags, nghttp2_data_source* source, void* user_data) noexcept nogil
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback
    ctypedef struct nghttp2_extpri:
        uint32_t urgency
        int inc
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value

    int NGHTTP2_DATA, NGHTTP2_HEADERS, NGHTTP2_PRIORITY, NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS, NGHTTP2_PING, NGHTTP2_GOAWAY, NGHTTP2_WINDOW_UPDATE
    int NGHTTP2_CONTINUATION
    int NGHTTP2_FLAG_NONE, NGHTTP2_FLAG_END_STREAM, NGHTTP2_FLAG_END_HEADERS, NGHTTP2_FLAG_ACK
    uint32_t NGHTTP2_EXTPRI_DEFAULT_URGENCY
    int NGHTTP2_HCAT_REQUEST
    uint32_t NGHTTP2_DATA_FLAG_EOF, NGHTTP2_DATA_FLAG_NO_END_STREAM, NGHTTP2_DATA_FLAG_NO_COPY
    uint32_t NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_FLOW_CONTROL_ERROR, NGHTTP2_STREAM_CLOSED
    uint32_t NGHTTP2_FRAME_SIZE_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM
    int NGHTTP2_ERR_WOULDBLOCK, NGHTTP2_ERR_DEFERRED, NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_FLOODED
    int NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    int NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, NGHTTP2_SETTINGS_ENABLE_PUSH

    int nghttp2_session_change_extpri_stream_priority(nghttp2_session* session, int32_t stream_id, const nghttp2_extpri* priority,
                                                      int ignore_client_signal)
    int nghttp2_session_callbacks_new(nghttp2_session_callbacks** callbacks)
    void nghttp2_session_callbacks_set_on_begin_headers_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_header_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t,
                                                          uint8_t, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_begin_frame_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, const nghttp2_frame_hd*, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_stream_close_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, int32_t, uint32_t, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_on_frame_send_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil)
    void nghttp2_session_callbacks_set_send_data_callback(
        nghttp2_session_callbacks* callbacks, int (*call)(nghttp2_session*, nghttp2_frame*, const uint8_t*, size_t, nghttp2_data_source*,
                                                          void*) noexcept nogil)
    void nghttp2_session_callbacks_set_data_source_read_length_callback(
        nghttp2_session_callbacks* callbacks, ssize_t (*call)(nghttp2_session*, uint8_t, int32_t, int32_t, int32_t, uint32_t, void*) noexcept nogil)

    int nghttp2_option_new(nghttp2_option** option)
    void nghttp2_option_set_no_auto_window_update(nghttp2_option* option, int value)
    void nghttp2_option_set_no_http_messaging(nghttp2_option* option, int value)
    void nghttp2_option_set_no_closed_streams(nghttp2_option* option, int value)
    void nghttp2_option_set_max_outbound_ack(nghttp2_option* option, size_t value)
    void nghttp2_option_set_max_send_header_block_length(nghttp2_option* option, size_t value)

    int nghttp2_session_server_new2(nghttp2_session** session, const nghttp2_session_callbacks* callbacks, void* user_data,
                                    const nghttp2_option* option)
    int nghttp2_session_client_new2(nghttp2_session** session, const nghttp2_session_callbacks* callbacks, void* user_data,
                                    const nghttp2_option* option)
    void nghttp2_session_del(nghttp2_session* session)
    ssize_t nghttp2_session_mem_recv(nghttp2_session* session, const uint8_t* data, size_t size)
    ssize_t nghttp2_session_mem_send(nghttp2_session* session, const uint8_t** data)
    int nghttp2_session_want_read(nghttp2_session* session)
    int nghttp2_session_want_write(nghttp2_session* session)
    int nghttp2_session_consume(nghttp2_session* session, int32_t stream_id, size_t size)
    uint32_t nghttp2_session_get_remote_settings(nghttp2_session* session, int id)
    int nghttp2_session_resume_data(nghttp2_session* session, int32_t stream_id)
    void* nghttp2_session_get_stream_user_data(nghttp2_session* session, int32_t stream_id)
    int nghttp2_session_set_stream_user_data(nghttp2_session* session, int32_t stream_id, void* data)
    int nghttp2_session_set_local_window_size(nghttp2_session* session, uint8_t flags, int32_t stream_id, int32_t size)
    int nghttp2_session_terminate_session(nghttp2_session* session, uint32_t error_code)
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session* session)
    int nghttp2_submit_settings(nghttp2_session* session, uint8_t flags, const nghttp2_settings_entry* entries, size_t n)
    int32_t nghttp2_submit_request(nghttp2_session* session, const nghttp2_priority_spec* priority, const nghttp2_nv* fields, size_t n,
                                   const nghttp2_data_provider* provider, void* stream_user_data)
    int nghttp2_submit_response(nghttp2_session* session, int32_t stream_id, const nghttp2_nv* fields, size_t n,
                                const nghttp2_data_provider* provider)
    int32_t nghttp2_submit_headers(nghttp2_session* session, uint8_t flags, int32_t stream_id, const nghttp2_priority_spec* priority,
                                   const nghttp2_nv* fields, size_t n, void* stream_user_data)
    int nghttp2_submit_trailer(nghttp2_session* session, int32_t stream_id, const nghttp2_nv* fields, size_t n)
    int nghttp2_submit_rst_stream(nghttp2_session* session, uint8_t flags, int32_t stream_id, uint32_t error_code)
    int nghttp2_submit_goaway(nghttp2_session* session, uint8_t flags, int32_t last_stream_id, uint32_t error_code, const uint8_t* data,
                              size_t size)
    int nghttp2_submit_ping(nghttp2_session* session, uint8_t flags, const uint8_t* data)
    int nghttp2_submit_shutdown_notice(nghttp2_session* session)
