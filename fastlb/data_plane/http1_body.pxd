from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport BufferPool, ChunkDecoder

cdef void chunk_decoder_open(ChunkDecoder* decoder) noexcept nogil
cdef void chunk_decoder_close(ChunkDecoder* decoder, BufferPool* buffers) noexcept nogil
cdef uint32_t decode_chunked(ChunkDecoder* decoder, BufferPool* buffers, char* data, uint32_t size,
                             char** run, uint32_t* run_size) noexcept nogil
cdef uint32_t write_chunk_header(char* out, uint32_t size) noexcept nogil
