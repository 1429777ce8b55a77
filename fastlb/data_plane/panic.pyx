"""Panic: where hardly a backend of a pool is up, down and ejected ones are picked as if they were, but none that the operator took out.

Checks that say of everybody that they are down are more often wrong than right, and those that are up would not stand what all took. A pool
says that it wants this (ImagePool.panics), and below which share of its backends that are up; without a share it begins with the last one.

State: Pool.in_panic and PoolBackend.barred_by, this worker's own. Every algorithm asks is_eligible (select/candidates.pxd), which looks at no
other states than those: so panic holds for all of them, in every group, and a pick does not pay for it. It is decided when the states of the
node have changed (states.pyx), and when a pick finds nobody.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.system cimport load_now
from fastlb.data_plane.types cimport ROW_BARRED, ROW_DRAIN, ROW_MAINTENANCE, Engine, Pool


cdef void set_panic(Pool* pool, bint panic) noexcept nogil:
    cdef uint32_t i
    pool.in_panic = panic
    for i in range(pool.n_backends):
        pool.backends[i].barred_by = ROW_DRAIN | ROW_MAINTENANCE if panic else ROW_BARRED
    for i in range(pool.n_groups):              # what is made of the eligible ones is made anew
        pool.groups[i].classes_of = <uint64_t>-1
        pool.groups[i].eligible_weight = 0


cdef bint look_for_panic(Engine* engine, Pool* pool) noexcept nogil:
    # Of a pool that panics: whether it does so now.
    cdef:
        uint32_t i, state, n = 0, n_up = 0
        bint panic
    for i in range(pool.n_backends):
        state = load_now(&pool.backends[i].shared.state)
        if pool.backends[i].eligible and not state & (ROW_DRAIN | ROW_MAINTENANCE):
            n += 1
            n_up += state == 0
    panic = n != 0 and (n_up == 0 or <uint64_t>n_up * 1000 < <uint64_t>n * pool.image.panic_permille)
    if panic != pool.in_panic:
        engine.counters.panics += panic
        set_panic(pool, panic)
    return panic
