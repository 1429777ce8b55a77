"""The chunked transfer coding (RFC 9112 section 7.1): a decoder that works in place, and the header a chunk is sent with.

Chunks are taken off and put on again, never passed through: no chunk extension and no odd spelling of a size reaches the
other side, so that both sides see the same body. The decoder keeps its place in a ChunkDecoder; input may be cut anywhere.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.http1_head cimport parse_trailers
from fastlb.data_plane.system cimport memchr, memmove
from fastlb.data_plane.target cimport hex_value
from fastlb.data_plane.types cimport (CHUNK_BAD, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF, CHUNK_DONE, CHUNK_END_LF, CHUNK_EXTENSION,
                                      CHUNK_EXTENSION_ESCAPED, CHUNK_EXTENSION_QUOTED, CHUNK_SIZE, CHUNK_SIZE_LF, CHUNK_SIZE_START,
                                      CHUNK_TRAILER, CHUNK_TRAILER_START, MAX_TRAILER_BYTES, BufferPool, ChunkDecoder, Head)

cdef enum:
    MAX_SIZE_DIGITS = 15            # 2**60 bytes in a chunk are enough, and no sum overflows
    MAX_EXTENSION_BYTES = 16384     # over a whole body: an endless stream of extensions is an attack (CVE-2023-39326)

cdef const char* HEX_DIGITS = b"0123456789abcdef"


cdef void chunk_decoder_open(ChunkDecoder* decoder) noexcept nogil:
    decoder.remaining = 0
    decoder.extension_bytes = 0
    decoder.state = CHUNK_SIZE_START
    decoder.digits = 0
    decoder.trailers = NULL


cdef void chunk_decoder_close(ChunkDecoder* decoder, BufferPool* buffers) noexcept nogil:
    return_buffer(buffers, decoder.trailers)
    decoder.trailers = NULL


cdef inline bint extension_char(char byte) noexcept nogil:
    # Names, values, "=", ";" and the white space RFC 9112 tolerates around them. Never a control character.
    return byte == c"\t" or <uint8_t>byte >= 0x20 and <uint8_t>byte != 0x7F


cdef uint32_t decode_chunked(ChunkDecoder* decoder, BufferPool* buffers, char* data, uint32_t size,
                             char** run, uint32_t* run_size) noexcept nogil:
    # Decodes as much of `data` as belongs to this body and says how many bytes that was: all of them, or fewer once
    # decoder.state is CHUNK_DONE or CHUNK_BAD. The data of all chunks in it is moved together: *run, *run_size, inside `data`.
    # After CHUNK_DONE decoder.trailers holds the trailer section (checked) with its empty line, or is NULL.
    cdef:
        uint32_t at = 0, out = 0, take
        int digit
        char byte
        char* gathered = NULL
    run[0] = data
    run_size[0] = 0
    while at < size:
        if decoder.state == CHUNK_DATA:
            take = size - at
            if take > decoder.remaining:
                take = <uint32_t>decoder.remaining
            if gathered == NULL:
                gathered = data + at            # the first run stays where it is
            else:
                memmove(gathered + out, data + at, take)
            out += take
            at += take
            decoder.remaining -= take
            if decoder.remaining == 0:
                decoder.state = CHUNK_DATA_CR
            continue
        byte = data[at]
        at += 1
        if decoder.state == CHUNK_SIZE_START or decoder.state == CHUNK_SIZE:
            digit = hex_value(byte)
            if digit >= 0:
                if decoder.state == CHUNK_SIZE_START:
                    decoder.remaining = 0
                    decoder.digits = 0
                    decoder.state = CHUNK_SIZE
                decoder.digits += 1
                if decoder.digits > MAX_SIZE_DIGITS:
                    decoder.state = CHUNK_BAD
                    break
                decoder.remaining = decoder.remaining << 4 | <uint64_t>digit
            elif decoder.state == CHUNK_SIZE_START:
                decoder.state = CHUNK_BAD
                break
            elif byte == c"\r":
                decoder.state = CHUNK_SIZE_LF
            elif byte == c";":
                decoder.state = CHUNK_EXTENSION
            else:
                decoder.state = CHUNK_BAD
                break
        elif CHUNK_EXTENSION <= decoder.state <= CHUNK_EXTENSION_ESCAPED:
            decoder.extension_bytes += 1
            if decoder.extension_bytes > MAX_EXTENSION_BYTES:
                decoder.state = CHUNK_BAD
                break
            if byte == c"\r" and decoder.state == CHUNK_EXTENSION:
                decoder.state = CHUNK_SIZE_LF
            elif not extension_char(byte):
                decoder.state = CHUNK_BAD
                break
            elif decoder.state == CHUNK_EXTENSION_ESCAPED:
                decoder.state = CHUNK_EXTENSION_QUOTED
            elif byte == c'"':
                decoder.state = CHUNK_EXTENSION_QUOTED if decoder.state == CHUNK_EXTENSION else CHUNK_EXTENSION
            elif byte == c"\\" and decoder.state == CHUNK_EXTENSION_QUOTED:
                decoder.state = CHUNK_EXTENSION_ESCAPED
        elif decoder.state == CHUNK_SIZE_LF:
            if byte != c"\n":
                decoder.state = CHUNK_BAD
                break
            decoder.state = CHUNK_DATA if decoder.remaining else CHUNK_TRAILER_START
        elif decoder.state == CHUNK_DATA_CR:
            if byte != c"\r":
                decoder.state = CHUNK_BAD
                break
            decoder.state = CHUNK_DATA_LF
        elif decoder.state == CHUNK_DATA_LF:
            if byte != c"\n":
                decoder.state = CHUNK_BAD
                break
            decoder.state = CHUNK_SIZE_START
        elif decoder.state == CHUNK_TRAILER_START and byte == c"\r" and decoder.trailers == NULL:
            decoder.state = CHUNK_END_LF        # the usual end: no trailer section
        elif decoder.state == CHUNK_END_LF:
            decoder.state = CHUNK_DONE if byte == c"\n" else CHUNK_BAD
            break
        else:
            at -= 1
            if not take_trailer_bytes(decoder, buffers, data, size, &at):
                decoder.state = CHUNK_BAD
            if decoder.state == CHUNK_DONE or decoder.state == CHUNK_BAD:
                break
    if gathered != NULL:
        run[0] = gathered
        run_size[0] = out
    return at


cdef bint take_trailer_bytes(ChunkDecoder* decoder, BufferPool* buffers, char* data, uint32_t size, uint32_t* at) noexcept nogil:
    # Gathers trailer lines up to the empty one, a line (or the piece of one that is here) a call. False: too long, malformed,
    # or out of memory.
    cdef:
        const char* line_feed = <const char*>memchr(data + at[0], c"\n", size - at[0])
        uint32_t end = size if line_feed == NULL else <uint32_t>(line_feed - data) + 1
        uint32_t held = decoder.trailers.end if decoder.trailers != NULL else 0
        uint32_t total
        const char* text
        Head checked
    if held + end - at[0] > MAX_TRAILER_BYTES or not append_bytes(buffers, &decoder.trailers, data + at[0], end - at[0]):
        return False
    at[0] = end
    if line_feed == NULL:
        decoder.state = CHUNK_TRAILER
        return True
    text = decoder.trailers.data
    total = decoder.trailers.end
    decoder.state = CHUNK_TRAILER_START
    if total < 2 or text[total - 2] != c"\r":
        return False                            # a bare LF
    if total == 2 or text[total - 3] == c"\n":
        if parse_trailers(&checked, text, total) != <int>total:
            return False
        decoder.state = CHUNK_DONE
    return True


cdef uint32_t write_chunk_header(char* out, uint32_t size) noexcept nogil:
    # "SIZE\r\n" in lower-case hexadecimal; at most 10 bytes.
    cdef:
        uint32_t digits = 1, i
        uint32_t rest = size >> 4
    while rest:
        digits += 1
        rest >>= 4
    for i in range(digits):
        out[digits - 1 - i] = HEX_DIGITS[size & 15]
        size >>= 4
    out[digits] = c"\r"
    out[digits + 1] = c"\n"
    return digits + 2
