# Between an SSL and its socket: what one recv has brought, and records that leave in one send. What neither OpenSSL nor the socket has taken yet
# waits with the connection (TlsConnection.received and held). For tls.pyx alone, which OpenSSL is linked into.
from libc.stdint cimport uint32_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.openssl cimport BIO, BIO_CTRL_FLUSH, BIO_clear_retry_flags, BIO_get_data, BIO_set_retry_read
from fastlb.data_plane.system cimport likely, memcpy, unlikely
from fastlb.data_plane.types cimport (IO_AGAIN, IO_CLOSED, IO_READABLE, IO_WRITABLE, WAIT_UNSET, WAIT_WRITE, X_TUNNEL, Connection, Engine,
                                      Exchange, TlsConnection, TlsScratch)

cdef enum:
    RECEIVE_BYTES = 65536           # one recv: as much as a relay's read wants
    SENDING_BYTES = 65536 + 16384   # with what records add, of 512 bytes even (RFC 6066 section 4); or a flight: a chain of 64 KB fits
    MAX_HELD_BYTES = 131072         # a socket that takes nothing while it asks for answers (KeyUpdate) is closed


cdef inline int bio_read(BIO* bio, char* data, int size) noexcept nogil:
    # What came before, then what one recv brings, if the call that runs may still make one.
    cdef:
        TlsConnection* tls = <TlsConnection*>BIO_get_data(bio)
        TlsScratch* scratch = &tls.engine.tls
        uint32_t n = <uint32_t>size
        ssize_t came
    BIO_clear_retry_flags(bio)
    if unlikely(tls.received != NULL):
        n = min(n, tls.received.end - tls.received.start)
        memcpy(data, tls.received.data + tls.received.start, n)
        tls.received.start += n
        if tls.received.start == tls.received.end:
            return_buffer(&tls.engine.buffers, tls.received)
            tls.received = NULL
        return <int>n
    if scratch.start == scratch.end:
        if not tls.may_receive or not tls.connection.io & IO_READABLE or tls.ended or tls.broken:
            if tls.ended or tls.broken:
                return 0 if tls.ended else -1
            BIO_set_retry_read(bio)
            return -1
        tls.may_receive = False
        came = tls.engine.plain.receive(tls.engine, tls.connection, scratch.received, RECEIVE_BYTES)
        if came <= 0:
            if came == IO_AGAIN:
                BIO_set_retry_read(bio)
                return -1
            tls.ended = came == 0
            tls.broken = came != 0
            return 0 if tls.ended else -1
        tls.silent_bytes += <uint32_t>came
        scratch.start = 0
        scratch.end = <uint32_t>came
    n = min(n, scratch.end - scratch.start)
    memcpy(data, scratch.received + scratch.start, n)
    scratch.start += n
    return <int>n


cdef inline int bio_write(BIO* bio, const char* data, int size) noexcept nogil:
    # Collects records; `flush` sends them.
    cdef:
        TlsConnection* tls = <TlsConnection*>BIO_get_data(bio)
        TlsScratch* scratch = &tls.engine.tls
    BIO_clear_retry_flags(bio)
    if <uint32_t>size > SENDING_BYTES - scratch.n_sending:
        tls.broken = True                       # a flight that large comes of no certificate chain that makes sense
        return -1
    memcpy(scratch.sending + scratch.n_sending, data, <size_t>size)
    scratch.n_sending += <uint32_t>size
    return size


cdef inline long bio_ctrl(BIO* bio, int command, long number, void* pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef inline bint flush(Engine* engine, Connection* connection) noexcept nogil:
    # Sends what was collected; what the socket does not take is held. False: the socket failed, or too much waits for it.
    cdef:
        TlsConnection* tls = connection.tls
        TlsScratch* scratch = &engine.tls
        uint32_t size = scratch.n_sending
        ssize_t n = 0
    scratch.n_sending = 0
    if size == 0:
        return not tls.broken
    if unlikely(tls.holds_back):
        tls.holds_back = False
        if not append_bytes(&engine.buffers, &tls.held, scratch.sending, size):
            tls.broken = True
        else:
            flush_held(engine, connection)
        return not tls.broken
    if likely(tls.held == NULL and connection.io & IO_WRITABLE):
        n = engine.plain.send(engine, connection, scratch.sending, size)
        if likely(n == <ssize_t>size):
            return not tls.broken
        if n < 0 and n != IO_AGAIN:
            tls.broken = True
            return False
        n = max(n, 0)
    elif tls.held != NULL and tls.held.end - tls.held.start + size > MAX_HELD_BYTES:
        tls.broken = True
        return False
    if not append_bytes(&engine.buffers, &tls.held, scratch.sending + n, size - <uint32_t>n):
        tls.broken = True
    return not tls.broken


cdef inline bint flush_held(Engine* engine, Connection* connection) noexcept nogil:
    # Sends what is held, unless that waits for `flush`. False: some of it is still there, or the socket failed (tls.broken).
    cdef:
        TlsConnection* tls = connection.tls
        ssize_t n
    if likely(tls.held == NULL) or tls.holds_back:
        return True
    if not connection.io & IO_WRITABLE:
        return False
    n = engine.plain.send(engine, connection, tls.held.data + tls.held.start, tls.held.end - tls.held.start)
    if n < 0:
        tls.broken = n != IO_AGAIN
        return False
    tls.held.start += <uint32_t>n
    if tls.held.start < tls.held.end:
        return False
    return_buffer(&engine.buffers, tls.held)
    tls.held = NULL
    return True


cdef inline ssize_t send_held(Engine* engine, Connection* connection) noexcept nogil:
    # As flush_held, of a connection where something is held: 1, it has gone; IO_AGAIN; IO_CLOSED; or 0, some of it has. That is progress which the
    # exchange cannot see, because all of these bytes count as sent: the time for the other side to read starts anew.
    cdef:
        TlsConnection* tls = connection.tls
        Exchange* exchange = connection.exchange
        uint32_t held = tls.held.end - tls.held.start
    if flush_held(engine, connection):
        return 1
    if tls.broken:
        return IO_CLOSED
    if tls.held.end - tls.held.start == held:
        return IO_AGAIN
    if exchange != NULL and exchange.flags & X_TUNNEL:
        exchange.client.wait = WAIT_UNSET
    elif connection.wait == WAIT_WRITE:
        connection.wait = WAIT_UNSET
    return 0


cdef inline void keep_received(Engine* engine, Connection* connection) noexcept nogil:
    # What one recv brought and nobody has asked for yet waits with the connection, which is readable meanwhile.
    cdef:
        TlsConnection* tls = connection.tls
        TlsScratch* scratch = &engine.tls
    if unlikely(scratch.start < scratch.end):
        if not append_bytes(&engine.buffers, &tls.received, scratch.received + scratch.start, scratch.end - scratch.start):
            tls.broken = True
        connection.io |= IO_READABLE
    scratch.start = scratch.end = 0
