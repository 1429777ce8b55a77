"""The one door to selection, for layer 7 and layer 4: it sees a pool and what was tried, never a protocol.

A new algorithm is a new file here, one value of `Algorithm`, one branch below.
"""
from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.types cimport ALGORITHM_ROUND_ROBIN, Pool


cdef inline int32_t pick(Pool* pool, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Index into pool.backends, or NO_BACKEND. Claims nothing: see backend_table.claim.
    if pool.algorithm == ALGORITHM_ROUND_ROBIN:
        return pick_round_robin(pool, tried, n_tried)
    return pick_weighted_least_connections(pool, tried, n_tried)
