from libc.stdint cimport int32_t

from fastlb.data_plane.types cimport PickContext

cdef int32_t pick_last(const PickContext* context) noexcept nogil       # in __pyx_capi__, as functions that modules share
