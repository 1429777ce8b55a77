"""Rules of a location: what a request has to be besides its host and path, and the regular expression that its path has to match.

Rules are tried in order, and the conditions of each from the cheapest on, until one fails; a location without rules never comes here. Reads
the image, the head and the client's address. What a query or a regular expression costs is bounded: beyond that the request is answered
with an error, as "does not match" would lead it around a rule.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.cookie cimport Cookie, is_named, next_cookie
from fastlb.data_plane.failure cimport FAILURE_NO_ROUTE, FAILURE_REGEX_LIMIT, FAILURE_TOO_MANY_PARAMETERS
from fastlb.data_plane.network cimport is_in_networks
from fastlb.data_plane.query cimport decode_query, is_decoded, is_plain, next_parameter, query_of
from fastlb.data_plane.regex cimport match_regex
from fastlb.data_plane.system cimport memcmp, memmem
from fastlb.data_plane.types cimport (CONDITION_CLIENT, CONDITION_COOKIE, CONDITION_HEADER, CONDITION_METHOD, HEADER_COOKIE, MAX_MATCH_GROUPS,
                                      MAX_PARAMETERS, METHOD_OTHER, NO_INDEX, VALUE_EXACT, VALUE_PART, VALUE_PREFIX, VALUE_REGEX, Engine,
                                      Exchange, Head, HeaderField, ImageCondition, ImageLocation, ImageNetwork, ImageRouteTable, ImageRule,
                                      ImageValue, NamedPart, Snapshot)


cdef inline const ImageRouteTable* table_of(const Snapshot* snapshot) noexcept nogil:
    return <const ImageRouteTable*>(snapshot.image + snapshot.header.route_table.offset)


cdef inline bint is_header_name(const char* name, const char* wanted, uint32_t size) noexcept nogil:
    # `wanted` is lower case.
    cdef uint32_t i
    for i in range(size):
        if (name[i] | 0x20 if c"A" <= name[i] <= c"Z" else name[i]) != wanted[i]:
            return False
    return True


cdef int match_value(Engine* engine, const Snapshot* snapshot, const ImageValue* value, const char* text, uint32_t size) noexcept nogil:
    # 1 or 0, or minus a FAILURE_*.
    cdef:
        const char* wanted = <const char*>table_of(snapshot) + value.text.offset
        int result
    if value.kind == VALUE_REGEX:
        result = match_regex(snapshot.regexes[value.regex], engine.regex_scratch, text, size, NULL, 0)
        return 1 if result > 0 else 0 if result == 0 else -<int>FAILURE_REGEX_LIMIT
    if value.text.size > size:
        return 0
    if value.kind == VALUE_EXACT:
        return value.text.size == size and memcmp(text, wanted, size) == 0
    if value.kind == VALUE_PREFIX:
        return memcmp(text, wanted, value.text.size) == 0
    if value.kind == VALUE_PART:
        return memmem(text, size, wanted, value.text.size) != NULL
    return memcmp(text + size - value.text.size, wanted, value.text.size) == 0      # VALUE_SUFFIX


cdef int match_values(Engine* engine, const Snapshot* snapshot, const ImageCondition* condition, const char* text, uint32_t size) noexcept nogil:
    # Whether the text matches one of a condition's values, or is there where it has none. 1 or 0, or minus a FAILURE_*.
    cdef:
        const ImageRouteTable* table = table_of(snapshot)
        const ImageValue* value = <const ImageValue*>(<const char*>table + table.values.offset) + condition.values.offset
        uint32_t _i
        int result
    if condition.values.count == 0:
        return 1
    for _i in range(condition.values.count):
        result = match_value(engine, snapshot, value, text, size)
        if result != 0:
            return result
        value += 1
    return 0


cdef int match_method(Engine* engine, const Snapshot* snapshot, const ImageCondition* condition, const Head* head) noexcept nogil:
    if not (condition.methods >> head.method) & 1:
        return 0
    return head.method != METHOD_OTHER or match_values(engine, snapshot, condition, head.data, head.method_size)


cdef int match_header(Engine* engine, const Snapshot* snapshot, const ImageCondition* condition, const Head* head) noexcept nogil:
    # Each field of this name by itself.
    cdef:
        const char* name = <const char*>table_of(snapshot) + condition.name.offset
        const HeaderField* field = &head.fields[0]
        uint32_t _i
        int result
    for _i in range(head.n_fields):
        if field.name_size == condition.name.size and is_header_name(head.data + field.name, name, condition.name.size):
            result = match_values(engine, snapshot, condition, head.data + field.value, field.value_size)
            if result != 0:
                return result
        field += 1
    return 0


cdef int match_cookie(Engine* engine, const Snapshot* snapshot, const ImageCondition* condition, const Head* head) noexcept nogil:
    # Each cookie of this name by itself, without quotes around its value.
    cdef:
        const char* name = <const char*>table_of(snapshot) + condition.name.offset
        const HeaderField* field = &head.fields[0]
        const char* at
        const char* end
        Cookie cookie
        uint32_t _i, n = 0
        int result
    if not (head.seen >> HEADER_COOKIE) & 1:
        return 0
    for _i in range(head.n_fields):
        if field.id == HEADER_COOKIE:
            at = head.data + field.value
            end = at + field.value_size
            while next_cookie(at, end, &cookie):
                n += 1
                if n > MAX_PARAMETERS:
                    return -<int>FAILURE_TOO_MANY_PARAMETERS
                at = cookie.end + 1
                if not is_named(&cookie, name, condition.name.size):
                    continue
                if cookie.value_size > 1 and cookie.value[0] == c'"' and cookie.value[cookie.value_size - 1] == c'"':
                    cookie.value += 1
                    cookie.value_size -= 2
                result = match_values(engine, snapshot, condition, cookie.value, cookie.value_size)
                if result != 0:
                    return result
        field += 1
    return 0


cdef int match_query(Engine* engine, const Snapshot* snapshot, const ImageCondition* condition, const Head* head) noexcept nogil:
    # Each parameter of this name by itself, decoded.
    cdef:
        const char* name = <const char*>table_of(snapshot) + condition.name.offset
        const char* value
        uint32_t size = 0, at = 0, n = 0, value_size
        const char* query = query_of(head, &size)
        NamedPart part
        int result
    while next_parameter(query, size, &at, &part):
        n += 1
        if n > MAX_PARAMETERS:
            return -<int>FAILURE_TOO_MANY_PARAMETERS
        if not is_decoded(part.name, part.name_size, name, condition.name.size):
            continue
        value, value_size = part.value, part.value_size
        if not is_plain(value, value_size):
            value_size = decode_query(value, value_size, engine.write_buffer)   # no head is being written yet
            value = engine.write_buffer
        result = match_values(engine, snapshot, condition, value, value_size)
        if result != 0:
            return result
    return 0


cdef int match_condition(Engine* engine, Exchange* exchange, const ImageCondition* condition, const Head* head) noexcept nogil:
    # 1 or 0, or minus a FAILURE_*.
    cdef:
        const Snapshot* snapshot = exchange.snapshot
        const ImageRouteTable* table = table_of(snapshot)
        int result
    if condition.kind == CONDITION_METHOD:
        result = match_method(engine, snapshot, condition, head)
    elif condition.kind == CONDITION_CLIENT:
        result = is_in_networks(exchange.client, <const ImageNetwork*>(<const char*>table + table.networks.offset) + condition.values.offset,
                                condition.values.count)
    elif condition.kind == CONDITION_HEADER:
        result = match_header(engine, snapshot, condition, head)
    elif condition.kind == CONDITION_COOKIE:
        result = match_cookie(engine, snapshot, condition, head)
    else:
        result = match_query(engine, snapshot, condition, head)
    return result if result < 0 else <int>(result != <int>condition.negated)


cdef int match_rule(Engine* engine, Exchange* exchange, const ImageRule* rule, const Head* head, const char* path, uint32_t path_size) noexcept nogil:
    # 1 or 0, or minus a FAILURE_*. The groups of the path's regular expression are left in engine.match.
    cdef:
        const ImageRouteTable* table = table_of(exchange.snapshot)
        const ImageCondition* condition = <const ImageCondition*>(<const char*>table + table.conditions.offset) + rule.conditions.offset
        uint32_t _i
        int result
    for _i in range(rule.conditions.count):
        result = match_condition(engine, exchange, condition, head)
        if result <= 0:
            return result
        condition += 1
    engine.match.n_groups = 0
    if rule.regex != <uint32_t>NO_INDEX:
        result = match_regex(exchange.snapshot.regexes[rule.regex], engine.regex_scratch, path, path_size, engine.match.groups, MAX_MATCH_GROUPS)
        if result <= 0:
            return 0 if result == 0 else -<int>FAILURE_REGEX_LIMIT
        engine.match.n_groups = min(<uint32_t>result, <uint32_t>MAX_MATCH_GROUPS)
    return 1


cdef uint32_t match_rules(Engine* engine, Exchange* exchange, const Head* head, const ImageLocation* location, const char* path,
                          uint32_t path_size) noexcept nogil:
    # The first rule of a location that holds: 0 with engine.match, FAILURE_NO_ROUTE if none does, or what keeps it from being known.
    cdef:
        const ImageRouteTable* table = table_of(exchange.snapshot)
        const ImageRule* rule = <const ImageRule*>(<const char*>table + table.rules.offset) + location.rules.offset
        uint32_t _i
        int result
    for _i in range(location.rules.count):
        result = match_rule(engine, exchange, rule, head, path, path_size)
        if result != 0:
            engine.match.route = rule.route
            return 0 if result > 0 else <uint32_t>-result
        rule += 1
    return FAILURE_NO_ROUTE
