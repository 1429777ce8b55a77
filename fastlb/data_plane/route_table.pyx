"""The route of a request: the most specific host that has one (exact, then the longest wildcard, then any), and in it the longest path.

A host's paths are its *locations*: exact ones and prefixes of the normalised path, in one hash table. One walk over the path gives its hash
at each size that a location of this host has, so the cost grows with the number of different sizes and not with that of the routes. A
location may have rules (conditions.pyx), of which the first that holds wins, and a route for everything else. Where neither is found the
next shorter location is looked at, then the next less specific host: so "any host, /" catches what a host's own paths leave.

Reads the snapshot's image only and leaves what it finds in Engine.match. The table is written by RouteTableWriter; its offsets are its own.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.conditions cimport match_rules
from fastlb.data_plane.failure cimport FAILURE_NO_ROUTE
from fastlb.data_plane.image cimport fits, range_fits, text_fits
from fastlb.data_plane.regex cimport MAX_REGEX_BYTES, REGEX_CASELESS, compile_regex, free_regex, prepare_regex_scratch
from fastlb.data_plane.system cimport EINVAL, ENOMEM, likely, memcmp, unlikely
from fastlb.data_plane.types cimport (CONDITION_CLIENT, CONDITION_KINDS, MAX_HOST_BYTES, MAX_LOCATION_BYTES, NO_INDEX, PATH_EXACT,
                                      PATH_PREFIX, VALUE_KINDS, VALUE_REGEX, Engine, Exchange, Head, ImageCondition, ImageHost, ImageHostSet,
                                      ImageHostSlot, ImageLocation, ImageLocationSlot, ImageNetwork, ImagePathLength, ImageRegex,
                                      ImageHeader, ImageRouteTable, ImageRule, ImageSection, ImageValue, Regex, Snapshot)

cdef enum:
    HASH_START = 0x811C9DC5         # FNV-1a


# ---------------------------------------------------------------------------------------------------------- hashes
cdef inline uint32_t hash_byte(uint32_t hash, char byte) noexcept nogil:
    return (hash ^ <uint8_t>byte) * <uint32_t>0x01000193


cdef uint32_t hash_host(const char* name, uint32_t size) noexcept nogil:
    # Of the lower-case name, from its end: on the way to it lie the hashes of all that it ends in, which wildcards are looked up by.
    cdef uint32_t hash = HASH_START
    while size != 0:
        size -= 1
        hash = hash_byte(hash, name[size])
    return hash


cdef inline uint32_t mark_exact(uint32_t hash) noexcept nogil:
    # An exact location is hashed with a byte that no path holds behind it.
    return hash_byte(hash, 0)


cdef uint32_t hash_location(const char* path, uint32_t size, uint32_t kind) noexcept nogil:
    cdef uint32_t hash = HASH_START, i
    for i in range(size):
        hash = hash_byte(hash, path[i])
    return mark_exact(hash) if kind == PATH_EXACT else hash


# ---------------------------------------------------------------------------------------------------------- look-up
cdef inline uint32_t find_slot(const char* table, const ImageLocationSlot* slots, uint32_t mask, uint32_t hash, uint32_t kind,
                               const char* path, uint32_t size) noexcept nogil:
    # Index of this very location, NO_INDEX if there is none.
    cdef uint32_t at = hash & mask
    while slots[at].location != 0:
        if slots[at].hash == hash and slots[at].size == size and slots[at].kind == kind and memcmp(table + slots[at].path, path, size) == 0:
            return slots[at].location - 1
        at = (at + 1) & mask
    return NO_INDEX


cdef uint32_t find_location(const ImageRouteTable* table, const ImageHost* host, const char* path, uint32_t size) noexcept nogil:
    # Index of the longest location of a host that the path lies in, the exact one before a prefix. NO_INDEX: none.
    cdef:
        const char* data = <const char*>table
        const ImagePathLength* length = <const ImagePathLength*>(data + table.path_lengths.offset) + host.path_lengths.offset
        const ImageLocationSlot* slots = <const ImageLocationSlot*>(data + table.location_slots.offset) + host.slots.offset
        uint32_t hashes[MAX_LOCATION_BYTES + 1]
        uint32_t mask = host.slots.count - 1, hash = HASH_START, n = 0, at = 0, found
    while n < host.path_lengths.count and length[n].size <= size:
        while at < length[n].size:
            hash = hash_byte(hash, path[at])
            at += 1
        hashes[n] = hash
        n += 1
    if n != 0 and at == size and length[n - 1].kinds & PATH_EXACT:
        found = find_slot(data, slots, mask, mark_exact(hash), PATH_EXACT, path, size)
        if found != <uint32_t>NO_INDEX:
            return found
    while n != 0:
        n -= 1
        if length[n].kinds & PATH_PREFIX:
            found = find_slot(data, slots, mask, hashes[n], PATH_PREFIX, path, length[n].size)
            if found != <uint32_t>NO_INDEX:
                return found
    return NO_INDEX


cdef uint32_t search_host(Engine* engine, Exchange* exchange, const Head* head, const ImageRouteTable* table, uint32_t index, const char* path,
                          uint32_t path_size) noexcept nogil:
    # What a host has for the path: as find_route.
    cdef:
        const ImageHost* host = <const ImageHost*>(<const char*>table + table.hosts.offset) + index
        const ImageLocation* locations = <const ImageLocation*>(<const char*>table + table.locations.offset)
        const ImageLocation* location
        uint32_t number = find_location(table, host, path, path_size), result
    while number != <uint32_t>NO_INDEX:
        location = &locations[number]
        if unlikely(location.rules.count != 0):
            result = match_rules(engine, exchange, head, location, path, path_size)
            if result != FAILURE_NO_ROUTE:
                return result
        if likely(location.route != <uint32_t>NO_INDEX):
            engine.match.route = location.route
            engine.match.n_groups = 0
            return 0
        number = location.shorter
    return FAILURE_NO_ROUTE


cdef uint32_t find_host(const ImageRouteTable* table, const ImageHostSet* set, uint32_t hash, const char* name, uint32_t size,
                        uint32_t wildcard) noexcept nogil:
    # Index of this very name, NO_INDEX if it is not configured.
    cdef:
        const char* data = <const char*>table
        const ImageHostSlot* slots = <const ImageHostSlot*>(data + table.host_slots.offset) + set.slots.offset
        const ImageHost* hosts = <const ImageHost*>(data + table.hosts.offset)
        const ImageHost* host
        uint32_t mask = set.slots.count - 1
        uint32_t at = hash & mask
    while slots[at].host != 0:
        if slots[at].hash == hash:
            host = &hosts[slots[at].host - 1]
            if host.wildcard == wildcard and host.name.size == size and memcmp(data + host.name.offset, name, size) == 0:
                return slots[at].host - 1
        at = (at + 1) & mask
    return NO_INDEX


cdef uint32_t read_host(const Head* head, char* name) noexcept nogil:
    # The host in lower case, without port and one dot at its end; `name` has room for MAX_HOST_BYTES. NO_INDEX: too long for a name.
    cdef:
        const char* host = head.data + head.host
        uint32_t size = 0
        bint bracketed = head.host_size != 0 and host[0] == c"["    # an IPv6 literal is matched with its brackets
    while size < head.host_size and (bracketed or host[size] != c":"):
        if size == MAX_HOST_BYTES:
            return NO_INDEX
        name[size] = host[size] | 0x20 if c"A" <= host[size] <= c"Z" else host[size]
        if host[size] == c"]":
            bracketed = False
        size += 1
    if size and name[size - 1] == c".":
        size -= 1
    return size


cdef uint32_t find_route(Engine* engine, Exchange* exchange, const Head* head, const char* path, uint32_t path_size) noexcept nogil:
    # The route of a request: 0 with engine.match; FAILURE_NO_ROUTE; or why it could not be found out (FAILURE_REGEX_LIMIT,
    # FAILURE_TOO_MANY_PARAMETERS). `path` is normalised.
    cdef:
        const ImageRouteTable* table = <const ImageRouteTable*>(exchange.snapshot.image + exchange.snapshot.header.route_table.offset)
        const ImageHostSet* set = <const ImageHostSet*>(<const char*>table + table.host_sets.offset) + exchange.client.listener.host_set
        char name[MAX_HOST_BYTES]
        uint8_t dots[MAX_HOST_BYTES]            # where a longer name may end in a wildcard's
        uint32_t hashes[MAX_HOST_BYTES]
        uint32_t size, at, n_dots = 0, hash = HASH_START, found, result
    engine.match.path = path
    engine.match.path_size = path_size
    if set.slots.count:
        size = at = read_host(head, name)
        if size != <uint32_t>NO_INDEX:
            while at != 0:
                at -= 1
                hash = hash_byte(hash, name[at])
                if name[at] == c"." and at != 0:
                    dots[n_dots] = <uint8_t>at
                    hashes[n_dots] = hash
                    n_dots += 1
            found = find_host(table, set, hash, name, size, 0)
            if found != <uint32_t>NO_INDEX:
                result = search_host(engine, exchange, head, table, found, path, path_size)
                if result != FAILURE_NO_ROUTE:
                    return result
            while n_dots != 0 and set.has_wildcards:
                # "*.example.com" is stored as ".example.com" and matches any longer name that ends so.
                n_dots -= 1
                at = dots[n_dots]
                found = find_host(table, set, hashes[n_dots], name + at, size - at, 1)
                if found != <uint32_t>NO_INDEX:
                    result = search_host(engine, exchange, head, table, found, path, path_size)
                    if result != FAILURE_NO_ROUTE:
                        return result
    if set.any_host != <uint32_t>NO_INDEX:
        return search_host(engine, exchange, head, table, set.any_host, path, path_size)
    return FAILURE_NO_ROUTE


# ---------------------------------------------------------------------------------------------------------- check
cdef bint follows(const ImageSection* inner, uint32_t* expected) noexcept nogil:
    # Ranges that stand one behind the other are looked at once each, however many records claim one.
    if inner.offset != expected[0]:
        return False
    expected[0] += inner.count
    return True


cdef bint is_table_size(uint32_t count) noexcept nogil:
    return count != 0 and count & (count - 1) == 0


cdef bint check_host_set(const ImageRouteTable* table, const ImageHostSet* set) noexcept nogil:
    cdef:
        const ImageHostSlot* slot = <const ImageHostSlot*>(<const char*>table + table.host_slots.offset) + set.slots.offset
        uint32_t _i, empty = 0
    if set.any_host != <uint32_t>NO_INDEX and set.any_host >= table.hosts.count:
        return False
    if set.slots.count == 0:
        return True
    for _i in range(set.slots.count):
        if slot.host > table.hosts.count:
            return False
        empty += slot.host == 0
        slot += 1
    return is_table_size(set.slots.count) and empty != 0        # a look-up ends at an empty slot


cdef bint check_host(const ImageRouteTable* table, const ImageHost* host) noexcept nogil:
    cdef:
        const char* data = <const char*>table
        const ImagePathLength* length = <const ImagePathLength*>(data + table.path_lengths.offset) + host.path_lengths.offset
        const ImageLocationSlot* slot = <const ImageLocationSlot*>(data + table.location_slots.offset) + host.slots.offset
        uint32_t i, _i, empty = 0
    if not text_fits(table.size, &host.name):
        return False
    for i in range(host.path_lengths.count):
        if length[i].size > MAX_LOCATION_BYTES or (i != 0 and length[i].size <= length[i - 1].size):
            return False
    for _i in range(host.slots.count):
        if slot.location > table.locations.count or slot.path > table.size or slot.size > table.size - slot.path:
            return False
        empty += slot.location == 0
        slot += 1
    return is_table_size(host.slots.count) and empty != 0


cdef bint check_conditions(const ImageRouteTable* table) noexcept nogil:
    cdef:
        const char* data = <const char*>table
        const ImageCondition* condition = <const ImageCondition*>(data + table.conditions.offset)
        const ImageValue* value = <const ImageValue*>(data + table.values.offset)
        const ImageNetwork* network = <const ImageNetwork*>(data + table.networks.offset)
        const ImageRegex* regex = <const ImageRegex*>(data + table.regexes.offset)
        uint32_t _i
    for _i in range(table.conditions.count):
        if condition.kind >= CONDITION_KINDS or condition.negated > 1 or not text_fits(table.size, &condition.name) \
                or not range_fits(&condition.values, &table.networks if condition.kind == CONDITION_CLIENT else &table.values):
            return False
        condition += 1
    for _i in range(table.values.count):
        if value.kind >= VALUE_KINDS or not text_fits(table.size, &value.text) \
                or (value.kind == VALUE_REGEX and value.regex >= table.regexes.count):
            return False
        value += 1
    for _i in range(table.networks.count):
        if network.prefix_bits > 128:
            return False
        network += 1
    for _i in range(table.regexes.count):
        if not text_fits(table.size, &regex.pattern) or regex.pattern.size > MAX_REGEX_BYTES \
                or regex.flags & ~<uint32_t>REGEX_CASELESS:
            return False
        regex += 1
    return True


cdef bint check_route_table(const char* data, size_t size, uint32_t n_routes) noexcept nogil:
    # Everything that an index or offset of a table can reach, once, so that no later code has to.
    cdef:
        const ImageRouteTable* table = <const ImageRouteTable*>data
        const ImageHostSet* sets
        const ImageHost* hosts
        const ImageLocation* location
        const ImageRule* rule
        uint32_t i, _i, lengths = 0, location_slots = 0, host_slots = 0
    if size < sizeof(ImageRouteTable) or table.size != size:
        return False
    if not (fits(size, &table.host_sets, sizeof(ImageHostSet)) and fits(size, &table.host_slots, sizeof(ImageHostSlot))
            and fits(size, &table.hosts, sizeof(ImageHost)) and fits(size, &table.path_lengths, sizeof(ImagePathLength))
            and fits(size, &table.location_slots, sizeof(ImageLocationSlot)) and fits(size, &table.locations, sizeof(ImageLocation))
            and fits(size, &table.rules, sizeof(ImageRule)) and fits(size, &table.conditions, sizeof(ImageCondition))
            and fits(size, &table.values, sizeof(ImageValue)) and fits(size, &table.networks, sizeof(ImageNetwork))
            and fits(size, &table.regexes, sizeof(ImageRegex)) and table.host_sets.count != 0):
        return False
    sets = <const ImageHostSet*>(data + table.host_sets.offset)
    for i in range(table.host_sets.count):
        if not range_fits(&sets[i].slots, &table.host_slots) or not follows(&sets[i].slots, &host_slots) or not check_host_set(table, &sets[i]):
            return False
    hosts = <const ImageHost*>(data + table.hosts.offset)
    for i in range(table.hosts.count):
        if not range_fits(&hosts[i].path_lengths, &table.path_lengths) or not follows(&hosts[i].path_lengths, &lengths) \
                or not range_fits(&hosts[i].slots, &table.location_slots) or not follows(&hosts[i].slots, &location_slots) \
                or not check_host(table, &hosts[i]):
            return False
    location = <const ImageLocation*>(data + table.locations.offset)
    for i in range(table.locations.count):
        # `shorter` leads backwards, so that a search ends.
        if (location.route != <uint32_t>NO_INDEX and location.route >= n_routes) or not range_fits(&location.rules, &table.rules) \
                or (location.shorter != <uint32_t>NO_INDEX and location.shorter >= i):
            return False
        location += 1
    rule = <const ImageRule*>(data + table.rules.offset)
    for _i in range(table.rules.count):
        if rule.route >= n_routes or not range_fits(&rule.conditions, &table.conditions) \
                or (rule.regex != <uint32_t>NO_INDEX and rule.regex >= table.regexes.count):
            return False
        rule += 1
    return check_conditions(table)


# ---------------------------------------------------------------------------------------------------------- regular expressions
cdef int compile_regexes(const char* image, RegexSet* compiled) noexcept nogil:
    # Compiles those of a checked image into an empty set: some 7 us each, which any thread may do before a snapshot is loaded. 0, or with
    # the set empty ENOMEM or EINVAL, for a pattern that the loader of the configuration should have refused.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageRouteTable* table = <const ImageRouteTable*>(image + header.route_table.offset)
        const ImageRegex* regex = <const ImageRegex*>(<const char*>table + table.regexes.offset)
        uint32_t _i, offset
        int error = 0
    if table.regexes.count == 0:
        return 0
    compiled.regexes = <Regex**>calloc(table.regexes.count, sizeof(Regex*))
    if compiled.regexes == NULL:
        return ENOMEM
    for _i in range(table.regexes.count):
        compiled.regexes[_i] = compile_regex(<const char*>table + regex.pattern.offset, regex.pattern.size, regex.flags, &error, &offset)
        if compiled.regexes[_i] == NULL:
            free_regexes(compiled)
            return EINVAL
        compiled.n_regexes += 1
        regex += 1
    return 0


cdef void free_regexes(RegexSet* compiled) noexcept nogil:
    cdef uint32_t i
    for i in range(compiled.n_regexes):
        free_regex(compiled.regexes[i])
    free(compiled.regexes)
    compiled.regexes = NULL
    compiled.n_regexes = 0


cdef int load_regexes(Engine* engine, Snapshot* snapshot, RegexSet* compiled) noexcept nogil:
    # Takes over those that were compiled of its image; an empty set is filled first. 0 or an error of compile_regexes.
    cdef int error = 0
    if compiled.regexes == NULL:
        error = compile_regexes(snapshot.image, compiled)
    if error == 0 and compiled.n_regexes != 0 and not prepare_regex_scratch(engine):
        error = ENOMEM
    if error == 0:
        snapshot.regexes = compiled.regexes
        snapshot.n_regexes = compiled.n_regexes
        compiled.regexes = NULL
        compiled.n_regexes = 0
    return error


cdef void drop_regexes(Snapshot* snapshot) noexcept nogil:
    cdef RegexSet owned
    owned.regexes = snapshot.regexes
    owned.n_regexes = snapshot.n_regexes
    free_regexes(&owned)
    snapshot.regexes = NULL
    snapshot.n_regexes = 0
