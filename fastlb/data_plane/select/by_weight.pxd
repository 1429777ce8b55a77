"""From a number below the sum of a group's weights to the backend that it falls to: weights lie one behind the other, as in nginx's lists."""
from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Group


cdef inline uint32_t find_by_weight(const Group* group, uint32_t number) noexcept nogil:
    # `number` is below group.total_weight. O(1) where all weights are the same, else O(log n_backends). Index in the group.
    cdef uint32_t low = 0, high = group.n_backends, middle
    if group.same_weight != 0:
        return number // group.same_weight
    while high - low > 1:
        middle = (low + high) // 2
        if group.weights_below[middle] <= number:
            low = middle
        else:
            high = middle
    return low
