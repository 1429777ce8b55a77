"""Chunked bodies. Input: one byte the size of the pieces, then the coded body.

Promises: any cutting gives the same body, the same end and the same verdict; no more bytes come out than went in.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastlb.data_plane.buffer cimport buffer_pool_close, buffer_pool_open
from fastlb.data_plane.http1_body cimport chunk_decoder_close, chunk_decoder_open, decode_chunked
from fastlb.data_plane.http1_head cimport parse_trailers
from fastlb.data_plane.types cimport CHUNK_BAD, CHUNK_DONE, MAX_TRAILER_BYTES, BufferPool, ChunkDecoder, Head
from tests.fuzz.expect cimport exact_copy, expect


cdef struct Result:
    char* body                          # owned by whoever decoded
    uint32_t size
    uint32_t consumed
    uint8_t state


cdef void decode(Result* result, const uint8_t* data, uint32_t size, uint32_t piece) noexcept nogil:
    cdef:
        ChunkDecoder decoder
        Head trailers
        BufferPool buffers
        uint32_t at = 0, take, used, run_size = 0
        char* text
        char* run = NULL
    result.body = <char*>malloc(size if size else 1)
    result.size = 0
    buffer_pool_open(&buffers)
    chunk_decoder_open(&decoder)
    while at < size and decoder.state != CHUNK_DONE and decoder.state != CHUNK_BAD:
        take = size - at if size - at < piece else piece
        text = exact_copy(data + at, take)
        used = decode_chunked(&decoder, &buffers, text, take, &run, &run_size)
        expect(used <= take, b"no more is used than was given")
        expect(used == take or decoder.state == CHUNK_DONE or decoder.state == CHUNK_BAD, b"all is used until the end")
        expect(run >= text and run + run_size <= text + take, b"the data is inside the piece")
        expect(result.size + run_size <= size, b"no more comes out than went in")
        memcpy(result.body + result.size, run, run_size)
        result.size += run_size
        at += used
        free(text)
    if decoder.state == CHUNK_DONE and decoder.trailers != NULL:
        expect(decoder.trailers.start == 0 and decoder.trailers.end <= MAX_TRAILER_BYTES, b"a trailer section is bounded")
        expect(parse_trailers(&trailers, decoder.trailers.data, decoder.trailers.end) == <int>decoder.trailers.end,
               b"a trailer section that is kept is whole and well-formed")
    result.consumed = at
    result.state = decoder.state
    chunk_decoder_close(&decoder, &buffers)
    expect(buffers.taken == buffers.returned, b"every buffer is returned")
    buffer_pool_close(&buffers)


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef Result whole, pieces
    if size < 2 or size > 0x40000:
        return 0
    decode(&whole, data + 1, <uint32_t>size - 1, <uint32_t>size)
    decode(&pieces, data + 1, <uint32_t>size - 1, data[0] % 23 + 1)
    expect(whole.state == pieces.state, b"the verdict does not depend on the cutting")
    expect(whole.state != CHUNK_BAD or whole.consumed <= size, b"a refusal is in the input")
    if whole.state != CHUNK_BAD:
        expect(whole.consumed == pieces.consumed, b"nor does the end of the body")
        expect(whole.size == pieces.size and memcmp(whole.body, pieces.body, whole.size) == 0, b"nor does the body")
    free(whole.body)
    free(pieces.body)
    return 0


address = <size_t><void*>fuzz_one
