# Heads of the frames that come, read beside nghttp2, which passes over some without a word to anybody: DATA of streams that it has forgotten, frames of
# kinds that it does not know, and what PRIORITY says. DATA on a stream that its client has ended or left out ends the connection (RFC 9113 section
# 5.1). What remains is counted when nghttp2 has read the bytes (http2.pyx): whatever was not shown to us, was passed over.
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.http2_numbers cimport NUMBER_FITS, NUMBER_SKIPPED, take_number
from fastlb.data_plane.nghttp2 cimport (NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, NGHTTP2_HEADERS, NGHTTP2_PRIORITY,
                                        NGHTTP2_PROTOCOL_ERROR, NGHTTP2_RST_STREAM, NGHTTP2_STREAM_CLOSED)
from fastlb.data_plane.system cimport likely, unlikely
from fastlb.data_plane.types cimport HTTP2_HEAD_BYTES, KIND_CLIENT, Http2Session

cdef enum:
    FRAME_HEAD_BYTES = 9
    PREFACE_BYTES = 24              # that a client begins with


cdef inline uint32_t frame_bytes(const uint8_t* head) noexcept nogil:
    return <uint32_t>head[0] << 16 | <uint32_t>head[1] << 8 | head[2]


cdef inline uint32_t stream_number(const uint8_t* data) noexcept nogil:
    return (<uint32_t>data[0] << 24 | <uint32_t>data[1] << 16 | <uint32_t>data[2] << 8 | data[3]) & 0x7fffffff


cdef inline bint is_priority(const uint8_t* head) noexcept nogil:
    # Whether the number of the stream that it depends on counts as part of its head.
    return head[3] == NGHTTP2_PRIORITY and frame_bytes(head) == 5


cdef inline uint32_t judge_frame(Http2Session* session, const uint8_t* head) noexcept nogil:
    # Notes a frame of a client that comes. 0, or the error that it is.
    cdef:
        uint8_t type = head[3]
        uint32_t id = stream_number(head + 5), verdict
        bint opens = type == NGHTTP2_HEADERS, resets = type == NGHTTP2_RST_STREAM
    if type == NGHTTP2_PRIORITY:
        # RFC 9113 section 6.3, RFC 7540 section 5.3.1
        return NGHTTP2_PROTOCOL_ERROR if id == 0 or (is_priority(head) and stream_number(head + FRAME_HEAD_BYTES) == id) else 0
    if not opens and not resets and type != NGHTTP2_DATA:
        return 0
    verdict = take_number(&session.numbers, id, opens, resets or head[4] & NGHTTP2_FLAG_END_STREAM)
    if likely(verdict == NUMBER_FITS) or resets:
        return 0
    return NGHTTP2_PROTOCOL_ERROR if opens and verdict == NUMBER_SKIPPED else NGHTTP2_STREAM_CLOSED


cdef inline void note_frame(Http2Session* session, const uint8_t* head) noexcept nogil:
    # What nghttp2 may keep to itself.
    if head[3] == NGHTTP2_DATA:
        session.unseen_bytes += frame_bytes(head)
        session.unseen_frames += frame_bytes(head) == 0
    elif unlikely(head[3] > NGHTTP2_CONTINUATION):
        session.unseen_frames += 1
    if session.connection.kind == KIND_CLIENT:
        session.broken = judge_frame(session, head)


cdef inline uint32_t walk_frames(Http2Session* session, const uint8_t* data, uint32_t size) noexcept nogil:
    # Up to where nghttp2 may read: all of it, or to the first frame that may not come (session.broken).
    cdef:
        uint32_t at = 0, begin = 0, n
        const uint8_t* head
    while size - at > session.frame_left:
        at += session.frame_left
        session.frame_left = 0
        if likely(session.n_head == 0 and size - at >= HTTP2_HEAD_BYTES):
            begin = at
            head = data + at
            n = HTTP2_HEAD_BYTES if is_priority(head) else FRAME_HEAD_BYTES
            at += n
        else:
            if session.n_head == 0:
                begin = at
            session.head[session.n_head] = data[at]
            session.n_head += 1
            at += 1
            n = session.n_head
            if n < FRAME_HEAD_BYTES or (n < HTTP2_HEAD_BYTES and is_priority(session.head)):
                continue
            session.n_head = 0
            head = session.head
        session.frame_left = frame_bytes(head) + FRAME_HEAD_BYTES - n
        note_frame(session, head)
        if unlikely(session.broken != 0):
            return begin                        # 0 where it began earlier: nghttp2 waits for the rest of its head
    session.frame_left -= size - at
    return size
