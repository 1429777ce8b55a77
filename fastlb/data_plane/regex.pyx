"""Regular expressions through PCRE2, compiled to machine code where the system allows that.

A Regex is owned by whoever compiled it (a snapshot) and never changes, so engines may share it. A RegexScratch belongs to one engine: all
the memory that matching needs is in it, and matching takes no other. Patterns come from the configuration and subjects from clients;
neither is trusted with time or memory: what would take more than about 200 microseconds ends as REGEX_LIMIT, which is not "no match".

PCRE2 counts steps, from each start in the subject anew, and has no clock. So there are two limits, measured in bench/micro/test_regex.py:

- Steps from one start. What one may cost follows from the sizes of subject and pattern: a step can be a walk along the whole subject
  (`[^y]*` is one) or a try of each alternative. Compiled code goes through a repeated group without counting and counts on the way back;
  so patterns with such groups are interpreted, where everything counts.
- Starts. A pattern that is not anchored is compiled with a callout in front, which PCRE2 calls at each start that its own search for a
  first character has left, and which looks at the clock from the second on.

Patterns and subjects are bytes, never UTF-8. `$` is the end of the subject and not also the place before a last newline.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.pcre2 cimport (PCRE2_ANCHORED, PCRE2_BSR_ANYCRLF, PCRE2_CASELESS, PCRE2_CONFIG_JIT, PCRE2_CONFIG_VERSION,
                                      PCRE2_DOLLAR_ENDONLY, PCRE2_ERROR_CALLOUT, PCRE2_ERROR_DEPTHLIMIT, PCRE2_ERROR_HEAPLIMIT,
                                      PCRE2_ERROR_JIT_STACKLIMIT, PCRE2_ERROR_MATCHLIMIT, PCRE2_ERROR_NOMATCH, PCRE2_ERROR_NOMEMORY,
                                      PCRE2_ERROR_RECURSELOOP, PCRE2_INFO_ALLOPTIONS, PCRE2_INFO_BACKREFMAX, PCRE2_INFO_CAPTURECOUNT,
                                      PCRE2_INFO_JITSIZE, PCRE2_INFO_NAMECOUNT, PCRE2_INFO_NAMEENTRYSIZE, PCRE2_INFO_NAMETABLE,
                                      PCRE2_INFO_SIZE, PCRE2_JIT_COMPLETE, PCRE2_NEVER_BACKSLASH_C, PCRE2_NEVER_UCP, PCRE2_NEVER_UTF,
                                      PCRE2_NEWLINE_LF, PCRE2_NO_AUTO_POSSESS, PCRE2_NO_JIT, pcre2_callout_block, pcre2_callout_enumerate,
                                      pcre2_callout_enumerate_block, pcre2_code, pcre2_code_free, pcre2_compile, pcre2_compile_context,
                                      pcre2_compile_context_create, pcre2_compile_context_free, pcre2_config, pcre2_general_context,
                                      pcre2_general_context_create, pcre2_general_context_free, pcre2_get_error_message,
                                      pcre2_get_ovector_pointer, pcre2_jit_compile, pcre2_jit_match, pcre2_jit_stack,
                                      pcre2_jit_stack_assign, pcre2_jit_stack_create, pcre2_jit_stack_free, pcre2_match,
                                      pcre2_match_context, pcre2_match_context_create, pcre2_match_context_free, pcre2_match_data,
                                      pcre2_match_data_create, pcre2_match_data_free, pcre2_pattern_info, pcre2_set_bsr,
                                      pcre2_set_callout, pcre2_set_heap_limit, pcre2_set_match_limit, pcre2_set_newline,
                                      pcre2_set_parens_nest_limit)
from fastlb.data_plane.system cimport CLOCK_MONOTONIC, clock_gettime, memcmp, memcpy, timespec
from fastlb.data_plane.types cimport NO_INDEX, Engine, Regex, RegexScratch

cdef enum:
    MAX_PARENTHESES = 64            # nested; PCRE2 recurses into them when it compiles
    MAX_CODE_BYTES = 32768          # of a compiled pattern: repeated groups are written out
    FRAMES_BYTES = 524288           # the interpreter's backtracking points
    JIT_STACK_BYTES = 262144        # the same of compiled code; an address range, of which only what is used takes memory
    # One start of an anchored pattern may take all of the 200 us. One of several may take 60: the first, those of which the clock shows
    # 80 together, and the one that was running then.
    ANCHORED_NS = 200000
    START_NS = 60000
    ALL_STARTS_NS = 80000
    # A step on an empty subject: a backtracking point of compiled code takes up to 5 ns, one of the interpreter up to 15.
    MACHINE_STEP_NS = 5
    INTERPRETED_STEP_NS = 15
    # A walk along 1 KiB of subject without a step: 0.17 ns a byte in compiled code, 0.66 interpreted, 1 to compare with back references.
    MACHINE_KIB_NS = 170
    INTERPRETED_KIB_NS = 680
    BACK_REFERENCE_KIB_NS = 1024
    MACHINE_CODE_BYTES_PER_NS = 4   # alternatives that fail are no step in compiled code


# ---------------------------------------------------------------------------------------------------------- compile
cdef int note_callout(pcre2_callout_enumerate_block* block, void* data) noexcept nogil:
    return 1


cdef uint32_t read_info(const void* code, uint32_t what) noexcept nogil:
    cdef uint32_t value = 0
    pcre2_pattern_info(<const pcre2_code*>code, what, &value)
    return value


cdef size_t read_size(const void* code, uint32_t what) noexcept nogil:
    cdef size_t value = 0
    pcre2_pattern_info(<const pcre2_code*>code, what, &value)
    return value


cdef bint has_duplicate_name(const Regex* regex) noexcept nogil:
    # (?J) allows two groups of one name; PCRE2 sorts the names.
    cdef:
        const char* before
        const char* name
        uint32_t i, before_size, size
    for i in range(1, regex.n_names):
        regex_name(regex, i - 1, &before, &before_size)
        regex_name(regex, i, &name, &size)
        if size == before_size and memcmp(name, before, size) == 0:
            return True
    return False


cdef bint has_grapheme(const char* pattern, uint32_t size) noexcept nogil:
    # \X, a character with its combining ones. It makes no sense in bytes, and walks along the subject ten times as slowly as all else.
    cdef uint32_t i = 0
    while i + 1 < size:
        if pattern[i] == c"\\":
            if pattern[i + 1] == c"X":
                return True
            i += 1
        i += 1
    return False


cdef bint may_repeat_group(const char* pattern, uint32_t size) noexcept nogil:
    # A ")" with "*", "+" or "{n,}" behind it, or something between the two that could hide that: a comment, an \E.
    cdef:
        uint32_t i
        char c, before = 0
        bint in_group_quantifier = False
    for i in range(size):
        c = pattern[i]
        if c == c"{":
            in_group_quantifier = before == c")"
        if c == c"#" or (c == c"E" and i > 0 and pattern[i - 1] == c"\\"):
            return True
        if (before == c")" and (c == c"*" or c == c"+")) or (in_group_quantifier and before == c"," and c == c"}"):
            return True
        if c != c" " and not 9 <= c <= 13:      # white space that (?x) ignores
            before = c
    return False


cdef bint is_anchored(const Regex* regex) noexcept nogil:
    return read_info(regex.code, PCRE2_INFO_ALLOPTIONS) & PCRE2_ANCHORED != 0


cdef bint goes_back_by_steps(const char* pattern, uint32_t size) noexcept nogil:
    # Whether the interpreter walks along the subject only where it may go back, which it counts for each byte: with
    # PCRE2_NO_AUTO_POSSESS, which keeps repeats as they were written. Not so in "{n}", "++", references, and groups that are not simply
    # groups or named ones: those that are atomic or look around.
    cdef:
        uint32_t i
        char c, before = 0, behind
    for i in range(size):
        c = pattern[i]
        behind = pattern[i + 1] if i + 1 < size else 0
        if c == c"{" or (before == c"(" and c == c"*"):
            return False
        if before == c"\\" and (c"0" <= c <= c"9" or c == c"g" or c == c"k" or c == c"E"):
            return False
        if c == c"+" and (before == c"*" or before == c"+" or before == c"?"):
            return False
        if before == c"(" and c == c"?" and behind != c":" and behind != c"<" and behind != c"P":
            return False
        if before == c"?" and c == c"<" and (behind == c"=" or behind == c"!" or behind == c"*"):
            return False
        if before == c"P" and (c == c"=" or c == c">"):
            return False
        before = c
    return True


cdef uint32_t longest_branch_ns(const char* pattern, uint32_t size, uint32_t code_bytes) noexcept nogil:
    # What the interpreter may go through between two steps: it counts each alternative, and nothing in a row of items without a choice.
    cdef:
        uint32_t i, begin = 0, longest = 0
    for i in range(size + 1):
        if i < size and pattern[i] == c"{":
            return code_bytes // 2      # it may be a group that is written out many times
        if i == size or pattern[i] == c"|":
            longest = max(longest, i - begin)
            begin = i
    return 2 * longest


cdef void set_limits(Regex* regex, const char* pattern, uint32_t size) noexcept nogil:
    cdef uint32_t code_bytes = <uint32_t>read_size(regex.code, PCRE2_INFO_SIZE)
    if regex.is_machine_code:
        regex.step_ns = MACHINE_STEP_NS + code_bytes // MACHINE_CODE_BYTES_PER_NS
        regex.step_kib_ns = MACHINE_KIB_NS
    else:
        regex.step_ns = INTERPRETED_STEP_NS + longest_branch_ns(pattern, size, code_bytes)
        regex.step_kib_ns = 0 if goes_back_by_steps(pattern, size) else INTERPRETED_KIB_NS
    if read_info(regex.code, PCRE2_INFO_BACKREFMAX) != 0:
        regex.step_kib_ns = BACK_REFERENCE_KIB_NS
    regex.budget_ns = ANCHORED_NS if is_anchored(regex) else START_NS


cdef int compile_code(Regex* regex, const char* pattern, uint32_t size, uint32_t options, uint32_t* error_offset) noexcept nogil:
    # Fills in the code and what it says of itself. 0, a RegexError or PCRE2's number.
    cdef:
        pcre2_compile_context* context = pcre2_compile_context_create(NULL)
        void* names = NULL
        size_t offset = 0
        int error = 0
    if context == NULL:
        return REGEX_ERROR_NO_MEMORY
    pcre2_set_newline(context, PCRE2_NEWLINE_LF)        # whatever the library was built with
    pcre2_set_bsr(context, PCRE2_BSR_ANYCRLF)
    pcre2_set_parens_nest_limit(context, MAX_PARENTHESES)
    pcre2_code_free(<pcre2_code*>regex.code)            # of the attempt before
    regex.code = pcre2_compile(<const uint8_t*>pattern, size, options, &error, &offset, context)
    pcre2_compile_context_free(context)
    if regex.code == NULL:
        error_offset[0] = <uint32_t>min(offset, size)
        return error
    regex.n_groups = read_info(regex.code, PCRE2_INFO_CAPTURECOUNT) + 1
    regex.n_names = read_info(regex.code, PCRE2_INFO_NAMECOUNT)
    regex.name_bytes = read_info(regex.code, PCRE2_INFO_NAMEENTRYSIZE)
    pcre2_pattern_info(<const pcre2_code*>regex.code, PCRE2_INFO_NAMETABLE, &names)
    regex.names = <const uint8_t*>names
    return REGEX_ERROR_TOO_LARGE if read_size(regex.code, PCRE2_INFO_SIZE) > MAX_CODE_BYTES else 0


cdef int check_pattern(const Regex* regex) noexcept nogil:
    # What PCRE2 allows and we do not. 0 or a RegexError.
    if regex.n_groups > MAX_REGEX_GROUPS:
        return REGEX_ERROR_TOO_MANY_GROUPS
    if has_duplicate_name(regex):
        return REGEX_ERROR_DUPLICATE_NAME
    if pcre2_callout_enumerate(<const pcre2_code*>regex.code, note_callout, NULL) != 0:
        return REGEX_ERROR_CALLOUT
    return 0


cdef Regex* compile_regex(const char* pattern, uint32_t size, uint32_t flags, int* error, uint32_t* error_offset) noexcept nogil:
    # Owned by the caller. NULL: `error` is a RegexError or PCRE2's number (write_regex_error has the words for both), and `error_offset`
    # the byte of the pattern up to which it was understood.
    cdef:
        Regex* regex
        char watched[MAX_REGEX_BYTES + 8]
        const char* code = pattern
        uint32_t code_size = size
        uint32_t options = PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP
    error[0] = error_offset[0] = 0
    if size > MAX_REGEX_BYTES:
        error[0] = REGEX_ERROR_TOO_LONG
        error_offset[0] = MAX_REGEX_BYTES
        return NULL
    if has_grapheme(pattern, size):
        error[0] = REGEX_ERROR_GRAPHEME
        return NULL
    # (*UTF), (*LIMIT_MATCH=9), (*NO_JIT): how to match is not the pattern's to say. PCRE2 takes them at its start only.
    if size > 2 and pattern[0] == c"(" and pattern[1] == c"*" and c"A" <= pattern[2] <= c"Z":
        error[0] = REGEX_ERROR_SETTING
        return NULL
    if flags & REGEX_CASELESS:
        options |= PCRE2_CASELESS
    if flags & REGEX_ANCHORED:
        options |= PCRE2_ANCHORED
    regex = <Regex*>calloc(1, sizeof(Regex))
    if regex == NULL:
        error[0] = REGEX_ERROR_NO_MEMORY
        return NULL
    # As it stands first: what is wrong with it, and whether it is anchored.
    error[0] = compile_code(regex, pattern, size, options, error_offset)
    if error[0] == 0:
        error[0] = check_pattern(regex)
    if error[0] == 0 and not is_anchored(regex):
        memcpy(watched, b"(?C1)", 5)    # without a group around the rest: the first alternative is tried at each start
        memcpy(watched + 5, pattern, size)
        code = watched
        code_size += 5
        error[0] = compile_code(regex, code, code_size, options, error_offset)
    if error[0] == 0 and not flags & REGEX_INTERPRETED and not may_repeat_group(pattern, size):
        # Not every system lets a process make code (systemd's MemoryDenyWriteExecute, SELinux): those that do not interpret.
        pcre2_jit_compile(<pcre2_code*>regex.code, PCRE2_JIT_COMPLETE)
        regex.is_machine_code = read_size(regex.code, PCRE2_INFO_JITSIZE) != 0
    if error[0] == 0 and not regex.is_machine_code and goes_back_by_steps(pattern, size):
        error[0] = compile_code(regex, code, code_size, options | PCRE2_NO_AUTO_POSSESS, error_offset)
    if error[0] != 0:
        free_regex(regex)
        return NULL
    set_limits(regex, pattern, size)
    return regex


cdef void free_regex(Regex* regex) noexcept nogil:
    if regex != NULL:
        pcre2_code_free(<pcre2_code*>regex.code)
        regex.code = NULL
        free(regex)


cdef uint32_t regex_name(const Regex* regex, uint32_t i, const char** name, uint32_t* size) noexcept nogil:
    # The number of the i-th named group (below n_names, in order of the names) and its name, borrowed from regex.
    cdef:
        const uint8_t* entry = regex.names + i * regex.name_bytes
        uint32_t length = 0
    name[0] = <const char*>entry + 2
    while entry[2 + length] != 0:
        length += 1
    size[0] = length
    return <uint32_t>entry[0] << 8 | entry[1]


cdef const char* error_text(int error) noexcept nogil:
    if error == REGEX_ERROR_TOO_LONG:
        return b"longer than 4096 bytes"
    if error == REGEX_ERROR_TOO_LARGE:
        return b"too large: repeated groups are written out"
    if error == REGEX_ERROR_TOO_MANY_GROUPS:
        return b"more than 63 capturing groups"
    if error == REGEX_ERROR_SETTING:
        return b"settings and verbs at the start, such as (*UTF), are not supported"
    if error == REGEX_ERROR_CALLOUT:
        return b"callouts are not supported"
    if error == REGEX_ERROR_GRAPHEME:
        return b"\\X is not supported: patterns match bytes"
    if error == REGEX_ERROR_DUPLICATE_NAME:
        return b"two groups have the same name"
    if error == REGEX_ERROR_NO_MEMORY:
        return b"no memory"
    return NULL


cdef uint32_t write_regex_error(int error, char* text, uint32_t room) noexcept nogil:
    # What is wrong, in words, without NUL; returns the size. `room` of 256 is enough.
    cdef:
        const char* known = error_text(error)
        uint32_t size = 0
        int written
    if known == NULL:
        written = pcre2_get_error_message(error, <uint8_t*>text, room)
        return <uint32_t>written if written > 0 else 0
    while known[size] != 0 and size < room:
        text[size] = known[size]
        size += 1
    return size


cdef uint32_t write_regex_version(char* text, uint32_t room) noexcept nogil:
    # PCRE2's version, and what patterns become; without NUL; returns the size. `room` of 64 or more.
    cdef:
        const char* kind = b", interpreted"
        uint32_t jit = 0, size = 0
        int length = pcre2_config(PCRE2_CONFIG_VERSION, NULL)   # with its NUL
    pcre2_config(PCRE2_CONFIG_JIT, &jit)
    if length <= 0 or <uint32_t>length > room:
        return 0
    pcre2_config(PCRE2_CONFIG_VERSION, text)
    size = <uint32_t>length - 1
    if jit:
        kind = b", compiled to machine code"
    while kind[0] != 0 and size < room:
        text[size] = kind[0]
        size += 1
        kind += 1
    return size


# ---------------------------------------------------------------------------------------------------------- scratch
cdef void* take_block(size_t size, void* data) noexcept nogil:
    # What PCRE2 allocates through. Its own structs while the scratch is opened; afterwards only the interpreter's frames, for which there
    # are two blocks, as it copies them from one to the next when they grow.
    cdef:
        RegexScratch* scratch = <RegexScratch*>data
        uint32_t i
    if not scratch.opened:
        return malloc(size)
    for i in range(2):
        if not scratch.lent[i] and size <= FRAMES_BYTES:
            scratch.lent[i] = True
            return scratch.frames[i]
    return NULL


cdef void give_block(void* block, void* data) noexcept nogil:
    cdef:
        RegexScratch* scratch = <RegexScratch*>data
        uint32_t i
    for i in range(2):
        if block == scratch.frames[i] and block != NULL:
            scratch.lent[i] = False
            return
    free(block)


cdef RegexScratch* open_regex_scratch() noexcept nogil:
    # Owned by the caller. NULL: no memory.
    cdef:
        RegexScratch* scratch = <RegexScratch*>calloc(1, sizeof(RegexScratch))
        pcre2_general_context* memory
    if scratch == NULL:
        return NULL
    memory = pcre2_general_context_create(take_block, give_block, scratch)
    scratch.frames[0] = <char*>malloc(FRAMES_BYTES)
    scratch.frames[1] = <char*>malloc(FRAMES_BYTES)
    if memory != NULL:
        scratch.match_data = pcre2_match_data_create(MAX_REGEX_GROUPS, memory)
        scratch.match_context = pcre2_match_context_create(memory)
        scratch.jit_stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_BYTES, memory)
    pcre2_general_context_free(memory)      # its functions have been copied
    if scratch.match_data == NULL or scratch.match_context == NULL or scratch.frames[0] == NULL or scratch.frames[1] == NULL:
        close_regex_scratch(scratch)
        return NULL
    pcre2_set_heap_limit(<pcre2_match_context*>scratch.match_context, FRAMES_BYTES // 1024)
    pcre2_set_callout(<pcre2_match_context*>scratch.match_context, note_start, scratch)
    if scratch.jit_stack != NULL:           # else the machine's own stack, of which PCRE2 takes 32 KiB
        pcre2_jit_stack_assign(<pcre2_match_context*>scratch.match_context, NULL, scratch.jit_stack)
    scratch.opened = True
    return scratch


cdef void close_regex_scratch(RegexScratch* scratch) noexcept nogil:
    if scratch == NULL:
        return
    pcre2_match_data_free(<pcre2_match_data*>scratch.match_data)
    pcre2_match_context_free(<pcre2_match_context*>scratch.match_context)
    pcre2_jit_stack_free(<pcre2_jit_stack*>scratch.jit_stack)
    free(scratch.frames[0])
    free(scratch.frames[1])
    free(scratch)


cdef bint prepare_regex_scratch(Engine* engine) noexcept nogil:
    # Whoever prepares a snapshot with a regular expression calls it; False: no memory.
    if engine.regex_scratch == NULL:
        engine.regex_scratch = open_regex_scratch()
    return engine.regex_scratch != NULL


# ---------------------------------------------------------------------------------------------------------- match
cdef int note_start(pcre2_callout_block* block, void* data) noexcept nogil:
    # PCRE2 is about to try another start. 0 = it may.
    cdef:
        RegexScratch* scratch = <RegexScratch*>data
        timespec now
        uint64_t now_ns
    scratch.starts += 1
    if scratch.starts == 1:         # most matches have no other
        return 0
    clock_gettime(CLOCK_MONOTONIC, &now)
    now_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
    if scratch.starts > 2:          # more than START_NS is another process's time, not a step of ours
        scratch.spent_ns += min(now_ns - scratch.clock_ns, <uint64_t>START_NS)
    scratch.clock_ns = now_ns
    return 0 if scratch.spent_ns < <uint64_t>ALL_STARTS_NS else PCRE2_ERROR_CALLOUT


cdef int match_regex(const Regex* regex, RegexScratch* scratch, const char* subject, uint32_t size, uint32_t* groups,
                     uint32_t max_groups) noexcept nogil:
    # The number of groups that the pattern has, with group 0 (at least 1), if it matches; else a RegexResult. The first `max_groups`
    # of them are written to `groups` as pairs, start and end in the subject; NO_INDEX twice where a group took no part in the match.
    cdef:
        pcre2_match_data* data = <pcre2_match_data*>scratch.match_data
        pcre2_match_context* context = <pcre2_match_context*>scratch.match_context
        const uint8_t* text = <const uint8_t*>subject if size != 0 else <const uint8_t*>scratch    # NULL is no subject
        size_t* found
        uint32_t i
        int result
    scratch.starts = scratch.spent_ns = 0
    pcre2_set_match_limit(context, regex.budget_ns // (regex.step_ns + (regex.step_kib_ns * size >> 10)) + 1)
    if regex.is_machine_code:
        result = pcre2_jit_match(<const pcre2_code*>regex.code, text, size, 0, 0, data, context)
    else:
        result = pcre2_match(<const pcre2_code*>regex.code, text, size, 0, PCRE2_NO_JIT, data, context)
    if result <= 0:
        if result == PCRE2_ERROR_NOMATCH:
            return REGEX_NO_MATCH
        if (result == PCRE2_ERROR_MATCHLIMIT or result == PCRE2_ERROR_DEPTHLIMIT or result == PCRE2_ERROR_HEAPLIMIT
                or result == PCRE2_ERROR_NOMEMORY or result == PCRE2_ERROR_JIT_STACKLIMIT or result == PCRE2_ERROR_CALLOUT
                or result == PCRE2_ERROR_RECURSELOOP):
            return REGEX_LIMIT
        return REGEX_FAILED
    found = pcre2_get_ovector_pointer(data)
    for i in range(min(regex.n_groups, max_groups)):
        if i < <uint32_t>result and found[2 * i] <= found[2 * i + 1] <= size:      # an unset one is larger than any size
            groups[2 * i] = <uint32_t>found[2 * i]
            groups[2 * i + 1] = <uint32_t>found[2 * i + 1]
        else:
            groups[2 * i] = groups[2 * i + 1] = NO_INDEX
    return <int>regex.n_groups
