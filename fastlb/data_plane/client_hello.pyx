"""A client's first message of TLS (ClientHello, RFC 8446 section 4.1.2 and back to SSL 3.0), read by who passes it on. No state.

Nothing is taken and nothing copied but the name, unless the message came in several records. The sender may cut it into records as it likes
(RFC 8446 section 5.1), and these may come in pieces of a byte. What could be understood in two ways is refused, because who gets it next has
to read the same name: every size is checked against what holds it, no extension comes twice, nothing follows the end. With Encrypted
ClientHello (RFC 9849) the name is the outer one; the inner one is for whoever has its key.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.part cimport Part, take_number, take_part
from fastlb.data_plane.system cimport memchr, memcmp, memcpy, memset, unlikely
from fastlb.data_plane.types cimport MAX_HOST_BYTES

cdef enum:
    RECORD_HEADER_BYTES = 5
    MAX_RECORD_BYTES = 16384        # of plain text (RFC 8446 section 5.1)
    MESSAGE_HEADER_BYTES = 4
    CONTENT_HANDSHAKE = 22
    CLIENT_HELLO = 1
    SSL_3 = 3                       # the first byte of every version since SSL 3.0
    RANDOM_BYTES = 32
    MAX_SESSION_ID_BYTES = 32
    EXTENSION_SERVER_NAME = 0       # RFC 6066 section 3
    EXTENSION_ALPN = 16             # RFC 7301 section 3.1
    EXTENSION_SUPPORTED_VERSIONS = 43
    NAME_IS_HOST = 0
    MAX_LABEL_BYTES = 63            # RFC 1035 section 2.3.4


# ---------------------------------------------------------------------------------------------------------- records
cdef int find_message(const uint8_t* data, uint32_t size, ClientHello* hello, Part* message) noexcept nogil:
    # The message, without its header, out of its records; sets hello.size. Returns as parse_client_hello.
    cdef:
        uint8_t header[MESSAGE_HEADER_BYTES]
        uint32_t at = 0, gathered = 0, wanted = MESSAGE_HEADER_BYTES, missing, record, here, i
        uint32_t n_records = 0
    message.at = data + RECORD_HEADER_BYTES     # where it comes in one
    message.size = 0
    while gathered < wanted:
        if size - at > 0 and data[at] != CONTENT_HANDSHAKE or size - at > 1 and data[at + 1] != SSL_3:
            return HELLO_NOT_TLS if n_records == 0 else HELLO_MALFORMED
        if size - at < RECORD_HEADER_BYTES:
            missing = RECORD_HEADER_BYTES - (size - at) + wanted - gathered
            return <int>missing if size + missing <= <uint32_t>MAX_CLIENT_HELLO_BYTES else HELLO_TOO_LARGE
        record = <uint32_t>data[at + 3] << 8 | data[at + 4]
        if record - 1 >= <uint32_t>MAX_RECORD_BYTES:
            return HELLO_NOT_TLS if n_records == 0 else HELLO_MALFORMED
        at += RECORD_HEADER_BYTES
        here = min(record, size - at)
        i = 0
        while i < here and gathered + i < MESSAGE_HEADER_BYTES:
            header[gathered + i] = data[at + i]
            i += 1
        if gathered == 0 and here > 0 and header[0] != CLIENT_HELLO:
            return HELLO_NOT_TLS
        if gathered + here >= MESSAGE_HEADER_BYTES:
            wanted = MESSAGE_HEADER_BYTES + (<uint32_t>header[1] << 16 | <uint32_t>header[2] << 8 | header[3])
            if gathered + record > wanted:
                return HELLO_MALFORMED          # something behind it in the same record
        # All that is wanted of this and later records; where that is in this record, no further header is.
        missing = max(record, wanted - gathered) - here
        if at + here + missing > <uint32_t>MAX_CLIENT_HELLO_BYTES:
            return HELLO_TOO_LARGE
        if here < record:
            return <int>missing
        gathered += record
        at += record
        n_records += 1
    hello.size = at
    if unlikely(n_records > 1):
        message.at = hello.joined
        at = gathered = 0
        while at < hello.size:
            record = <uint32_t>data[at + 3] << 8 | data[at + 4]
            memcpy(hello.joined + gathered, data + at + RECORD_HEADER_BYTES, record)
            gathered += record
            at += RECORD_HEADER_BYTES + record
    message.at += MESSAGE_HEADER_BYTES
    message.size = wanted - MESSAGE_HEADER_BYTES
    return HELLO_PARSED


# ---------------------------------------------------------------------------------------------------------- extensions
cdef bint read_name(Part* extension, ClientHello* hello) noexcept nogil:
    # False: not one name of a host. Any other kind of name has never been defined, and its end could not be found.
    cdef:
        Part names, name
        uint32_t kind = 0, label = 0, i
        uint8_t byte
    if not take_part(extension, 2, &names) or extension.size != 0 or not take_number(&names, 1, &kind) or kind != NAME_IS_HOST \
            or not take_part(&names, 2, &name) or names.size != 0:
        return False
    if name.size != 0 and name.at[name.size - 1] == c".":
        name.size -= 1
    if name.size - 1 >= <uint32_t>(MAX_HOST_BYTES - 1):
        return False
    for i in range(name.size):
        byte = name.at[i]
        if c"A" <= byte <= c"Z":
            byte |= 0x20
        if byte == c".":
            if label == 0:
                return False
            label = 0
        elif c"a" <= byte <= c"z" or c"0" <= byte <= c"9" or byte == c"-" or byte == c"_":
            label += 1
            if label > <uint32_t>MAX_LABEL_BYTES:
                return False
        else:
            return False
        hello.server_name[i] = <char>byte
    hello.server_name_size = name.size
    return label != 0


cdef bint read_protocols(Part* extension, ClientHello* hello) noexcept nogil:
    cdef Part protocols, protocol
    if not take_part(extension, 2, &protocols) or extension.size != 0 or protocols.size == 0:
        return False
    hello.alpn = protocols.at
    hello.alpn_size = protocols.size
    while protocols.size != 0:
        if not take_part(&protocols, 1, &protocol) or protocol.size == 0:
            return False
    return True


cdef bint read_versions(Part* extension, ClientHello* hello) noexcept nogil:
    # The highest, but for those that only see whether we stumble (GREASE, RFC 8701: 0x0a0a, 0x1a1a, ...).
    cdef:
        Part versions
        uint32_t version = 0
    if not take_part(extension, 1, &versions) or extension.size != 0 or versions.size == 0 or versions.size % 2 != 0:
        return False
    hello.version = 0
    while take_number(&versions, 2, &version):
        if version >> 8 == SSL_3:
            hello.version = max(hello.version, version)
    return True


cdef int read_extensions(Part* extensions, ClientHello* hello) noexcept nogil:
    cdef:
        uint64_t seen[1024]                     # a bit for each type
        Part extension
        uint32_t kind = 0
    memset(seen, 0, sizeof(seen))
    while extensions.size != 0:
        if not take_number(extensions, 2, &kind) or not take_part(extensions, 2, &extension) or seen[kind >> 6] >> (kind & 63) & 1:
            return HELLO_MALFORMED
        seen[kind >> 6] |= <uint64_t>1 << (kind & 63)
        if kind == EXTENSION_SERVER_NAME:
            if not read_name(&extension, hello):
                return HELLO_BAD_NAME
        elif (kind == EXTENSION_ALPN and not read_protocols(&extension, hello)) \
                or (kind == EXTENSION_SUPPORTED_VERSIONS and not read_versions(&extension, hello)):
            return HELLO_MALFORMED
    return HELLO_PARSED


# ---------------------------------------------------------------------------------------------------------- the whole
cdef int parse_client_hello(const char* data, uint32_t size, ClientHello* hello) noexcept nogil:
    # Reads the message that begins at `data`. HELLO_PARSED; at least so many more bytes are needed (above 0), of which there will never be more than
    # MAX_CLIENT_HELLO_BYTES altogether; or another HELLO_*, which more bytes do not change. Only what is parsed has anything in `hello`.
    cdef:
        Part message, part
        int result
    hello.server_name_size = 0
    hello.alpn = NULL
    hello.alpn_size = 0
    result = find_message(<const uint8_t*>data, size, hello, &message)
    if result != HELLO_PARSED:
        return result
    if not take_number(&message, 2, &hello.version) or hello.version >> 8 != SSL_3 or message.size < RANDOM_BYTES:
        return HELLO_MALFORMED
    message.at += RANDOM_BYTES
    message.size -= RANDOM_BYTES
    if not take_part(&message, 1, &part) or part.size > MAX_SESSION_ID_BYTES:
        return HELLO_MALFORMED
    if not take_part(&message, 2, &part) or part.size == 0 or part.size % 2 != 0:
        return HELLO_MALFORMED                  # ciphers
    if not take_part(&message, 1, &part) or part.size == 0 or memchr(part.at, 0, part.size) == NULL:
        return HELLO_MALFORMED                  # compression: none has to be among them
    if message.size == 0:
        return HELLO_PARSED                     # clients older than extensions
    if not take_part(&message, 2, &part) or message.size != 0:
        return HELLO_MALFORMED
    return read_extensions(&part, hello)


cdef bint has_protocol(const uint8_t* protocols, uint32_t protocols_size, const char* protocol, uint32_t size) noexcept nogil:
    # Whether it is in a well-formed list of protocols, each behind a byte with its size (ALPN).
    cdef uint32_t at = 0
    while at < protocols_size:
        if protocols[at] == size and memcmp(protocols + at + 1, protocol, size) == 0:
            return True
        at += 1 + protocols[at]
    return False
