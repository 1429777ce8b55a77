"""Headers of the PROXY protocol, read and written: who the client of a connection is that somebody passes on. Versions 1 (a line) and 2 (binary). No state.

Nothing is taken and nothing copied but addresses. Whatever does not follow the protocol to the letter is refused, because whoever wrote it would be
believed about who its client is: a header is whole or it is none, sizes are those of what they hold, nothing is said twice, a check sum that
is there holds. A header has an end of its own, so nothing that follows it changes what it says.

Source: doc/proxy-protocol.txt of HAProxy; section 2.1 is version 1, section 2.2 version 2.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastlb.data_plane.part cimport Part, take_number, take_part
from fastlb.data_plane.system cimport AF_INET, AF_INET6, inet_ntop, inet_pton, memchr, memcmp, memcpy, memset, strlen
from fastlb.data_plane.transport cimport write_address
from fastlb.data_plane.types cimport (ADDRESS_TEXT_BYTES, MAX_PROXY_HEADER_BYTES, PROXY_ALPN, PROXY_AUTHORITY, PROXY_CLIENT_NAME, PROXY_SENDS_CHECK_SUM,
                                      PROXY_SENDS_LINE, PROXY_TLS_CIPHER, PROXY_TLS_VERSION, PROXY_UNIQUE_ID)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef enum:
    MAX_LINE_BYTES = 107            # with the longest addresses, and its end
    MIN_BINARY_BYTES = 16           # up to the size of what follows
    VERSION_2 = 0x20
    LOCAL = 0
    PROXY = 1
    IPV4 = 1                        # families: the upper half of a byte
    IPV6 = 2
    UNIX = 3
    STREAM = 1                      # the lower half
    DATAGRAMS = 2
    UNIX_ADDRESS_BYTES = 108
    TYPE_ALPN = 0x01
    TYPE_AUTHORITY = 0x02
    TYPE_CHECK_SUM = 0x03
    TYPE_NOTHING = 0x04             # fills up
    TYPE_UNIQUE_ID = 0x05
    TYPE_TLS = 0x20
    TYPE_TLS_VERSION = 0x21
    TYPE_TLS_NAME = 0x22
    TYPE_TLS_CIPHER = 0x23
    TYPES_TOLD_APART = 64           # those registered; what is above is for others to define, and may come as often as they like
    MAX_UNIQUE_ID_BYTES = 128
    CHECK_SUM_BYTES = 4

cdef const char* LINE_START = b"PROXY "
cdef const char* SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
cdef const char* MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"    # before an IPv4 address: IPv6

# CRC-32C of each byte (RFC 4960 appendix B). Filled when the module is imported and never written again.
cdef uint32_t CHECK[256]


def _fill_check() -> None:
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        CHECK[byte] = value


_fill_check()


cdef uint32_t add_to_check(uint32_t check, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        check = check >> 8 ^ CHECK[(check ^ data[i]) & 0xFF]
    return check


# ---------------------------------------------------------------------------------------------------------- version 1
cdef bint take_word(Part* line, Part* word) noexcept nogil:
    # Up to the next space, which goes with it, or the end. False: there is nothing.
    word.at = line.at
    word.size = 0
    while word.size < line.size and word.at[word.size] != c" ":
        word.size += 1
    if word.size == 0:
        return False
    line.at += word.size
    line.size -= word.size
    if line.size == 1:
        return False                            # a space at the end
    if line.size != 0:
        line.at += 1
        line.size -= 1
    return True


cdef bint is_word(const Part* part, const char* word, uint32_t size) noexcept nogil:
    return part.size == size and memcmp(part.at, word, size) == 0


cdef bint take_address(Part* line, int family, uint8_t* address) noexcept nogil:
    # As inet_pton has it, which takes neither leading zeros in IPv4 nor anything around the address.
    cdef:
        Part word
        char text[ADDRESS_TEXT_BYTES]
    if not take_word(line, &word) or word.size >= ADDRESS_TEXT_BYTES or memchr(word.at, 0, word.size) != NULL:
        return False
    memcpy(text, word.at, word.size)
    text[word.size] = 0
    if family == AF_INET6:
        return inet_pton(AF_INET6, text, address) == 1
    memcpy(address, MAPPED, 12)
    return inet_pton(AF_INET, text, address + 12) == 1


cdef bint take_port(Part* line, uint16_t* port) noexcept nogil:
    cdef:
        Part word
        uint32_t value = 0, i
    if not take_word(line, &word) or word.size > 5 or (word.size > 1 and word.at[0] == c"0"):
        return False
    for i in range(word.size):
        if not c"0" <= word.at[i] <= c"9":
            return False
        value = value * 10 + word.at[i] - c"0"
    port[0] = <uint16_t>value
    return value <= 65535


cdef int parse_line(const char* data, uint32_t size, ProxyHeader* header) noexcept nogil:
    # Behind "PROXY ", up to the first end of a line, which has to come soon.
    cdef:
        const char* end = <const char*>memchr(data, c"\n", min(size, <uint32_t>MAX_LINE_BYTES))
        Part line, word
        uint32_t i
        int family = AF_INET
    if end == NULL:
        return 1 if size < <uint32_t>MAX_LINE_BYTES else PROXY_MALFORMED
    header.size = <uint32_t>(end - data) + 1
    line.at = <const uint8_t*>data + 6
    line.size = header.size - 6
    if line.size < 2 or (end - 1)[0] != c"\r":
        return PROXY_MALFORMED
    line.size -= 2
    for i in range(line.size):
        if not 0x20 <= line.at[i] < 0x7F:
            return PROXY_MALFORMED
    if line.size >= 7 and memcmp(line.at, b"UNKNOWN", 7) == 0 and (line.size == 7 or line.at[7] == c" "):
        return PROXY_PARSED                     # whatever follows means nothing
    if not take_word(&line, &word):
        return PROXY_MALFORMED
    if is_word(&word, b"TCP6", 4):
        family = AF_INET6
    elif not is_word(&word, b"TCP4", 4):
        return PROXY_MALFORMED
    header.client = PROXY_INTERNET
    if not take_address(&line, family, header.source) or not take_address(&line, family, header.destination) \
            or not take_port(&line, &header.source_port) or not take_port(&line, &header.destination_port) or line.size != 0:
        return PROXY_MALFORMED
    return PROXY_PARSED


# ---------------------------------------------------------------------------------------------------------- version 2
cdef bint take_addresses(Part* rest, uint32_t kind, ProxyHeader* header) noexcept nogil:
    # Of a family and a kind of transport that are defined. False: they are not, or the addresses do not fit.
    cdef:
        uint32_t size = 4, port = 0
        uint32_t family = kind >> 4
    if kind & 15 != STREAM and kind & 15 != DATAGRAMS:
        return False
    if family == UNIX:
        header.client = PROXY_UNIX
        if rest.size < 2 * UNIX_ADDRESS_BYTES:
            return False
        rest.at += 2 * UNIX_ADDRESS_BYTES
        rest.size -= 2 * UNIX_ADDRESS_BYTES
        return True
    if family == IPV6:
        size = 16
    elif family != IPV4:
        return False
    if rest.size < 2 * size + 4:
        return False
    header.client = PROXY_INTERNET
    memcpy(header.source, MAPPED, 12)
    memcpy(header.destination, MAPPED, 12)
    memcpy(header.source + 16 - size, rest.at, size)
    memcpy(header.destination + 16 - size, rest.at + size, size)
    rest.at += 2 * size
    rest.size -= 2 * size
    take_number(rest, 2, &port)
    header.source_port = <uint16_t>port
    take_number(rest, 2, &port)
    header.destination_port = <uint16_t>port
    return True


cdef bint has_come(uint64_t* seen, uint32_t kind) noexcept nogil:
    # Whether something of this type, which says something once, comes a second time.
    if kind >= TYPES_TOLD_APART or kind == TYPE_NOTHING:
        return False
    if seen[0] >> kind & 1:
        return True
    seen[0] |= <uint64_t>1 << kind
    return False


cdef bint read_tls(Part* rest, ProxyHeader* header) noexcept nogil:
    cdef:
        Part part
        uint64_t seen = 0
        uint32_t kind = 0
    if not take_number(rest, 1, &header.tls) or not take_number(rest, 4, &header.verify):
        return False
    while rest.size != 0:
        if not take_number(rest, 1, &kind) or not take_part(rest, 2, &part) or has_come(&seen, kind):
            return False
        if kind == TYPE_TLS_VERSION:
            header.said[<uint32_t>PROXY_TLS_VERSION] = part
        elif kind == TYPE_TLS_CIPHER:
            header.said[<uint32_t>PROXY_TLS_CIPHER] = part
        elif kind == TYPE_TLS_NAME:
            header.said[<uint32_t>PROXY_CLIENT_NAME] = part
    return True


cdef bint holds(const uint8_t* data, uint32_t size, const uint8_t* found) noexcept nogil:
    # Whether the check sum at `found` in this header is right: it was made with zeros in its own place.
    cdef:
        uint8_t zeros[CHECK_SUM_BYTES]
        uint32_t before = <uint32_t>(found - data), check
    memset(zeros, 0, CHECK_SUM_BYTES)
    check = add_to_check(0xFFFFFFFF, data, before)
    check = add_to_check(check, zeros, CHECK_SUM_BYTES)
    check = ~add_to_check(check, found + CHECK_SUM_BYTES, size - before - CHECK_SUM_BYTES)
    return check == (<uint32_t>found[0] << 24 | <uint32_t>found[1] << 16 | <uint32_t>found[2] << 8 | found[3])


cdef bint read_facts(const uint8_t* data, Part* rest, ProxyHeader* header) noexcept nogil:
    # What stands behind the addresses: type, size, value.
    cdef:
        Part part
        uint64_t seen = 0
        uint32_t kind = 0
        const uint8_t* check_sum = NULL
    while rest.size != 0:
        if not take_number(rest, 1, &kind) or not take_part(rest, 2, &part) or has_come(&seen, kind):
            return False
        if kind == TYPE_ALPN:
            header.said[<uint32_t>PROXY_ALPN] = part
        elif kind == TYPE_AUTHORITY:
            header.said[<uint32_t>PROXY_AUTHORITY] = part
        elif kind == TYPE_UNIQUE_ID:
            if part.size > MAX_UNIQUE_ID_BYTES:
                return False
            header.said[<uint32_t>PROXY_UNIQUE_ID] = part
        elif kind == TYPE_CHECK_SUM:
            if part.size != CHECK_SUM_BYTES:
                return False
            check_sum = part.at
        elif kind == TYPE_TLS and not read_tls(&part, header):
            return False
    return check_sum == NULL or holds(data, header.size, check_sum)


cdef int parse_binary(const char* data, uint32_t size, ProxyHeader* header) noexcept nogil:
    cdef:
        const uint8_t* bytes = <const uint8_t*>data
        Part rest
        uint32_t kind
    if size < MIN_BINARY_BYTES:
        return <int>(MIN_BINARY_BYTES - size)
    rest.at = bytes + MIN_BINARY_BYTES
    rest.size = <uint32_t>bytes[14] << 8 | bytes[15]
    header.size = MIN_BINARY_BYTES + rest.size
    if header.size > <uint32_t>MAX_PROXY_HEADER_BYTES or bytes[12] & 0xF0 != VERSION_2 or bytes[12] & 0x0F > PROXY:
        return PROXY_MALFORMED
    if size < header.size:
        return <int>(header.size - size)
    kind = bytes[13]
    if bytes[12] & 0x0F == LOCAL or kind == 0:
        return PROXY_PARSED                     # the sender speaks for itself, or does not know for whom; the rest means nothing
    return PROXY_PARSED if take_addresses(&rest, kind, header) and read_facts(bytes, &rest, header) else PROXY_MALFORMED


cdef int parse_proxy_header(const char* data, uint32_t size, ProxyHeader* header) noexcept nogil:
    # Reads the header that begins at `data`. PROXY_PARSED; at least so many more bytes are needed (above 0), of which there will never be more than
    # MAX_PROXY_HEADER_BYTES altogether; or another PROXY_*, which more bytes do not change. Only what is parsed has anything in `header`.
    memset(header, 0, sizeof(ProxyHeader))
    if size == 0:
        return 1
    if memcmp(data, SIGNATURE, min(size, 12)) == 0:
        return parse_binary(data, size, header) if size >= 12 else <int>(MIN_BINARY_BYTES - size)
    if memcmp(data, LINE_START, min(size, 6)) == 0:
        return parse_line(data, size, header) if size >= 6 else 1
    return PROXY_MISSING


# ---------------------------------------------------------------------------------------------------------- writing
cdef inline bint is_ipv4(const uint8_t* address) noexcept nogil:
    return memcmp(address, MAPPED, 12) == 0


cdef void put_text_address(Writer* out, const uint8_t* address, bint as_ipv4) noexcept nogil:
    cdef char text[ADDRESS_TEXT_BYTES]
    if as_ipv4:
        write_address(address, text)
    else:
        inet_ntop(AF_INET6, address, text, ADDRESS_TEXT_BYTES)
    put(out, text, strlen(text))
    put(out, b" ", 1)


cdef void write_line(const ProxyHeader* header, Writer* out) noexcept nogil:
    cdef bint as_ipv4 = is_ipv4(header.source) and is_ipv4(header.destination)
    if header.client != PROXY_INTERNET:
        put(out, b"PROXY UNKNOWN\r\n", 15)
        return
    put(out, b"PROXY TCP4 " if as_ipv4 else b"PROXY TCP6 ", 11)
    put_text_address(out, header.source, as_ipv4)
    put_text_address(out, header.destination, as_ipv4)
    put_number(out, header.source_port)
    put(out, b" ", 1)
    put_number(out, header.destination_port)
    put(out, b"\r\n", 2)


cdef void put_bytes(Writer* out, uint32_t number, uint32_t n_bytes) noexcept nogil:
    # In network order.
    cdef:
        uint8_t bytes[4]
        uint32_t i
    for i in range(n_bytes):
        bytes[i] = <uint8_t>(number >> 8 * (n_bytes - 1 - i))
    put(out, <const char*>bytes, n_bytes)


cdef void put_fact(Writer* out, uint32_t kind, const Part* fact) noexcept nogil:
    if fact.size != 0:
        put_bytes(out, kind, 1)
        put_bytes(out, fact.size, 2)
        put(out, <const char*>fact.at, fact.size)


cdef void put_tls(Writer* out, const ProxyHeader* header) noexcept nogil:
    cdef:
        uint32_t kinds[3]
        uint32_t facts[3]
        uint32_t size = 5, i
    kinds[0], kinds[1], kinds[2] = TYPE_TLS_VERSION, TYPE_TLS_NAME, TYPE_TLS_CIPHER
    facts[0], facts[1], facts[2] = PROXY_TLS_VERSION, PROXY_CLIENT_NAME, PROXY_TLS_CIPHER
    for i in range(3):
        size += 3 + header.said[facts[i]].size if header.said[facts[i]].size else 0
    put_bytes(out, TYPE_TLS, 1)
    put_bytes(out, size, 2)
    put_bytes(out, header.tls, 1)
    put_bytes(out, header.verify, 4)
    for i in range(3):
        put_fact(out, kinds[i], &header.said[facts[i]])


cdef void write_binary(const ProxyHeader* header, uint32_t flags, Writer* out) noexcept nogil:
    cdef:
        char* start = out.at
        uint8_t* bytes = <uint8_t*>start
        uint32_t at, size, check
        bint as_ipv4 = is_ipv4(header.source) and is_ipv4(header.destination)
    put(out, SIGNATURE, 12)
    put_bytes(out, VERSION_2 | PROXY, 1)
    if header.client != PROXY_INTERNET:
        put_bytes(out, 0, 3)                    # for whom is not known
        return
    put_bytes(out, (IPV4 if as_ipv4 else IPV6) << 4 | STREAM, 1)
    put_bytes(out, 0, 2)
    at = 12 if as_ipv4 else 0
    put(out, <const char*>header.source + at, 16 - at)
    put(out, <const char*>header.destination + at, 16 - at)
    put_bytes(out, header.source_port, 2)
    put_bytes(out, header.destination_port, 2)
    put_fact(out, TYPE_ALPN, &header.said[<uint32_t>PROXY_ALPN])
    put_fact(out, TYPE_AUTHORITY, &header.said[<uint32_t>PROXY_AUTHORITY])
    put_fact(out, TYPE_UNIQUE_ID, &header.said[<uint32_t>PROXY_UNIQUE_ID])
    if header.tls:
        put_tls(out, header)
    if flags & PROXY_SENDS_CHECK_SUM:
        put_bytes(out, TYPE_CHECK_SUM, 1)
        put_bytes(out, CHECK_SUM_BYTES, 2)
        put_bytes(out, 0, CHECK_SUM_BYTES)
    if out.overflow:
        return
    size = <uint32_t>(out.at - start)
    bytes[14] = <uint8_t>((size - MIN_BINARY_BYTES) >> 8)
    bytes[15] = <uint8_t>(size - MIN_BINARY_BYTES)
    if flags & PROXY_SENDS_CHECK_SUM:
        check = ~add_to_check(0xFFFFFFFF, bytes, size)
        out.at -= CHECK_SUM_BYTES
        put_bytes(out, check, CHECK_SUM_BYTES)


cdef uint32_t write_proxy_header(const ProxyHeader* header, uint32_t flags, char* data, uint32_t size) noexcept nogil:
    # What parse_proxy_header reads as this. `flags`: PROXY_SENDS_LINE or PROXY_SENDS_BINARY, that one perhaps with a check sum. Returns its size, 0:
    # it does not fit.
    cdef Writer out
    out.at = data
    out.end = data + size
    out.overflow = False
    if flags & PROXY_SENDS_LINE:
        write_line(header, &out)
    else:
        write_binary(header, flags, &out)
    return 0 if out.overflow else <uint32_t>(out.at - data)
