"""Deadlines of connections: one hashed wheel, O(1) to set, move and cancel.

Lazy re-arming: a deadline that moves later (every keep-alive request does that) only writes `deadline_ms`; the timer is
filed again when its old slot comes up. Only an earlier deadline moves the timer. The timerfd is set for the next occupied
slot, and only when that is earlier than what it already waits for, so that a busy worker makes no system call here.

State: the slots, the bitmap of occupied slots and the timerfd. A Timer is embedded in its owner, which must cancel it before
it goes away.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.system cimport (CLOCK_MONOTONIC, TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, close, itimerspec, lowest_bit, memset,
                                       timerfd_create, timerfd_settime)
from fastlb.data_plane.types cimport WHEEL_SLOTS, WHEEL_TICK_MS, Timer, TimerWheel


cdef int timer_wheel_open(TimerWheel* wheel, uint64_t now_ms) noexcept nogil:
    # 0, or -1 with errno. Owns the slots, the bitmap and the timerfd afterwards.
    wheel.fd = -1
    wheel.slots = <Timer**>calloc(WHEEL_SLOTS, sizeof(Timer*))
    wheel.occupied = <uint64_t*>calloc(WHEEL_SLOTS // 64, sizeof(uint64_t))
    wheel.tick = now_ms // WHEEL_TICK_MS
    wheel.armed_ms = 0
    wheel.count = 0
    if wheel.slots == NULL or wheel.occupied == NULL:
        timer_wheel_close(wheel)
        return -1
    wheel.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if wheel.fd < 0:
        timer_wheel_close(wheel)
        return -1
    return 0


cdef void timer_wheel_close(TimerWheel* wheel) noexcept nogil:
    free(wheel.slots)
    wheel.slots = NULL
    free(wheel.occupied)
    wheel.occupied = NULL
    if wheel.fd >= 0:
        close(wheel.fd)
        wheel.fd = -1


cdef inline void file_timer(TimerWheel* wheel, Timer* timer) noexcept nogil:
    # Into the slot of its deadline, rounded up, never one that has been looked at; beyond a whole turn it waits in the last
    # slot of this turn and is filed again from there.
    cdef:
        uint64_t tick = (timer.deadline_ms + WHEEL_TICK_MS - 1) // WHEEL_TICK_MS
        uint64_t slot
        Timer** head
    if tick <= wheel.tick:
        tick = wheel.tick + 1
    if tick >= wheel.tick + WHEEL_SLOTS:
        tick = wheel.tick + WHEEL_SLOTS - 1
    slot = tick % WHEEL_SLOTS
    head = &wheel.slots[slot]
    timer.filed_tick = tick
    timer.next = head[0]
    timer.link = head
    if timer.next != NULL:
        timer.next.link = &timer.next
    head[0] = timer
    wheel.occupied[slot >> 6] |= <uint64_t>1 << (slot & 63)
    wheel.count += 1


cdef inline void unlink_timer(TimerWheel* wheel, Timer* timer) noexcept nogil:
    cdef uint64_t slot = timer.filed_tick % WHEEL_SLOTS
    timer.link[0] = timer.next
    if timer.next != NULL:
        timer.next.link = timer.link
    timer.link = NULL
    timer.next = NULL
    wheel.count -= 1
    if wheel.slots[slot] == NULL:
        wheel.occupied[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))


cdef void set_timer(TimerWheel* wheel, Timer* timer, uint64_t deadline_ms) noexcept nogil:
    timer.deadline_ms = deadline_ms
    if timer.link != NULL:
        if deadline_ms >= timer.filed_tick * WHEEL_TICK_MS:
            return                              # lazy: its slot comes first and files it again
        unlink_timer(wheel, timer)
    file_timer(wheel, timer)


cdef void cancel_timer(TimerWheel* wheel, Timer* timer) noexcept nogil:
    if timer.link != NULL:
        unlink_timer(wheel, timer)


cdef inline uint64_t next_tick(TimerWheel* wheel) noexcept nogil:
    # The first occupied slot after wheel.tick as an absolute tick; 0 = none. At most 65 words are looked at.
    cdef:
        uint64_t start = wheel.tick + 1
        uint64_t slot = start % WHEEL_SLOTS
        uint64_t word = slot >> 6
        uint64_t bits = wheel.occupied[word] & (~<uint64_t>0 << (slot & 63))
        uint64_t _i
    if wheel.count == 0:
        return 0
    for _i in range(WHEEL_SLOTS // 64 + 1):
        if bits:
            return start + (((word << 6) + <uint64_t>lowest_bit(bits) - slot) & (WHEEL_SLOTS - 1))
        word = (word + 1) & (WHEEL_SLOTS // 64 - 1)
        bits = wheel.occupied[word]
    return 0


cdef Timer* take_expired(TimerWheel* wheel, uint64_t now_ms, uint64_t* refiled) noexcept nogil:
    # One timer whose deadline has passed, taken out of the wheel; NULL = none left. Call until NULL.
    cdef:
        uint64_t now_tick = now_ms // WHEEL_TICK_MS
        uint64_t tick
        Timer* timer
    while wheel.tick < now_tick:
        tick = next_tick(wheel)
        if tick == 0 or tick > now_tick:
            wheel.tick = now_tick
            return NULL
        # Everything before `tick` is empty. Stand just before it, so that what is filed again lands at `tick` at the earliest.
        wheel.tick = tick - 1
        timer = wheel.slots[tick % WHEEL_SLOTS]
        while timer != NULL:
            unlink_timer(wheel, timer)
            if timer.deadline_ms <= now_ms:
                return timer
            wheel.tick = tick                   # file it after this slot, not into it
            file_timer(wheel, timer)
            wheel.tick = tick - 1
            refiled[0] += 1
            timer = wheel.slots[tick % WHEEL_SLOTS]
        wheel.tick = tick
    return NULL


cdef void arm_wheel(TimerWheel* wheel, uint64_t now_ms) noexcept nogil:
    # Makes the timerfd fire in time for the next occupied slot. Called once at the end of a pump.
    cdef:
        uint64_t tick = next_tick(wheel)
        uint64_t when_ms
        itimerspec when
    if tick == 0:
        return
    when_ms = tick * WHEEL_TICK_MS
    if wheel.armed_ms > now_ms and wheel.armed_ms <= when_ms:
        return
    memset(&when, 0, sizeof(when))
    when.it_value.tv_sec = <long>(when_ms // 1000)
    when.it_value.tv_nsec = <long>(when_ms % 1000) * 1000000
    timerfd_settime(wheel.fd, TFD_TIMER_ABSTIME, &when, NULL)
    wheel.armed_ms = when_ms
