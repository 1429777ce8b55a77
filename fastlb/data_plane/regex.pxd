"""Regular expressions: see regex.pyx."""
from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Regex, RegexScratch

cdef enum:
    MAX_REGEX_BYTES = 4096          # of a pattern
    MAX_REGEX_GROUPS = 64           # of a pattern, with group 0, the whole match

ctypedef enum RegexFlags:
    REGEX_CASELESS = 1              # ASCII letters; as (?i)
    REGEX_ANCHORED = 2              # a match starts where the subject does
    REGEX_INTERPRETED = 4           # as on a system where no code can be made

ctypedef enum RegexResult:
    REGEX_NO_MATCH = 0
    REGEX_LIMIT = -1                # undecided: it would have taken too long or too much memory
    REGEX_FAILED = -2               # PCRE2 found itself or its memory damaged; cannot happen

ctypedef enum RegexError:           # of compile_regex, beside PCRE2's own, which are above 100
    REGEX_ERROR_TOO_LONG = 1
    REGEX_ERROR_TOO_LARGE = 2
    REGEX_ERROR_TOO_MANY_GROUPS = 3
    REGEX_ERROR_SETTING = 4
    REGEX_ERROR_CALLOUT = 5
    REGEX_ERROR_DUPLICATE_NAME = 6
    REGEX_ERROR_NO_MEMORY = 7
    REGEX_ERROR_GRAPHEME = 8

# Any thread, when a snapshot is checked or prepared.
cdef Regex* compile_regex(const char* pattern, uint32_t size, uint32_t flags, int* error, uint32_t* error_offset) noexcept nogil
cdef void free_regex(Regex* regex) noexcept nogil
cdef uint32_t write_regex_error(int error, char* text, uint32_t room) noexcept nogil
cdef uint32_t regex_name(const Regex* regex, uint32_t i, const char** name, uint32_t* size) noexcept nogil

# An engine's scratch: made before the first regular expression of a snapshot can be matched, kept until the engine closes.
cdef bint prepare_regex_scratch(Engine* engine) noexcept nogil
cdef RegexScratch* open_regex_scratch() noexcept nogil
cdef void close_regex_scratch(RegexScratch* scratch) noexcept nogil

# The request path.
cdef int match_regex(const Regex* regex, RegexScratch* scratch, const char* subject, uint32_t size, uint32_t* groups,
                     uint32_t max_groups) noexcept nogil

# For `fastlb -V`.
cdef uint32_t write_regex_version(char* text, uint32_t room) noexcept nogil
