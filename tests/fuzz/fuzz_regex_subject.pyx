"""Subjects against a few patterns. Input: a byte that says which, then the subject."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport strlen

from fastlb.data_plane.regex cimport REGEX_CASELESS, REGEX_INTERPRETED, compile_regex, open_regex_scratch
from fastlb.data_plane.types cimport Regex, RegexScratch
from tests.fuzz.expect cimport expect
from tests.fuzz.regexes cimport try_subject

cdef enum:
    N_PATTERNS = 12

cdef:
    const char* PATTERNS[N_PATTERNS]
    Regex* regexes[3 * N_PATTERNS]
    RegexScratch* scratch = open_regex_scratch()

PATTERNS[:] = [
    b"^/api/v(\\d+)/(.*)$", b"\\.(gif|jpe?g|png)$", b"(?:^|; )session=([^;]+)", b"(bot|crawler|spider)", b"(a+)+$", b"(a|aa)+$", b"^(.*)*[xy]",
    b"(?=.*[xy]z)", b"^(a)\\1*(?=\\1*+[xz])", b"(?<=(/))(?<n>[a-z]+)(?!\\2)", b"^(?:(?:(a)|(b)|(c))*+d?)*$", b"(\\((?:[^()]|(?1))*\\))",
]


cdef void open_regexes() noexcept nogil:
    cdef:
        uint32_t i, offset
        int error
    for i in range(3 * N_PATTERNS):
        regexes[i] = compile_regex(PATTERNS[i // 3], <uint32_t>strlen(PATTERNS[i // 3]), REGEX_CASELESS if i % 3 == 1 else
                                   REGEX_INTERPRETED if i % 3 == 2 else 0, &error, &offset)
        expect(regexes[i] != NULL, b"the patterns compile")


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    if size > 0 and size < 0x10000:
        try_subject(regexes[data[0] % (3 * N_PATTERNS)], scratch, <const char*>data + 1, <uint32_t>size - 1)
    return 0


open_regexes()
address = <size_t><void*>fuzz_one
