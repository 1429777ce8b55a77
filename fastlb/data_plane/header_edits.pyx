"""Header edits of a route: which fields of a received head are copied into the one that is sent, and what is added behind them.

Fields that stay are copied as they came, in runs: between two dropped fields the bytes of the received head are one piece. Which fields
are not copied is a bit test a field: of those that have a HeaderId by that, of others by the size of their name first. The usual
X-Forwarded-* and X-Request-Id are operations like any other; routes without edits of their own share one list of them.

Changes nothing; values are templates (template.pyx).
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.trust cimport is_trusted, put_received
from fastlb.data_plane.image cimport range_fits, text_fits
from fastlb.data_plane.template cimport check_template, put_segments, segments_of
from fastlb.data_plane.types cimport (FIELD_DROPPED, HEADER_OTHER, MAX_HEADER_NAME_BYTES, MAX_HEADER_OPERATIONS, OPERATION_ADD,
                                      OPERATION_APPEND, OPERATION_KEEP_OR_SET, OPERATION_KINDS, OPERATION_REMOVE, Engine, Exchange, Head,
                                      HeaderField, ImageHeader, ImageHeaderEdits, ImageHeaderOperation, ImageSegment)
from fastlb.data_plane.writer cimport Writer, put

cdef enum:
    LAST_SIZE = 63                  # of ImageHeaderEdits.replaced_sizes: this and more


# ---------------------------------------------------------------------------------------------------------- the image
cdef bint check_operations(const char* image, const ImageHeader* header) noexcept nogil:
    # Every operation of an image whose sections are known to lie inside it.
    cdef:
        const ImageHeaderOperation* operation = <const ImageHeaderOperation*>(image + header.operations.offset)
        uint32_t _i
    for _i in range(header.operations.count):
        if operation.kind >= OPERATION_KINDS or operation.header_id > 63 or not text_fits(header.size, &operation.name) \
                or operation.name.size > MAX_HEADER_NAME_BYTES or not check_template(header, &operation.value):
            return False
        operation += 1
    return True


cdef bint check_edits(const ImageHeader* header, const ImageHeaderEdits* edits) noexcept nogil:
    return range_fits(&edits.operations, &header.operations) and edits.operations.count <= MAX_HEADER_OPERATIONS


cdef inline const ImageHeaderOperation* operations_of(const Exchange* exchange, const ImageHeaderEdits* edits) noexcept nogil:
    return <const ImageHeaderOperation*>(exchange.snapshot.image + exchange.snapshot.header.operations.offset) + edits.operations.offset


# ---------------------------------------------------------------------------------------------------------- what is copied
cdef void copy_fields(Writer* out, const Head* head, uint64_t except_ids) noexcept nogil:
    # Every field of `head` but those flagged as dropped and those of `except_ids` (bit per HeaderId; never bit 0).
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* run = head.data + head.fields_start
        uint32_t _i
    for _i in range(head.n_fields):
        if field.flags & FIELD_DROPPED or (except_ids >> field.id) & 1:
            if head.data + field.name > run:
                put(out, run, <size_t>(head.data + field.name - run))
            run = head.data + field.end
        field += 1
    if head.data + head.size - 2 > run:
        put(out, run, <size_t>(head.data + head.size - 2 - run))


cdef inline char lower(char byte) noexcept nogil:
    return byte | 0x20 if c"A" <= byte <= c"Z" else byte


cdef bint is_edited(const char* name, uint32_t size, const Exchange* exchange, const ImageHeaderEdits* edits) noexcept nogil:
    # Whether an operation takes the place of fields called so, which have no HeaderId.
    cdef:
        const ImageHeaderOperation* operation = operations_of(exchange, edits)
        const char* wanted
        uint32_t _i, k
    for _i in range(edits.operations.count):
        if operation.header_id == HEADER_OTHER and operation.name.size == size and operation.kind != OPERATION_ADD:
            wanted = exchange.snapshot.image + operation.name.offset
            for k in range(size):
                if lower(name[k]) != lower(wanted[k]):
                    break
            else:
                return True
        operation += 1
    return False


cdef void copy_fields_but_edited(Writer* out, const Head* head, uint64_t except_ids, const Exchange* exchange,
                                 const ImageHeaderEdits* edits) noexcept nogil:
    # As copy_fields, without those fields too whose name an operation takes.
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* run = head.data + head.fields_start
        uint32_t _i, size_bit
    for _i in range(head.n_fields):
        size_bit = field.name_size if field.name_size < LAST_SIZE else <uint32_t>LAST_SIZE
        if field.flags & FIELD_DROPPED or (except_ids >> field.id) & 1 \
                or (field.id == HEADER_OTHER and (edits.replaced_sizes >> size_bit) & 1
                    and is_edited(head.data + field.name, field.name_size, exchange, edits)):
            if head.data + field.name > run:
                put(out, run, <size_t>(head.data + field.name - run))
            run = head.data + field.end
        field += 1
    if head.data + head.size - 2 > run:
        put(out, run, <size_t>(head.data + head.size - 2 - run))


# ---------------------------------------------------------------------------------------------------------- what is added
cdef void apply_edits(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageHeaderEdits* edits,
                      Writer* out) noexcept nogil:
    # Writes the fields that the operations set or add; what they replace has not been copied. A field whose value comes out empty is
    # not written (as in nginx): there is nothing to say. `request`, `response`: as for put_template.
    cdef:
        const ImageHeaderOperation* operation = operations_of(exchange, edits)
        const ImageSegment* segments = segments_of(exchange)
        uint32_t _i
        char* start
        char* value
        bint received
        bint trusted = response == NULL and request != NULL and request.seen & edits.replaced_ids != 0 and is_trusted(engine, exchange)
    for _i in range(edits.operations.count):
        if operation.kind == OPERATION_REMOVE:
            operation += 1
            continue
        start = out.at
        put(out, exchange.snapshot.image + operation.name.offset, operation.name.size)
        put(out, b": ", 2)
        value = out.at
        received = trusted and (request.seen >> operation.header_id) & 1
        if received and operation.kind == OPERATION_APPEND:
            if put_received(request, operation.header_id, out, False):
                put(out, b", ", 2)
            put_segments(engine, exchange, request, response, segments + operation.value.offset, operation.value.count, out)
        elif not (received and operation.kind == OPERATION_KEEP_OR_SET and put_received(request, operation.header_id, out, True)):
            put_segments(engine, exchange, request, response, segments + operation.value.offset, operation.value.count, out)
        if out.at == value:
            out.at = start
        else:
            put(out, b"\r\n", 2)
        operation += 1
