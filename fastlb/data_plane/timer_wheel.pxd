from libc.stdint cimport uint64_t

from fastlb.data_plane.types cimport Timer, TimerWheel

cdef int timer_wheel_open(TimerWheel* wheel, uint64_t now_ms) noexcept nogil
cdef void timer_wheel_close(TimerWheel* wheel) noexcept nogil
cdef void set_timer(TimerWheel* wheel, Timer* timer, uint64_t deadline_ms) noexcept nogil
cdef void cancel_timer(TimerWheel* wheel, Timer* timer) noexcept nogil
cdef Timer* take_expired(TimerWheel* wheel, uint64_t now_ms, uint64_t* refiled) noexcept nogil
cdef void arm_wheel(TimerWheel* wheel, uint64_t now_ms) noexcept nogil
