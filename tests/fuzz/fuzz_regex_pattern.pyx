"""Patterns. Input: a byte of flags, a pattern, and behind a NUL a subject.

Promises: a refusal has words and an offset in the pattern; names are names of groups; a match keeps to its subject.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memchr

from fastlb.data_plane.regex cimport MAX_REGEX_GROUPS, compile_regex, free_regex, open_regex_scratch, regex_name, write_regex_error
from fastlb.data_plane.types cimport Regex, RegexScratch
from tests.fuzz.expect cimport exact_copy, expect
from tests.fuzz.regexes cimport try_subject

cdef RegexScratch* scratch = open_regex_scratch()


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        const uint8_t* end
        const char* name
        char* pattern
        char text[256]
        Regex* regex
        uint32_t pattern_size, name_size, number, i, offset = 0
        int error = 0
    if size == 0 or size > 0x10000:
        return 0
    end = <const uint8_t*>memchr(data + 1, 0, size - 1)
    pattern_size = <uint32_t>(end - data - 1 if end != NULL else size - 1)
    pattern = exact_copy(data + 1, pattern_size)
    regex = compile_regex(pattern, pattern_size, data[0] & 7, &error, &offset)
    free(pattern)
    if regex == NULL:
        expect(error != 0 and offset <= pattern_size and write_regex_error(error, text, sizeof(text)) > 0, b"a refusal says what and where")
        return 0
    expect(error == 0 and 0 < regex.n_groups <= MAX_REGEX_GROUPS, b"a pattern has a few groups")
    for i in range(regex.n_names):
        number = regex_name(regex, i, &name, &name_size)
        expect(0 < number < regex.n_groups and name_size > 0, b"a name has a group")
    if end != NULL:
        try_subject(regex, scratch, <const char*>end + 1, <uint32_t>(data + size - end - 1))
    free_regex(regex)
    return 0


address = <size_t><void*>fuzz_one
