"""What a worker does when the state of a backend has changed, whoever changed it: ejected ones are waited for, and panic begins or ends.

State: Engine.states_seen, return_timer and watches_states. The node counts the changes (SharedHeader.state_changes), and a worker whose snapshot
has a pool with passive health, or one that panics, compares that number once a batch. The others never come here.

**No ejection lasts for ever.** Every worker that watches has a timer for the next return, and whichever comes first brings the backend back. A
worker that slept through everything looks at the beginning of its next batch, before the first event of it. A worker that starts looks when it
has its snapshot, and one whose new snapshot has no passive health for a backend (any more) brings it back at once.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.panic cimport look_for_panic
from fastlb.data_plane.passive_health cimport bring_back, return_when_due
from fastlb.data_plane.system cimport load_long, load_now
from fastlb.data_plane.timer_wheel cimport set_timer
from fastlb.data_plane.types cimport POOL_PANICS, POOL_PASSIVE_HEALTH, ROW_EJECTED, Engine, Pool, Snapshot


cdef void watch_states(Engine* engine) noexcept nogil:
    # A snapshot has become the current one.
    cdef:
        Snapshot* snapshot = engine.snapshot
        Pool* pool
        uint32_t i, k
    engine.watches_states = False
    engine.states_seen = NEVER_LOOKED
    for i in range(snapshot.n_pools):
        pool = &snapshot.pools[i]
        if pool.flags & (POOL_PASSIVE_HEALTH | POOL_PANICS):
            engine.watches_states = True
        if pool.flags & POOL_PASSIVE_HEALTH:
            continue
        for k in range(pool.n_backends):
            if load_now(&pool.backends[k].shared.state) & ROW_EJECTED:
                bring_back(engine, pool.backends[k].row)


cdef void look_at_states(Engine* engine) noexcept nogil:
    cdef:
        Snapshot* snapshot = engine.snapshot
        Pool* pool
        uint64_t due, next_return = NEVER_LOOKED
        uint32_t i, k
    engine.states_seen = load_long(&engine.shared.header.state_changes)     # first: what changes meanwhile is looked at next time
    for i in range(snapshot.n_pools):
        pool = &snapshot.pools[i]
        if pool.flags & POOL_PASSIVE_HEALTH:
            for k in range(pool.n_backends):
                due = return_when_due(engine, pool.backends[k].row)
                if due != 0 and due < next_return:
                    next_return = due
        if pool.flags & POOL_PANICS:
            look_for_panic(engine, pool)
    if next_return != <uint64_t>NEVER_LOOKED:
        set_timer(&engine.timers, &engine.return_timer, next_return)
