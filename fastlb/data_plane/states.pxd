from libc.stdint cimport uint64_t

from fastlb.data_plane.system cimport load_long, unlikely
from fastlb.data_plane.types cimport Engine

cdef enum:
    NEVER_LOOKED = 0xFFFFFFFFFFFFFFFF

cdef void watch_states(Engine* engine) noexcept nogil
cdef void look_at_states(Engine* engine) noexcept nogil


cdef inline void note_states(Engine* engine) noexcept nogil:
    # At the end of each batch.
    if unlikely(engine.watches_states) and engine.states_seen != load_long(&engine.shared.header.state_changes):
        look_at_states(engine)
