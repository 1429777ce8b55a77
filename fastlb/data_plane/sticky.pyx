"""Sticky sessions: a client that comes back gets the backend that it had.

    begin_sticky, before the first attempt      exchange.sticky: where the client belongs
    pick_sticky, before each pick               that backend, if it can take the request; else the pool's algorithm picks, or nobody does
    note_sticky_answer, at the response head    the client belongs to the backend that answered: it is told so

The cookie of ours (STICKY_COOKIE) holds what a keyed hash makes of the backend's identity: it names no address, cannot be made up, and leads
to a backend of this pool only. The control plane computes it once for each backend; here is nothing but a look-up. With a lifetime the cookie
also says since when the client has it, so that it is renewed when half of that is over and not with every response; whoever changes that
date shortens or lengthens their own.

A cookie of the application (STICKY_LEARN) and the client's address (STICKY_SOURCE) are looked up in the node's table (sticky_table.pyx), where
an answer notes them. A cookie gets there when a backend has set it, never because a client sent it: nobody fills the table with what they made
up. The table gives the number of a row, which is looked for among the rows of this pool (Pool.sticky_rows): no other backend can come of it,
whatever the table says.

Owns Pool.sticky_rows; else it reads the snapshot's image and changes the exchange. Requests to pools without `sticky` never come here.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from fastlb.data_plane.cookie cimport Cookie, find_cookie, is_blank, is_named, next_cookie
from fastlb.data_plane.failure cimport FAILURE_NO_STICKY_BACKEND, FAILURE_POOL_FULL
from fastlb.data_plane.trust cimport is_trusted
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.image cimport fits, text_fits
from fastlb.data_plane.retry cimport was_tried
from fastlb.data_plane.shared_table cimport STICKY_BUCKETS
from fastlb.data_plane.siphash cimport siphash
from fastlb.data_plane.sticky_table cimport MAX_STICKY_TICKS, NOTED_INSTEAD, NOTED_NEW, StickyNoted, StickyPart, note_sticky
from fastlb.data_plane.sticky_table cimport find_sticky as look_up
from fastlb.data_plane.system cimport likely, load_now, load_relaxed, memchr, memcmp, memcpy, memmove
from fastlb.data_plane.types cimport (HEADER_COOKIE, HEADER_SET_COOKIE, HEADER_X_FORWARDED_PROTO, MAX_COOKIE_ATTRIBUTES_BYTES, MAX_COOKIE_NAME_BYTES, NO_BACKEND,
                                      NO_INDEX, ROW_DRAIN, STICKY_COOKIE, STICKY_DRAIN, STICKY_INDIRECT, STICKY_KINDS, STICKY_LEARN, STICKY_NOCACHE, STICKY_REJECT,
                                      STICKY_SECURE, STICKY_SECURE_AUTO, STICKY_SOURCE, STICKY_VALUE_BYTES, X_CAME_BY_TLS, X_COOKIE_OLD, X_SET_COOKIE,
                                      X_STICKY, Buffer, Connection, Engine, Exchange, Head, HeaderField, ImageBackend, ImageHeader, ImagePool,
                                      ImageSticky, Pool, PoolBackend)
from fastlb.data_plane.writer cimport Writer, put

cdef enum:
    DATE_DIGITS = 8                 # hexadecimal: seconds since 1970, until 2106
    DATED_VALUE_BYTES = STICKY_VALUE_BYTES + 1 + DATE_DIGITS

cdef const char* HEX = b"0123456789abcdef"


cdef ImageSticky NAMED                  # of exchanges whose pool has none: their client says by itself where it belongs (QUIC)
NAMED.kind = STICKY_SOURCE
NAMED.flags = STICKY_DRAIN


cdef inline const ImageSticky* sticky_of(const Exchange* exchange) noexcept nogil:
    # For an exchange with X_STICKY, while it holds its snapshot.
    if exchange.pool.image.sticky == <uint32_t>NO_INDEX:
        return &NAMED
    return (<const ImageSticky*>(exchange.snapshot.image + exchange.snapshot.header.stickies.offset)) + exchange.pool.image.sticky


cdef inline StickyPart part_of(const ImageSticky* sticky) noexcept nogil:
    cdef StickyPart part
    part.first = sticky.first
    part.mask = sticky.mask
    return part


cdef inline const ImageBackend* backends_of(const Exchange* exchange) noexcept nogil:
    return (<const ImageBackend*>(exchange.snapshot.image + exchange.snapshot.header.backends.offset)) + exchange.pool.image.backends.offset


cdef bint check_sticky(const char* image, size_t size, const ImagePool* pool) noexcept nogil:
    # A part of check_image: whether what a pool says of this is in the image. Its backends are.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageSticky* sticky = <const ImageSticky*>(image + header.stickies.offset) + pool.sticky
        const uint32_t* slots
        uint32_t i, n, empty = 0
    if pool.sticky == <uint32_t>NO_INDEX:
        return True
    if pool.sticky >= header.stickies.count or sticky.kind >= STICKY_KINDS or not text_fits(size, &sticky.cookie) \
            or sticky.cookie.size > MAX_COOKIE_NAME_BYTES or not text_fits(size, &sticky.attributes) \
            or sticky.attributes.size > MAX_COOKIE_ATTRIBUTES_BYTES or not fits(size, &sticky.slots, sizeof(uint32_t)):
        return False
    if sticky.kind != STICKY_COOKIE:
        return sticky.first < STICKY_BUCKETS and sticky.mask < STICKY_BUCKETS and sticky.mask & (sticky.mask + 1) == 0 \
            and sticky.ticks - 1 < <uint32_t>MAX_STICKY_TICKS and sticky.v4_bits <= 32 and sticky.v6_bits <= 128
    slots = <const uint32_t*>(image + sticky.slots.offset)
    n = sticky.slots.count
    if sticky.cookie.size == 0 or n == 0 or n & (n - 1):
        return False
    for i in range(n):
        if slots[i] > pool.backends.count:
            return False
        empty += slots[i] == 0
    return empty != 0                           # a look-up ends at an empty slot


cdef inline uint32_t row_slot(uint32_t row, uint32_t mask) noexcept nogil:
    return (row * <uint32_t>0x9E3779B1 >> 16) & mask


cdef bint load_sticky(const char* image, Pool* pool) noexcept nogil:
    # Makes the table of a pool's rows, where it needs one; its backends are there. False: out of memory.
    cdef:
        const ImageSticky* sticky = <const ImageSticky*>(image + (<const ImageHeader*>image).stickies.offset) + pool.image.sticky
        uint32_t i, at, mask = 3
    if sticky.kind == STICKY_COOKIE:
        return True
    while mask < 2 * pool.n_backends:
        mask = mask * 2 + 1
    pool.sticky_rows = <uint32_t*>calloc(<size_t>mask + 1, sizeof(uint32_t))
    if pool.sticky_rows == NULL:
        return False
    pool.sticky_row_mask = mask
    for i in range(pool.n_backends):
        at = row_slot(pool.backends[i].row.number, mask)
        while pool.sticky_rows[at] != 0:
            at = (at + 1) & mask
        pool.sticky_rows[at] = i + 1
    return True


# ---------------------------------------------------------------------------------------------------------- the request
cdef int32_t find_backend(const Exchange* exchange, const ImageSticky* sticky, const char* value) noexcept nogil:
    # The backend that a cookie's value of STICKY_VALUE_BYTES calls so, in the pool, or NO_BACKEND.
    cdef:
        const uint32_t* slots = <const uint32_t*>(exchange.snapshot.image + sticky.slots.offset)
        const ImageBackend* backends = backends_of(exchange)
        uint32_t mask = sticky.slots.count - 1, at = hash_sticky_value(value) & mask
    while slots[at] != 0:
        if memcmp(backends[slots[at] - 1].cookie, value, STICKY_VALUE_BYTES) == 0:
            return <int32_t>(slots[at] - 1)
        at = (at + 1) & mask
    return NO_BACKEND


cdef int64_t read_date(const char* digits) noexcept nogil:
    # DATE_DIGITS in hexadecimal, as we write them; -1: they are not.
    cdef:
        int64_t value = 0
        uint32_t i
        char digit
    for i in range(DATE_DIGITS):
        digit = digits[i]
        if c"0" <= digit <= c"9":
            value = value << 4 | (digit - c"0")
        elif c"a" <= digit <= c"f":
            value = value << 4 | (digit - c"a" + 10)
        else:
            return -1
    return value


cdef inline int64_t wall_s(const Engine* engine) noexcept nogil:
    return <int64_t>((engine.now_ms + engine.wall_offset_ms) // 1000)


cdef int32_t read_cookie(Engine* engine, Exchange* exchange, const ImageSticky* sticky, const Cookie* cookie) noexcept nogil:
    # Where our cookie says that the client belongs, or NO_BACKEND. Notes whether it has to be renewed.
    cdef int64_t date = -1, age_s
    if cookie.value_size == DATED_VALUE_BYTES and cookie.value[STICKY_VALUE_BYTES] == c".":
        date = read_date(cookie.value + STICKY_VALUE_BYTES + 1)
        if date < 0:
            return NO_BACKEND
    elif cookie.value_size != STICKY_VALUE_BYTES:
        return NO_BACKEND
    if sticky.lifetime_s != 0:
        age_s = wall_s(engine) - date           # without a date: very old
        if age_s < 0 or 2 * age_s >= sticky.lifetime_s:
            exchange.flags |= X_COOKIE_OLD
    elif date >= 0:
        exchange.flags |= X_COOKIE_OLD          # from a time when there was a lifetime: now it is to last for a session
    return find_backend(exchange, sticky, cookie.value)


cdef char* keep_others(const char* at, const char* end, char* out, const char* name, uint32_t size) noexcept nogil:
    # Copies the parts of a Cookie field [at, end) that are not the cookie `name` to `out`, which is at `at` or before it; the end of what was
    # written. Equal to `out`: nothing is left.
    cdef:
        Cookie cookie
        char* start = out
        const char* stop
    while at < end:
        stop = <const char*>memchr(at, c";", <size_t>(end - at))
        if stop == NULL:
            stop = end
        if not (next_cookie(at, stop, &cookie) and is_named(&cookie, name, size)):
            if out != start:
                out[0] = c";"
                out += 1
            else:
                while at < stop and is_blank(at):
                    at += 1
            memmove(out, at, <size_t>(stop - at))
            out += stop - at
        at = stop + 1
    return out


cdef void hide_cookie(Engine* engine, Exchange* exchange, const char* name, uint32_t name_size) noexcept nogil:
    # Takes a cookie out of the kept head (engine.request), which attempts send from, and has that parsed again. A Cookie field without any
    # other goes as a whole.
    cdef:
        Head* head = &engine.request
        Buffer* kept = exchange.request_head
        const HeaderField* field
        const char* rest = kept.data            # what follows what has been written
        char* out = kept.data
        char* start
        char* end
        uint32_t i
    for i in range(head.n_fields):
        field = &head.fields[i]
        if field.id != HEADER_COOKIE:
            continue
        start = out + (kept.data + field.name - rest)           # the field's new place
        memmove(out, rest, <size_t>(kept.data + field.value - rest))
        out += kept.data + field.value - rest
        end = keep_others(kept.data + field.value, kept.data + field.value + field.value_size, out, name, name_size)
        if end == out:
            out = start
            rest = kept.data + field.end
        else:
            out = end
            rest = kept.data + field.value + field.value_size
    memmove(out, rest, <size_t>(kept.data + head.size - rest))
    out += kept.data + head.size - rest
    kept.end = <uint32_t>(out - kept.data)
    head.data = NULL
    kept_request(engine, exchange)


cdef int32_t find_noted(Engine* engine, Exchange* exchange, const ImageSticky* sticky, const char* key, size_t size) noexcept nogil:
    # Where the node's table says that this client belongs, or NO_BACKEND. Leaves its hash for the answer: 0 where a learned cookie is not there.
    cdef:
        const Pool* pool = exchange.pool
        const uint64_t* secret = engine.shared.header.sticky_key
        uint64_t hash = siphash(secret[0] ^ sticky.pool_hash, secret[1] ^ sticky.kind, key, size)
        uint32_t row = look_up(engine.shared, part_of(sticky), hash, engine.now_ms), at = row_slot(row, pool.sticky_row_mask)
    exchange.sticky_hash = hash if row != 0 or sticky.kind == STICKY_SOURCE else 0
    while row != 0 and pool.sticky_rows[at] != 0:
        if pool.backends[pool.sticky_rows[at] - 1].row.number == row:
            return <int32_t>(pool.sticky_rows[at] - 1)
        at = (at + 1) & pool.sticky_row_mask
    return NO_BACKEND


cdef bint mask_address(const Connection* client, const ImageSticky* sticky, uint8_t* address) noexcept nogil:
    # The part of the client's address that counts, in 16 bytes, the rest of which is zero. False: it has none (a unix socket).
    cdef:
        uint32_t i, bits = 96 + sticky.v4_bits if client.peer.ip_version == 4 else sticky.v6_bits
    if client.peer.ip_version == 0:
        return False
    memcpy(address, client.peer.ip, 16)
    for i in range(16):
        if bits < 8:
            address[i] &= <uint8_t>(0xFF00 >> bits)
            bits = 0
        else:
            bits -= 8
    return True


cdef bint came_by_tls(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # Whether the client came to the nearest proxy before us by TLS, as far as that says and is trusted.
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* value
        uint32_t _i
    if not (head.seen >> HEADER_X_FORWARDED_PROTO) & 1 or not is_trusted(engine, exchange):
        return False
    for _i in range(head.n_fields):
        if field.id == HEADER_X_FORWARDED_PROTO:
            value = head.data + field.value
            return field.value_size == 5 and (value[0] | 0x20) == c"h" and (value[1] | 0x20) == c"t" and (value[2] | 0x20) == c"t" \
                and (value[3] | 0x20) == c"p" and (value[4] | 0x20) == c"s"
        field += 1
    return False


cdef void begin_sticky(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # Finds out where the client belongs. `head` is engine.request; afterwards it may be a shorter one.
    cdef:
        const ImageSticky* sticky = sticky_of(exchange)
        const char* name = exchange.snapshot.image + sticky.cookie.offset
        Cookie cookie
        uint8_t address[16]
    exchange.flags |= X_STICKY
    exchange.sticky = NO_BACKEND
    if sticky.kind == STICKY_LEARN:
        if find_cookie(head, name, sticky.cookie.size, &cookie) and cookie.value_size != 0:
            exchange.sticky = find_noted(engine, exchange, sticky, cookie.value, cookie.value_size)
        return
    if sticky.kind == STICKY_SOURCE:
        if mask_address(exchange.client, sticky, address):
            exchange.sticky = find_noted(engine, exchange, sticky, <const char*>address, 16)
        return
    if sticky.flags & STICKY_SECURE_AUTO and came_by_tls(engine, exchange, head):
        exchange.flags |= X_CAME_BY_TLS
    if find_cookie(head, name, sticky.cookie.size, &cookie):
        exchange.sticky = read_cookie(engine, exchange, sticky, &cookie)
        if sticky.flags & STICKY_INDIRECT:
            hide_cookie(engine, exchange, name, sticky.cookie.size)


# ---------------------------------------------------------------------------------------------------------- the pick
cdef bint has_room(const PoolBackend* backend) noexcept nogil:
    return backend.max_in_flight == 0 or load_relaxed(&backend.shared.in_flight) < <int64_t>backend.max_in_flight


cdef bint may_return(const PoolBackend* backend, uint32_t flags) noexcept nogil:
    # Whether those who belong to a backend may be sent there: it has an address and is up, and takes part in picks, or takes part no more
    # (it drains, or has weight 0) and they still may come.
    cdef uint32_t state = load_now(&backend.shared.state) & backend.barred_by
    if backend.row.address_size == 0:
        return False
    if backend.weight == 0 or state == ROW_DRAIN:
        return flags & STICKY_DRAIN and state & ~<uint32_t>ROW_DRAIN == 0
    return state == 0


cdef bint can_return(const PoolBackend* backend) noexcept nogil:
    # Whether those who name this backend as their own may be sent there now.
    return may_return(backend, NAMED.flags) and has_room(backend)


cdef int32_t pick_sticky(const Exchange* exchange, uint32_t* failure) noexcept nogil:
    # Where the client belongs, if that backend can take this attempt; else NO_BACKEND, for the pool's algorithm to pick, unless *failure
    # says why no other backend may be asked.
    cdef:
        const ImageSticky* sticky = sticky_of(exchange)
        const PoolBackend* backend
        bint tried
    if exchange.sticky == NO_BACKEND:
        return NO_BACKEND
    backend = &exchange.pool.backends[exchange.sticky]
    tried = was_tried(exchange, exchange.sticky)
    if likely(not tried and may_return(backend, sticky.flags) and has_room(backend)):
        return exchange.sticky
    if sticky.flags & STICKY_REJECT:
        if tried:
            failure[0] = exchange.failure
        else:
            failure[0] = FAILURE_POOL_FULL if may_return(backend, sticky.flags) else FAILURE_NO_STICKY_BACKEND
    return NO_BACKEND


cdef bint is_bound(const Exchange* exchange) noexcept nogil:
    # Of X_STICKY: whether no other backend may be asked than where the client belongs.
    return exchange.sticky != NO_BACKEND and sticky_of(exchange).flags & STICKY_REJECT


# ---------------------------------------------------------------------------------------------------------- the response
cdef bint find_set_cookie(const Head* head, const char* name, uint32_t size, Cookie* cookie) noexcept nogil:
    # The cookie that a response sets under this name, the last where it does so more than once; False: none, or one without a value.
    cdef:
        const HeaderField* field = &head.fields[0]
        Cookie each
        bint found = False
        uint32_t _i
    if not (head.seen >> HEADER_SET_COOKIE) & 1:
        return False
    for _i in range(head.n_fields):
        if field.id == HEADER_SET_COOKIE and next_cookie(head.data + field.value, head.data + field.value + field.value_size, &each) \
                and each.name == head.data + field.value and is_named(&each, name, size):       # not one of its attributes
            cookie[0] = each
            found = each.value_size != 0
        field += 1
    return found


cdef void note_row(Engine* engine, const ImageSticky* sticky, uint64_t hash, uint32_t row) noexcept nogil:
    cdef StickyNoted noted = note_sticky(engine.shared, part_of(sticky), hash, row, sticky.ticks, engine.now_ms)
    if noted == NOTED_NEW or noted == NOTED_INSTEAD:
        engine.counters.sticky_noted += 1
    if noted == NOTED_INSTEAD:
        engine.counters.sticky_forgotten += 1


cdef void note_sticky_answer(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # The final response head of the backend that the client belongs to from now on.
    cdef:
        const ImageSticky* sticky = sticky_of(exchange)
        const uint64_t* secret = engine.shared.header.sticky_key
        Cookie cookie
    if exchange.attempt.pick == exchange.sticky:
        engine.counters.sticky_kept += 1
    elif exchange.sticky != NO_BACKEND:
        engine.counters.sticky_moved += 1
    if sticky.kind == STICKY_COOKIE:
        if exchange.attempt.pick != exchange.sticky or exchange.flags & X_COOKIE_OLD:
            exchange.flags |= X_SET_COOKIE
        return
    if sticky.kind == STICKY_LEARN and find_set_cookie(head, exchange.snapshot.image + sticky.cookie.offset, sticky.cookie.size, &cookie):
        exchange.sticky_hash = siphash(secret[0] ^ sticky.pool_hash, secret[1] ^ sticky.kind, cookie.value, cookie.value_size)
    if exchange.sticky_hash != 0:
        note_row(engine, sticky, exchange.sticky_hash, exchange.attempt.backend.number)


cdef void put_sticky_cookie(Engine* engine, const Exchange* exchange, Writer* out) noexcept nogil:
    # The Set-Cookie field of an exchange with X_SET_COOKIE, which still holds its attempt and its snapshot.
    cdef:
        const ImageSticky* sticky = sticky_of(exchange)
        const char* image = exchange.snapshot.image
        char date[DATE_DIGITS + 1]
        int64_t now_s
        uint32_t i
    put(out, b"Set-Cookie: ", 12)
    put(out, image + sticky.cookie.offset, sticky.cookie.size)
    put(out, b"=", 1)
    put(out, backends_of(exchange)[exchange.attempt.pick].cookie, STICKY_VALUE_BYTES)
    if sticky.lifetime_s != 0:
        now_s = wall_s(engine)
        date[0] = c"."
        for i in range(DATE_DIGITS):
            date[DATE_DIGITS - i] = HEX[now_s & 15]
            now_s >>= 4
        put(out, date, DATE_DIGITS + 1)
    put(out, image + sticky.attributes.offset, sticky.attributes.size)
    if sticky.flags & STICKY_SECURE or (sticky.flags & STICKY_SECURE_AUTO and exchange.flags & X_CAME_BY_TLS):
        put(out, b"; Secure", 8)
    put(out, b"\r\n", 2)
    if sticky.flags & STICKY_NOCACHE:
        put(out, b"Cache-Control: private\r\n", 24)
