"""The only mover of bytes: request and response bodies, tunnels, and layer-4 sessions.

A Relay is one direction, source -> sink. It takes the source's framing off and puts the sink's on, counts, keeps what may
have to be sent again, and stops reading while the sink does not take: what one read brought and the socket refused waits in
`pending`, at most one read's worth (256 KiB), usually 64 KiB. Large plain bodies go through a pipe with splice and never
enter this process.

It owns `pending`, the lent pipe and the trailers; it never closes a connection and never decides what a failure means: it
leaves a RelayState for the exchange.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer, take_buffer
from fastlb.data_plane.http1_body cimport chunk_decoder_close, chunk_decoder_open, decode_chunked, write_chunk_header
from fastlb.data_plane.http1_head cimport may_be_trailer, parse_trailers
from fastlb.data_plane.meters cimport count_body_in, count_client_in, count_client_out
from fastlb.data_plane.pipe_pool cimport return_pipe, take_pipe
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport likely, memcpy, unlikely
from fastlb.data_plane.transport cimport send_last, splice_in, splice_out
from fastlb.data_plane.types cimport (CHUNK_BAD, CHUNK_DONE, FIRST_READ_BYTES, FRAME_CHUNKED, FRAME_LENGTH, FRAME_NONE, FRAME_STREAM, FRAME_TUNNEL, FRAME_UNTIL_CLOSE,
                                      IO_AGAIN, IO_CLOSED, IO_HALF_CLOSED, IO_READABLE, IO_RESET, IO_WRITABLE, IO_WRITE_CLOSED, KIND_BACKEND, KIND_CLIENT, NO_PIPE, READ_BUFFER_BYTES,
                                      RELAY_DONE, RELAY_NO_MEMORY, RELAY_OFF, RELAY_READ_BYTES, RELAY_RUNNING, RELAY_SINK_FAILED,
                                      RELAY_SOURCE_FAILED, RELAY_SOURCE_INVALID, RELAY_TOO_LARGE, RELAY_TURN_BYTES, SMALL_BODY_BYTES,
                                      SPLICE_MIN_BYTES, SPLICE_MOVE_BYTES, WRITE_BUFFER_BYTES, X_REPLAYABLE, Buffer, Connection, Engine,
                                      Exchange, Head, Pipe, Relay)

cdef enum:
    CHUNK_OVERHEAD = 32             # a chunk header, its CRLF and "0\r\n\r\n"
    # What a refused read leaves must fit the largest block together with its chunk framing.
    MAX_READ_BYTES = READ_BUFFER_BYTES - 4096


cdef void relay_open(Relay* relay, Exchange* exchange, Connection* source, Connection* sink,
                     uint32_t source_framing, uint32_t sink_framing, int64_t length) noexcept nogil:
    # Starts a direction. `length`: bytes of a FRAME_LENGTH body. `source` may be NULL where nothing will be read (FRAME_NONE).
    # The relay is fresh or closed, but for `pending`: what relay_interject left there still goes first.
    relay.source = source
    relay.sink = sink
    relay.exchange = exchange
    relay.remaining = length
    relay.moved = 0
    relay.limit = 0
    relay.sent = 0
    relay.read_size = RELAY_READ_BYTES
    relay.pipe = NO_PIPE
    relay.state = RELAY_RUNNING
    relay.source_framing = <uint8_t>source_framing
    relay.sink_framing = <uint8_t>sink_framing
    relay.source_ended = source_framing == FRAME_NONE
    relay.source_extra = False
    relay.keep = False
    chunk_decoder_open(&relay.chunk)


cdef void relay_close(Engine* engine, Relay* relay) noexcept nogil:
    # Gives back everything it holds. Safe to call twice.
    return_buffer(&engine.buffers, relay.pending)
    relay.pending = NULL
    if relay.pipe != NO_PIPE:
        return_pipe(&engine.pipes, relay.pipe)
        relay.pipe = NO_PIPE
    chunk_decoder_close(&relay.chunk, &engine.buffers)
    relay.source = NULL
    relay.sink = NULL
    if relay.state == RELAY_RUNNING:
        relay.state = RELAY_OFF


cdef inline void count_in(Engine* engine, Relay* relay, uint64_t size) noexcept nogil:
    if relay.source.kind == KIND_CLIENT:
        engine.counters.client_bytes_in += size
        count_client_in(engine, relay.source, size)
    elif relay.source.kind == KIND_BACKEND:     # of an HTTP/2 stream its session has counted the frames
        engine.counters.backend_bytes_in += size
        relay.source.backend.meter.bytes_in += size


cdef inline void count_out(Engine* engine, Relay* relay, uint64_t size) noexcept nogil:
    relay.sent += size
    if relay.sink.kind == KIND_CLIENT:
        engine.counters.client_bytes_out += size
        count_client_out(engine, relay.sink.exchange, size)      # relay.exchange is not set yet for interim heads
    elif relay.sink.kind == KIND_BACKEND:       # a mirror drops its answer, and a stream counts by itself
        engine.counters.backend_bytes_out += size
        relay.sink.backend.meter.bytes_out += size


cdef bint hold(Engine* engine, Relay* relay, const char** parts, const size_t* sizes, int n_parts, size_t sent) noexcept nogil:
    # Keeps in `pending` what the sink has not taken of `parts`: everything past the first `sent` bytes.
    cdef:
        size_t total = 0
        size_t skip = sent
        int i
        Buffer* buffer
    for i in range(n_parts):
        total += sizes[i]
    total -= sent
    if relay.pending == NULL:
        relay.pending = take_buffer(&engine.buffers, <uint32_t>total)
    buffer = relay.pending
    if buffer == NULL:
        return False
    for i in range(n_parts):
        if skip >= sizes[i]:
            skip -= sizes[i]
            continue
        if not append_bytes(&engine.buffers, &relay.pending, parts[i] + skip, <uint32_t>(sizes[i] - skip)):
            return False
        skip = 0
    return True


cdef bint deliver(Engine* engine, Relay* relay, const char** parts, const size_t* sizes, int n_parts) noexcept nogil:
    # Sends, and holds what was not taken. False: relay.state says why.
    cdef:
        ssize_t n = 0
        size_t total = 0
        int i
    for i in range(n_parts):
        total += sizes[i]
    if total == 0:
        return True
    if relay.pending == NULL and relay.sink.io & IO_WRITABLE:
        if n_parts == 1:
            n = relay.sink.transport.send(engine, relay.sink, parts[0], sizes[0])
        else:
            n = relay.sink.transport.send_parts(engine, relay.sink, parts, sizes, n_parts)
    return note_sent(engine, relay, parts, sizes, n_parts, total, n)


cdef inline bint note_sent(Engine* engine, Relay* relay, const char** parts, const size_t* sizes, int n_parts, size_t total, ssize_t n) noexcept nogil:
    # What sending `total` bytes came to, of which `n` were taken: holds the rest. False: relay.state says why.
    if n > 0:
        count_out(engine, relay, <uint64_t>n)
        if likely(<size_t>n == total):
            return True
    elif n == IO_AGAIN:
        n = 0
    elif n < 0:
        relay.state = RELAY_SINK_FAILED
        return False
    relay.read_size = RELAY_READ_BYTES          # a sink that falls behind gets no larger reads
    if not hold(engine, relay, parts, sizes, n_parts, <size_t>n):
        relay.state = RELAY_NO_MEMORY
        return False
    return True


cdef void pass_on(Engine* engine, Relay* relay, uint32_t size, uint32_t wanted) noexcept nogil:
    # Of a tunnel whose sink has room: what a read of `wanted` bytes has brought, as it is. Where the source has ended, that is found out
    # first, and the end leaves in the segment of the last bytes.
    cdef:
        const char* data = engine.read_buffer
        size_t total = size
        ssize_t n, more = IO_AGAIN
    if unlikely(relay.source.io & IO_HALF_CLOSED) and size < wanted:
        more = relay.source.transport.receive(engine, relay.source, engine.read_buffer + size, wanted - size)
        if more > 0:
            total += <size_t>more
        relay.source_ended = more == 0
    count_in(engine, relay, total)
    relay.moved += total
    if relay == &relay.exchange.up:
        count_body_in(engine, relay.exchange, total)
    if unlikely(relay.source_ended) and relay.sink.transport.can_splice:
        n = send_last(engine, relay.sink, data, total)
    else:
        n = relay.sink.transport.send(engine, relay.sink, data, total)
    if note_sent(engine, relay, &data, &total, 1, total, n) and unlikely(more == IO_CLOSED):
        relay.state = RELAY_SOURCE_FAILED


cdef uint32_t write_trailers(Relay* relay, char* out, uint32_t room) noexcept nogil:
    # The trailer fields that may pass, without the empty line.
    cdef:
        Head trailers
        uint32_t i, size, written = 0
        const char* text
    if relay.chunk.trailers == NULL:
        return 0
    text = relay.chunk.trailers.data + relay.chunk.trailers.start
    if parse_trailers(&trailers, text, relay.chunk.trailers.end - relay.chunk.trailers.start) <= 0:
        return 0
    for i in range(trailers.n_fields):
        size = trailers.fields[i].end - trailers.fields[i].name
        if may_be_trailer(&trailers, i) and written + size <= room:
            memcpy(out + written, text + trailers.fields[i].name, size)
            written += size
    return written


cdef void emit(Engine* engine, Relay* relay, uint32_t prefix_size, const char* data, uint32_t size) noexcept nogil:
    # Hands a run of body bytes to the sink in its framing, behind `prefix_size` bytes (a head) that stand at the start of
    # engine.write_buffer. relay.source_ended says whether this run is the last. What is small leaves in one send from one block.
    cdef:
        char* block = engine.write_buffer
        const char* parts[4]
        size_t sizes[4]
        uint32_t at = prefix_size
        bint chunked = relay.sink_framing == FRAME_CHUNKED
        int n_parts = 0
    if chunked and size:
        at += write_chunk_header(block + at, size)
    if size <= SMALL_BODY_BYTES and at + size + CHUNK_OVERHEAD <= WRITE_BUFFER_BYTES - 16384:
        if size:
            memcpy(block + at, data, size)
            at += size
        if chunked:
            at += write_chunk_end(relay, block + at, size, WRITE_BUFFER_BYTES - at)
        parts[0] = block
        sizes[0] = at
        deliver(engine, relay, parts, sizes, 1)
        return
    if at:
        parts[n_parts] = block
        sizes[n_parts] = at
        n_parts += 1
    parts[n_parts] = data
    sizes[n_parts] = size
    n_parts += 1
    if chunked:
        parts[n_parts] = block + at
        sizes[n_parts] = write_chunk_end(relay, block + at, size, WRITE_BUFFER_BYTES - at)
        n_parts += 1
    deliver(engine, relay, parts, sizes, n_parts)


cdef uint32_t write_chunk_end(Relay* relay, char* out, uint32_t size, uint32_t room) noexcept nogil:
    # What follows the data of a run: its CRLF, and at the end of the body the last chunk with the trailers.
    cdef uint32_t at = 0
    if size:
        memcpy(out, b"\r\n", 2)
        at = 2
    if relay.source_ended:
        memcpy(out + at, b"0\r\n", 3)
        at += 3
        if unlikely(relay.chunk.trailers != NULL):
            at += write_trailers(relay, out + at, room - at - 2)
        memcpy(out + at, b"\r\n", 2)
        at += 2
    return at


cdef void keep_for_replay(Engine* engine, Relay* relay, const char* data, uint32_t size) noexcept nogil:
    # Body bytes as they are sent, while they may have to be sent again. Past the limit a retry is no longer possible.
    cdef:
        Exchange* exchange = relay.exchange
        uint32_t held = exchange.replay.end if exchange.replay != NULL else 0
    if held + size <= exchange.replay_limit and append_bytes(&engine.buffers, &exchange.replay, data, size):
        return
    relay.keep = False
    exchange.flags &= ~<uint32_t>X_REPLAYABLE
    return_buffer(&engine.buffers, exchange.replay)
    exchange.replay = NULL


cdef uint32_t take(Engine* engine, Relay* relay, uint32_t prefix_size, char* data, uint32_t size) noexcept nogil:
    # Takes the source's framing off `data` and hands the body bytes on. Returns how many bytes of `data` were this body's.
    cdef:
        char* run = data
        uint32_t run_size = size, used = size
    if relay.source_framing == FRAME_LENGTH:
        if <int64_t>size >= relay.remaining:
            used = run_size = <uint32_t>relay.remaining
            relay.source_ended = True
        relay.remaining -= run_size
    elif relay.source_framing == FRAME_CHUNKED:
        used = decode_chunked(&relay.chunk, &engine.buffers, data, size, &run, &run_size)
        if relay.chunk.state == CHUNK_BAD:
            relay.state = RELAY_SOURCE_INVALID
            return used
        relay.source_ended = relay.chunk.state == CHUNK_DONE
    elif relay.source_framing == FRAME_NONE:
        used = run_size = 0
    relay.moved += run_size
    if run_size and relay == &relay.exchange.up:
        count_body_in(engine, relay.exchange, run_size)
    if unlikely(relay.limit != 0 and relay.moved > relay.limit):
        relay.state = RELAY_TOO_LARGE
        return used
    if relay.keep and run_size:
        keep_for_replay(engine, relay, run, run_size)
    if run_size or prefix_size or relay.source_ended:
        emit(engine, relay, prefix_size, run, run_size)
    return used


cdef inline bint closes_next(const Relay* relay) noexcept nogil:
    # Whether the other direction of a tunnel has ended already: both connections close now, which tells a plain sink as much. (It has nothing unread, so it is told in order.)
    cdef const Exchange* exchange = relay.exchange
    return relay.sink_framing == FRAME_TUNNEL and relay.sink.transport.can_splice \
        and (exchange.down if relay == &exchange.up else exchange.up).state == RELAY_DONE


cdef void finish_if_done(Engine* engine, Relay* relay) noexcept nogil:
    # Everything the source had is with the sink's socket.
    if relay.state != RELAY_RUNNING or not relay.source_ended or relay.pending != NULL:
        return
    if relay.pipe != NO_PIPE and engine.pipes.pipes[relay.pipe].fill:
        return
    relay.state = RELAY_DONE
    if relay.sink_framing >= FRAME_TUNNEL and not relay.sink.io & IO_WRITE_CLOSED and not relay.source.io & IO_RESET and not closes_next(relay):
        relay.sink.transport.shut_write(engine, relay.sink)     # half-close, or the end of the body, is passed on
        if unlikely(relay.sink_framing == FRAME_TUNNEL and not relay.sink.io & IO_WRITE_CLOSED):
            relay.state = RELAY_RUNNING         # TLS has no room for what it says at the end: again when there is


cdef void relay_offer(Engine* engine, Relay* relay, uint32_t prefix_size, char* data, uint32_t size) noexcept nogil:
    # The first bytes: a serialised head at the start of engine.write_buffer, and body bytes that came with the head just parsed
    # (in the read buffer, or in the source's `input`, whose start the caller then moves). Notes what was not this body's.
    cdef uint32_t used = take(engine, relay, prefix_size, data, size)
    if used < size:
        keep_extra(engine, relay, data + used, size - used)
    finish_if_done(engine, relay)


cdef void relay_replay(Engine* engine, Relay* relay, uint32_t prefix_size) noexcept nogil:
    # A new attempt: the head again, then the body bytes kept so far; the rest follows from the source.
    cdef Buffer* replay = relay.exchange.replay
    if replay == NULL:
        emit(engine, relay, prefix_size, NULL, 0)
    else:
        emit(engine, relay, prefix_size, replay.data + replay.start, replay.end - replay.start)
    finish_if_done(engine, relay)


cdef void relay_redirect(Engine* engine, Relay* relay, Connection* sink) noexcept nogil:
    # A new attempt gets what the old sink got, and then the rest. The source side stays where it is.
    return_buffer(&engine.buffers, relay.pending)
    relay.pending = NULL
    relay.sink = sink
    relay.sent = 0
    relay.state = RELAY_RUNNING
    if relay.sink_framing == FRAME_STREAM:
        relay.sink_framing = FRAME_LENGTH if relay.source_framing == FRAME_LENGTH else FRAME_CHUNKED     # that was the old sink's


cdef void relay_interject(Engine* engine, Relay* relay, Connection* sink, uint32_t prefix_size) noexcept nogil:
    # Sends the first `prefix_size` bytes of engine.write_buffer ahead of the relay's own start (interim responses).
    cdef:
        const char* part = engine.write_buffer
        size_t size = prefix_size
    relay.sink = sink
    deliver(engine, relay, &part, &size, 1)


cdef void relay_flush(Engine* engine, Relay* relay) noexcept nogil:
    # Brings on what relay_interject had to hold, before the relay itself has started.
    if relay.pending != NULL:
        flush_pending(engine, relay)


cdef void keep_extra(Engine* engine, Relay* relay, const char* data, uint32_t size) noexcept nogil:
    # Bytes behind the body: a client's next request waits in its input, also when this attempt's sink has failed (the next one
    # replays the body and not what follows); from a backend they are a fault, and are dropped.
    relay.source_extra = True
    if relay.source.kind == KIND_CLIENT and not append_bytes(&engine.buffers, &relay.source.input, data, size):
        relay.state = RELAY_NO_MEMORY


cdef bint flush_pending(Engine* engine, Relay* relay) noexcept nogil:
    # Sends what waits. True: nothing waits any more. False: the sink is full, or relay.state says what failed.
    cdef:
        Buffer* buffer = relay.pending
        ssize_t n
    if not relay.sink.io & IO_WRITABLE:
        return False
    n = relay.sink.transport.send(engine, relay.sink, buffer.data + buffer.start, buffer.end - buffer.start)
    if n < 0:
        if n != IO_AGAIN:
            relay.state = RELAY_SINK_FAILED
        return False
    count_out(engine, relay, <uint64_t>n)
    buffer.start += <uint32_t>n
    if buffer.start < buffer.end:
        return False
    return_buffer(&engine.buffers, buffer)
    relay.pending = NULL
    return True


cdef inline bint is_bulk(const Relay* relay) noexcept nogil:
    # Whether much is still to come: as a body's length says, or of a tunnel as far as its last read tells, which was full and sent on at once.
    if relay.source_framing == FRAME_LENGTH:
        return relay.remaining >= SPLICE_MIN_BYTES
    return relay.source_framing == FRAME_TUNNEL and relay.read_size > RELAY_READ_BYTES


cdef inline bint wants_splice(Relay* relay) noexcept nogil:
    return (is_bulk(relay) and relay.sink_framing != FRAME_CHUNKED and not relay.keep and relay.source.input == NULL and relay.limit == 0
            and relay.source.transport.can_splice and relay.sink.transport.can_splice)


cdef bint splice_turn(Engine* engine, Relay* relay, uint32_t* turn) noexcept nogil:
    # One filling and emptying of the lent pipe. False: nothing more can be done now (or relay.state changed).
    cdef:
        Pipe* pipe = &engine.pipes.pipes[relay.pipe]
        ssize_t n
        size_t room
        bint is_tunnel = relay.source_framing == FRAME_TUNNEL
    if not relay.source_ended and pipe.fill < SPLICE_MOVE_BYTES and relay.source.io & IO_READABLE:
        room = SPLICE_MOVE_BYTES - pipe.fill
        if not is_tunnel and <int64_t>room > relay.remaining:
            room = <size_t>relay.remaining
        n = splice_in(engine, relay.source, pipe.write_fd, room)
        if n > 0:
            pipe.fill += <uint32_t>n
            relay.moved += <uint64_t>n
            if relay == &relay.exchange.up:
                count_body_in(engine, relay.exchange, <uint64_t>n)
            turn[0] += <uint32_t>n
            count_in(engine, relay, <uint64_t>n)
            engine.counters.spliced_bytes += <uint64_t>n
            if not is_tunnel:
                relay.remaining -= n
                relay.source_ended = relay.remaining == 0
            elif n < FIRST_READ_BYTES:
                relay.read_size = RELAY_READ_BYTES      # bulk no more: once this has gone, reads say what follows
        elif n == IO_AGAIN:
            if pipe.fill == 0:
                relay.source.io &= ~<uint32_t>IO_READABLE       # the pipe is empty, so the socket is
                return False
        elif n == 0:
            source_end(engine, relay)
        else:
            relay.state = RELAY_SOURCE_FAILED
            if pipe.fill != 0:
                n = splice_out(engine, relay.sink, pipe.read_fd, pipe.fill, False)      # what it had said before that, as far as there is room
                if n > 0:
                    pipe.fill -= <uint32_t>n
                    count_out(engine, relay, <uint64_t>n)
        if relay.state != RELAY_RUNNING:
            return False
    if pipe.fill == 0:
        return False
    if not relay.sink.io & IO_WRITABLE:
        return False
    # MORE holds back what does not fill a segment: only where it is known that more comes.
    n = splice_out(engine, relay.sink, pipe.read_fd, pipe.fill, not is_tunnel and not relay.source_ended)
    if n < 0:
        if n != IO_AGAIN:
            relay.state = RELAY_SINK_FAILED
        return False
    pipe.fill -= <uint32_t>n
    count_out(engine, relay, <uint64_t>n)
    return True


cdef void drop_pipe(Engine* engine, Relay* relay) noexcept nogil:
    # Lent only while bytes move: an empty pipe goes back when its relay has to wait.
    if relay.pipe != NO_PIPE and engine.pipes.pipes[relay.pipe].fill == 0:
        return_pipe(&engine.pipes, relay.pipe)
        relay.pipe = NO_PIPE


cdef void source_end(Engine* engine, Relay* relay) noexcept nogil:
    # The source's stream ended (recv returned 0). Complete only where the framing says that closing is the end.
    if relay.source_framing == FRAME_UNTIL_CLOSE or relay.source_framing == FRAME_TUNNEL:
        relay.source_ended = True
        if relay.sink_framing == FRAME_CHUNKED:
            emit(engine, relay, 0, NULL, 0)
    else:
        relay.state = RELAY_SOURCE_FAILED


cdef void relay_run(Engine* engine, Relay* relay) noexcept nogil:
    # Moves bytes until the source has none, the sink takes none, the framing ends or this turn is used up. Look at relay.state
    # afterwards; RELAY_RUNNING means that an event (or the ready list) will bring it on.
    cdef:
        uint32_t turn = 0, used, wanted
        ssize_t n
        Buffer* input
    while relay.state == RELAY_RUNNING:
        if relay.pending != NULL and not flush_pending(engine, relay):
            return
        if relay.pipe != NO_PIPE:
            if turn >= RELAY_TURN_BYTES:
                list_ready(engine, relay.sink if relay.source_ended else relay.source)
                return
            if splice_turn(engine, relay, &turn):
                finish_if_done(engine, relay)
                if relay.state == RELAY_DONE:
                    drop_pipe(engine, relay)
                continue
            drop_pipe(engine, relay)
            if relay.source_ended:
                finish_if_done(engine, relay)
            if relay.state != RELAY_RUNNING or relay.pipe != NO_PIPE or relay.source_ended or not relay.source.io & IO_READABLE:
                return
            continue
        if relay.source_ended:
            finish_if_done(engine, relay)
            return
        if not relay.sink.io & IO_WRITABLE:
            return
        if relay.source.input != NULL:
            input = relay.source.input
            relay.source.input = NULL           # `take` may append what is not this body's to it: hold it apart meanwhile
            used = take(engine, relay, 0, input.data + input.start, input.end - input.start)
            input.start += used
            if input.start < input.end:
                relay.source.input = input
            else:
                return_buffer(&engine.buffers, input)
            finish_if_done(engine, relay)
            continue
        if not relay.source.io & IO_READABLE:
            return
        if turn >= RELAY_TURN_BYTES:
            list_ready(engine, relay.source)
            return
        if wants_splice(relay):
            relay.pipe = take_pipe(&engine.pipes)
            if relay.pipe != NO_PIPE:
                continue
        wanted = relay.read_size
        n = relay.source.transport.receive(engine, relay.source, engine.read_buffer, wanted)
        if n > 0:
            turn += <uint32_t>n
            if relay.sink_framing == FRAME_TUNNEL:
                pass_on(engine, relay, <uint32_t>n, wanted)
            else:
                count_in(engine, relay, <uint64_t>n)
                used = take(engine, relay, 0, engine.read_buffer, <uint32_t>n)
                if used < <uint32_t>n:
                    keep_extra(engine, relay, engine.read_buffer + used, <uint32_t>n - used)
            if relay.state != RELAY_RUNNING:
                return
            if <uint32_t>n == wanted:
                if relay.pending == NULL and wanted < MAX_READ_BYTES:
                    relay.read_size = wanted * 2 if wanted * 2 < MAX_READ_BYTES else MAX_READ_BYTES
            elif relay.source_framing == FRAME_TUNNEL:
                relay.read_size = RELAY_READ_BYTES
            finish_if_done(engine, relay)
        elif n == 0:
            source_end(engine, relay)
            if relay.state == RELAY_RUNNING:
                finish_if_done(engine, relay)
        elif n == IO_AGAIN:
            return
        else:
            relay.state = RELAY_SOURCE_FAILED
