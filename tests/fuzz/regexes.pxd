"""What both regular-expression targets expect of a match."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from fastlb.data_plane.regex cimport MAX_REGEX_GROUPS, REGEX_FAILED, match_regex
from fastlb.data_plane.types cimport NO_INDEX, Regex, RegexScratch
from tests.fuzz.expect cimport exact_copy, expect


cdef inline void try_subject(const Regex* regex, RegexScratch* scratch, const char* data, uint32_t size) noexcept nogil:
    # Groups lie in the subject, those without room are not written, and a second match says the same unless the clock ended one.
    cdef:
        uint32_t groups[2 * MAX_REGEX_GROUPS]
        char* subject = exact_copy(<const unsigned char*>data, size)
        uint32_t i, room = size % MAX_REGEX_GROUPS
        int found
    memset(groups, 0x55, sizeof(groups))
    found = match_regex(regex, scratch, subject, size, groups, room)
    expect(found >= 0 or found > REGEX_FAILED, b"no match fails")
    expect(found <= 0 or found == <int>regex.n_groups, b"all groups are counted")
    for i in range(room if found > 0 else 0):
        if i >= regex.n_groups:
            expect(groups[2 * i] == 0x55555555, b"only groups are written")
        elif groups[2 * i] != NO_INDEX:
            expect(groups[2 * i] <= groups[2 * i + 1] <= size, b"groups lie in the subject")
        else:
            expect(groups[2 * i + 1] == NO_INDEX, b"half a group is none")
    expect(room == MAX_REGEX_GROUPS or groups[2 * room] == 0x55555555, b"what has no room is not written")
    free(subject)
