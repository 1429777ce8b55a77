"""Log lines from the pump to files, pipes and syslog: a ring, and a C thread that empties it.

The pump puts whole lines into the ring and never waits: without room a line is dropped. The thread writes them, many at a time, and
whatever it waits for (a slow disk, a full pipe) stalls nothing but itself. It never takes the GIL and gets no signal.

Descriptors belong to the thread. A new one (a file that was opened again) is handed over with one atomic exchange and taken between
two writes; so no line is ever written to a number that was closed, or that something else has meanwhile. A slot that no snapshot
needs any more is closed by the thread too, when the last of its lines is written.

A record of the ring: 8 bytes (size of the line, slot, whether it is written), the line, up to a multiple of 8. Records are contiguous:
one that does not fit before the end of the ring leaves a record without a slot there and starts over.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.system cimport (CLOCK_MONOTONIC, EAGAIN, ECONNREFUSED, ECONNRESET, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, ENOTCONN, EPIPE,
                                       MSG_DONTWAIT, MSG_NOSIGNAL, POLLIN, POLLOUT, SIG_SETMASK, clock_gettime, close, connect, errno,
                                       eventfd, getpeername, likely, memchr, memcmp, memcpy, poll, pollfd, pthread_attr_destroy,
                                       pthread_attr_init, pthread_attr_setstacksize, pthread_attr_t, pthread_create, pthread_detach,
                                       pthread_join, pthread_sigmask, read, send, sigfillset, sigset_t, sockaddr, timespec, unlikely, write)
from fastlb.data_plane.types cimport (LOG_LINE_BYTES, LOG_SLOTS, LOG_STREAM_LINE_BYTES, LOG_TO_DATAGRAMS, LOG_TO_STREAM, SLOT_FREE,
                                      SLOT_USED, LogSlot, LogWriter)

cdef enum:
    # What one pass takes from the ring, and one write at most: larger ones cost no less per line.
    BLOCK_BYTES = 65536
    STACK_BYTES = 262144            # the thread calls nothing deep; glibc's smallest plus what sanitizers add
    DATAGRAM_PATIENCE_MS = 100      # a log daemon that takes nothing for longer loses lines, so that other destinations get theirs
    NO_SLOT = 0xFFFF                # of a record: skip it

cdef struct LogLine:                # before each line in the ring
    uint32_t size
    uint16_t slot
    uint16_t written                # the thread's: done in an earlier pass over the same records


cdef uint64_t clock_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef inline uint64_t record_bytes(uint32_t size) noexcept nogil:
    return (sizeof(LogLine) + <uint64_t>size + 7) & ~<uint64_t>7


# ---------------------------------------------------------------------------------------------------------- the pump's side
cdef LogWriter* log_writer_open(uint32_t ring_bytes) noexcept nogil:
    # `ring_bytes`: a power of two, at least twice LOG_LINE_BYTES. NULL: out of memory or descriptors.
    cdef:
        LogWriter* writer = <LogWriter*>calloc(1, sizeof(LogWriter))
        uint32_t i
    if writer == NULL:
        return NULL
    writer.ring = <char*>malloc(ring_bytes)
    writer.block = <char*>malloc(1 + BLOCK_BYTES)
    writer.mask = ring_bytes - 1
    writer.free_until = ring_bytes
    writer.event_fd = eventfd(0, EFD_CLOEXEC)
    writer.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    for i in range(LOG_SLOTS):
        writer.slots[i].fd = writer.slots[i].next_fd = -1
    if writer.ring == NULL or writer.block == NULL or writer.event_fd < 0 or writer.done_fd < 0:
        free_writer(writer)
        return NULL
    return writer


cdef void free_writer(LogWriter* writer) noexcept nogil:
    # Without a thread: everything is ours now.
    cdef uint32_t i
    for i in range(LOG_SLOTS):
        if writer.slots[i].fd >= 0:
            close(writer.slots[i].fd)
        if writer.slots[i].next_fd >= 0:
            close(writer.slots[i].next_fd)
        free(writer.slots[i].identity)
        writer.slots[i].identity = NULL
    if writer.event_fd >= 0:
        close(writer.event_fd)
    if writer.done_fd >= 0:
        close(writer.done_fd)
    free(writer.ring)
    free(writer.block)
    free(writer)


cdef bint log_writer_start(LogWriter* writer) noexcept nogil:
    # False: no thread can be made.
    cdef:
        pthread_attr_t attributes
        sigset_t every, before
        int error
    if pthread_attr_init(&attributes) != 0:
        return False
    pthread_attr_setstacksize(&attributes, STACK_BYTES)
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)       # inherited by the thread: signals are for the loop
    error = pthread_create(&writer.thread, &attributes, run_writer, writer)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    writer.started = error == 0
    return writer.started


cdef void log_writer_close(LogWriter* writer, uint32_t patience_ms, uint64_t* lines_written, uint64_t* lines_lost,
                           uint64_t* bytes_written) noexcept nogil:
    # Writes what is in the ring, for at most this long, ends the thread and frees everything. The last counts.
    cdef:
        pollfd done
        uint64_t one = 1
        bint ended = True
    if writer.started:
        writer.stop_ms = clock_ms() + patience_ms
        put32(&writer.stop, 1)
        write(writer.event_fd, &one, sizeof(one))
        done.fd = writer.done_fd
        done.events = POLLIN
        done.revents = 0
        while True:
            # The thread gives up by itself, unless the kernel does not give it back from a write.
            ended = poll(&done, 1, <int>(patience_ms + 200)) != 0
            if not (ended and done.revents == 0):
                break
        if ended:
            pthread_join(writer.thread, NULL)
        else:
            pthread_detach(writer.thread)
    lines_written[0] = get64(&writer.lines_written)
    lines_lost[0] = get64(&writer.lines_lost) + count_lines(writer)
    bytes_written[0] = get64(&writer.bytes_written)
    if ended:
        free_writer(writer)                     # else it stays, for a thread that may still come back to it


cdef uint64_t count_lines(LogWriter* writer) noexcept nogil:
    # Lines in the ring that nobody will write any more.
    cdef:
        uint64_t at = get64(&writer.tail), lines = 0
        LogLine* line
    while at < writer.head:
        line = <LogLine*>(writer.ring + (at & writer.mask))
        if line.slot != NO_SLOT and not line.written:
            lines += 1
        at += record_bytes(line.size)
    return lines


cdef bint put_line(LogWriter* writer, uint32_t slot, const char* line, uint32_t size) noexcept nogil:
    # False: no room, nothing was put. `line` ends with its newline, and has at most LOG_LINE_BYTES.
    cdef:
        uint64_t needed = record_bytes(size)
        uint64_t at = writer.head & writer.mask
        uint64_t to_end = writer.mask + 1 - at
        uint64_t skip = 0
        LogLine* record
    if unlikely(size > LOG_LINE_BYTES):
        return False
    if unlikely(to_end < needed):
        skip = to_end
    if unlikely(writer.free_until - writer.head < needed + skip):
        writer.free_until = get64(&writer.tail) + writer.mask + 1
        if writer.free_until - writer.head < needed + skip:
            return False
    record = <LogLine*>(writer.ring + at)
    if unlikely(skip != 0):
        record.size = <uint32_t>(skip - sizeof(LogLine))
        record.slot = NO_SLOT
        record = <LogLine*>writer.ring
    record.size = size
    record.slot = <uint16_t>slot
    record.written = 0
    memcpy(<char*>record + sizeof(LogLine), line, size)
    put64(&writer.head, writer.head + skip + needed)
    return True


cdef void wake_log_writer(LogWriter* writer) noexcept nogil:
    # At the end of a batch. A system call only when lines were put and the thread sleeps.
    cdef uint64_t one = 1
    if likely(writer.head == writer.woken_head):
        return
    writer.woken_head = writer.head
    fence()                                     # our head is seen before we look whether it sleeps; run_writer does the reverse
    if get32(&writer.sleeping):
        put32(&writer.sleeping, 0)
        write(writer.event_fd, &one, sizeof(one))


cdef void announce_change(LogWriter* writer) noexcept nogil:
    cdef uint64_t one = 1
    put32(&writer.changes, writer.changes + 1)
    write(writer.event_fd, &one, sizeof(one))


cdef int hold_slot(LogWriter* writer, const char* identity, uint32_t identity_size, uint32_t kind) noexcept nogil:
    # The slot of this destination, made if new, with one more reference. NO_LOG_SLOT: out of memory or slots.
    cdef:
        uint32_t i
        LogSlot* slot
        LogSlot* unused = NULL
    for i in range(LOG_SLOTS):
        slot = &writer.slots[i]
        if slot.references > 0 and slot.kind == kind and slot.identity_size == identity_size \
                and memcmp(slot.identity, identity, identity_size) == 0:
            slot.references += 1
            return <int>i
        if unused == NULL and slot.references == 0 and get32(&slot.state) == SLOT_FREE:
            unused = slot
    if unused == NULL:
        return NO_LOG_SLOT
    free(unused.identity)
    unused.identity = <char*>malloc(identity_size + 1)
    if unused.identity == NULL:
        return NO_LOG_SLOT
    memcpy(unused.identity, identity, identity_size)
    unused.identity_size = identity_size
    unused.kind = kind
    unused.references = 1
    put32(&unused.closing, 0)
    put32(&unused.state, SLOT_USED)
    return <int>(unused - writer.slots)


cdef void drop_slot(LogWriter* writer, uint32_t slot) noexcept nogil:
    # One reference less. After the last one the thread closes it behind the lines that are in the ring.
    writer.slots[slot].references -= 1
    if writer.slots[slot].references > 0:
        return
    writer.slots[slot].close_at = writer.head
    put32(&writer.slots[slot].closing, 1)
    announce_change(writer)


cdef void hand_over(LogWriter* writer, uint32_t slot, int fd) noexcept nogil:
    # The thread's from now on: the next line of this slot goes there.
    cdef int replaced = swap(&writer.slots[slot].next_fd, fd)
    if replaced >= 0:
        close(replaced)                         # the thread had not taken it yet, and never will
    announce_change(writer)


# ---------------------------------------------------------------------------------------------------------- the thread
cdef void* run_writer(void* argument) noexcept nogil:
    cdef:
        LogWriter* writer = <LogWriter*>argument
        uint64_t one = 1
    while True:
        if write_some(writer):
            continue
        if get32(&writer.stop):
            break
        put32(&writer.sleeping, 1)
        fence()
        if get64(&writer.head) == writer.tail and get32(&writer.changes) == writer.changes_seen and not get32(&writer.stop):
            read(writer.event_fd, &one, sizeof(one))
        put32(&writer.sleeping, 0)
    one = 1
    write(writer.done_fd, &one, sizeof(one))
    return NULL


cdef void take_changes(LogWriter* writer) noexcept nogil:
    # New descriptors, and slots whose last line is written.
    cdef:
        uint32_t i
        int fd
        LogSlot* slot
    writer.changes_seen = get32(&writer.changes)
    writer.closing = False
    for i in range(LOG_SLOTS):
        slot = &writer.slots[i]
        if get32(&slot.state) == SLOT_FREE:
            continue
        fd = swap(&slot.next_fd, -1)
        if fd >= 0:
            if slot.fd >= 0:
                close(slot.fd)
            slot.fd = fd
            slot.torn = False
            slot.address_size = sizeof(slot.address)
            if slot.kind != LOG_TO_DATAGRAMS or getpeername(fd, <sockaddr*>&slot.address, &slot.address_size) != 0:
                slot.address_size = 0
        if get32(&slot.closing):
            if writer.tail < slot.close_at:
                writer.closing = True
                continue
            if slot.fd >= 0:
                close(slot.fd)
            slot.fd = -1
            put32(&slot.state, SLOT_FREE)


cdef bint write_some(LogWriter* writer) noexcept nogil:
    # Writes up to BLOCK_BYTES of what the ring holds. False: it is empty.
    cdef:
        uint64_t head = get64(&writer.head)
        uint64_t start = writer.tail, end = writer.tail, at, next_start, bytes = 0
        LogLine* line
        uint32_t slot, size
    if writer.closing or get32(&writer.changes) != writer.changes_seen:
        take_changes(writer)
    if head == start:
        return False
    while end < head:
        line = <LogLine*>(writer.ring + (end & writer.mask))
        bytes += line.size if line.slot != NO_SLOT else 0
        if bytes > BLOCK_BYTES:
            break
        end += record_bytes(line.size)
    # One pass for each destination that has lines here, so that each gets few, large writes.
    while start < end:
        slot = NO_SLOT
        size = 1
        at = next_start = start
        while at < end:
            line = <LogLine*>(writer.ring + (at & writer.mask))
            if line.slot != NO_SLOT and not line.written:
                if slot == NO_SLOT:
                    slot = line.slot
                if line.slot == slot:
                    memcpy(writer.block + size, <char*>line + sizeof(LogLine), line.size)
                    size += line.size
                    line.written = 1
            if (line.slot == NO_SLOT or line.written) and at == next_start:
                next_start += record_bytes(line.size)
            at += record_bytes(line.size)
        if slot != NO_SLOT:
            write_lines(writer, &writer.slots[slot], size)
        start = next_start
    put64(&writer.tail, end)
    return True


cdef void write_lines(LogWriter* writer, LogSlot* slot, uint32_t size) noexcept nogil:
    # Lines of one destination, from the second byte of writer.block up to `size`.
    cdef:
        const char* at = writer.block + 1
        const char* end = writer.block + size
        const char* cut
        const char* newline
    if slot.fd < 0:
        count(writer, 0, lines_in(at, end), 0)
    elif slot.kind == LOG_TO_DATAGRAMS:
        while at < end:
            newline = <const char*>memchr(at, c"\n", <size_t>(end - at))
            if newline == NULL:
                newline = end - 1
            send_datagram(writer, slot, at, <size_t>(newline - at))
            at = newline + 1
    elif slot.kind == LOG_TO_STREAM:
        while at < end:
            # As many whole lines as are sure to stay together.
            cut = end
            if end - at > LOG_STREAM_LINE_BYTES:
                cut = at
                while True:
                    newline = <const char*>memchr(cut, c"\n", <size_t>(end - cut))
                    if newline == NULL or (newline + 1 - at > LOG_STREAM_LINE_BYTES and cut != at):
                        break
                    cut = newline + 1
                    if cut == end:
                        break
                if cut == at:
                    cut = end
            write_block(writer, slot, at, cut, True)
            at = cut
    else:
        write_block(writer, slot, at, end, False)


cdef uint64_t lines_in(const char* at, const char* end) noexcept nogil:
    cdef uint64_t lines = 0
    while at < end:
        at = <const char*>memchr(at, c"\n", <size_t>(end - at))
        if at == NULL:
            break
        lines += 1
        at += 1
    return lines


cdef void count(LogWriter* writer, uint64_t written, uint64_t lost, uint64_t bytes) noexcept nogil:
    # The pump reads them at any time.
    put64(&writer.lines_written, writer.lines_written + written)
    put64(&writer.lines_lost, writer.lines_lost + lost)
    put64(&writer.bytes_written, writer.bytes_written + bytes)


cdef bint await_room(LogWriter* writer, LogSlot* slot, int64_t patience_ms) noexcept nogil:
    # Until the slot's descriptor takes something, or something is wrong with it. False: not in this time, or it is time to end.
    cdef:
        pollfd watched[2]
        uint64_t one, now = clock_ms()
        uint64_t until = now + <uint64_t>patience_ms if patience_ms >= 0 else <uint64_t>-1
        int wait, ready
    while True:
        if get32(&writer.stop) and writer.stop_ms < until:
            until = writer.stop_ms
        watched[0].fd = slot.fd
        watched[0].events = POLLOUT
        watched[1].fd = writer.event_fd
        watched[1].events = POLLIN
        watched[0].revents = watched[1].revents = 0
        now = clock_ms()
        wait = -1
        if until != <uint64_t>-1:
            wait = <int>(until - now) if until > now else 0
        ready = poll(watched, 2, wait)
        if watched[0].revents:
            return True
        if watched[1].revents & POLLIN:
            read(writer.event_fd, &one, sizeof(one))
            take_changes(writer)                # perhaps a descriptor in place of the one that is stuck
            if slot.fd < 0:
                return False
        elif ready == 0:
            return False


cdef void write_block(LogWriter* writer, LogSlot* slot, const char* start, const char* end, bint may_wait) noexcept nogil:
    # Whole lines. What the kernel refuses is counted as lost; half a line that it took is ended before the next one.
    cdef:
        const char* at = start
        uint64_t whole
        ssize_t n
    if slot.torn and slot.fd >= 0 and (not may_wait or await_room(writer, slot, -1)):
        if write(slot.fd, b"\n", 1) == 1:
            slot.torn = False
    while at < end and not (slot.torn and at == start):
        if may_wait and not await_room(writer, slot, -1):
            break
        n = write(slot.fd, at, <size_t>(end - at))
        if n > 0:
            at += n
        elif n < 0 and errno == EAGAIN:
            if not await_room(writer, slot, -1):
                break
        elif n < 0 and errno != EINTR:
            break
    whole = lines_in(start, at)
    if at > start:
        slot.torn = (at - 1)[0] != c"\n"
    count(writer, whole, lines_in(at, end), <uint64_t>(at - start))


cdef void send_datagram(LogWriter* writer, LogSlot* slot, const char* data, size_t size) noexcept nogil:
    # One message. A daemon that was restarted is connected to again, once.
    cdef:
        bint again = True
        ssize_t n
    while True:
        n = send(slot.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n >= 0:
            count(writer, 1, 0, size)
            return
        if errno == EINTR:
            continue
        if not again:
            break
        again = False
        if errno == EAGAIN:
            if not await_room(writer, slot, DATAGRAM_PATIENCE_MS):
                break
        elif errno == ECONNREFUSED or errno == ENOTCONN or errno == ECONNRESET or errno == EPIPE:
            # UDP tells of an earlier datagram's fate here: sending again is enough, and connecting again does no harm.
            if slot.address_size == 0 or connect(slot.fd, <const sockaddr*>&slot.address, slot.address_size) != 0:
                break
        else:
            break
    count(writer, 0, 1, 0)
