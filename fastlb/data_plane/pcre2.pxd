"""The part of PCRE2 that regex.pyx uses, and no other module: the library is linked into that one alone."""
from libc.stdint cimport uint8_t, uint32_t


cdef extern from *:
    """
    #define PCRE2_CODE_UNIT_WIDTH 8
    #include <pcre2.h>
    """

cdef extern from "<pcre2.h>" nogil:
    ctypedef struct pcre2_code:
        pass
    ctypedef struct pcre2_general_context:
        pass
    ctypedef struct pcre2_compile_context:
        pass
    ctypedef struct pcre2_match_context:
        pass
    ctypedef struct pcre2_match_data:
        pass
    ctypedef struct pcre2_jit_stack:
        pass
    ctypedef struct pcre2_callout_block:
        pass
    ctypedef struct pcre2_callout_enumerate_block:
        pass
    size_t PCRE2_UNSET
    uint32_t PCRE2_ANCHORED, PCRE2_CASELESS, PCRE2_DOLLAR_ENDONLY
    uint32_t PCRE2_NO_AUTO_POSSESS, PCRE2_NO_JIT, PCRE2_NEVER_BACKSLASH_C, PCRE2_NEVER_UCP, PCRE2_NEVER_UTF
    uint32_t PCRE2_NEWLINE_LF, PCRE2_BSR_ANYCRLF, PCRE2_JIT_COMPLETE
    uint32_t PCRE2_CONFIG_VERSION, PCRE2_CONFIG_JIT
    uint32_t PCRE2_INFO_ALLOPTIONS, PCRE2_INFO_BACKREFMAX, PCRE2_INFO_CAPTURECOUNT, PCRE2_INFO_JITSIZE, PCRE2_INFO_SIZE
    uint32_t PCRE2_INFO_NAMECOUNT, PCRE2_INFO_NAMEENTRYSIZE, PCRE2_INFO_NAMETABLE
    int PCRE2_ERROR_NOMATCH, PCRE2_ERROR_MATCHLIMIT, PCRE2_ERROR_DEPTHLIMIT, PCRE2_ERROR_HEAPLIMIT
    int PCRE2_ERROR_NOMEMORY, PCRE2_ERROR_RECURSELOOP, PCRE2_ERROR_JIT_STACKLIMIT, PCRE2_ERROR_CALLOUT

    int pcre2_config(uint32_t what, void* where)
    pcre2_general_context* pcre2_general_context_create(void* (*take)(size_t size, void* data) noexcept nogil,
                                                        void (*give)(void* block, void* data) noexcept nogil, void* data)
    void pcre2_general_context_free(pcre2_general_context* context)

    pcre2_compile_context* pcre2_compile_context_create(pcre2_general_context* context)
    void pcre2_compile_context_free(pcre2_compile_context* context)
    int pcre2_set_newline(pcre2_compile_context* context, uint32_t newline)
    int pcre2_set_bsr(pcre2_compile_context* context, uint32_t bsr)
    int pcre2_set_parens_nest_limit(pcre2_compile_context* context, uint32_t limit)
    pcre2_code* pcre2_compile(const uint8_t* pattern, size_t size, uint32_t options, int* error, size_t* offset,
                              pcre2_compile_context* context)
    void pcre2_code_free(pcre2_code* code)
    int pcre2_jit_compile(pcre2_code* code, uint32_t options)
    int pcre2_pattern_info(const pcre2_code* code, uint32_t what, void* where)
    int pcre2_callout_enumerate(const pcre2_code* code, int (*found)(pcre2_callout_enumerate_block* block, void* data) noexcept nogil,
                                void* data)
    int pcre2_get_error_message(int error, uint8_t* text, size_t room)

    pcre2_match_context* pcre2_match_context_create(pcre2_general_context* context)
    void pcre2_match_context_free(pcre2_match_context* context)
    int pcre2_set_match_limit(pcre2_match_context* context, uint32_t limit)
    int pcre2_set_depth_limit(pcre2_match_context* context, uint32_t limit)
    int pcre2_set_heap_limit(pcre2_match_context* context, uint32_t kibibytes)
    int pcre2_set_callout(pcre2_match_context* context, int (*called)(pcre2_callout_block* block, void* data) noexcept nogil, void* data)
    pcre2_jit_stack* pcre2_jit_stack_create(size_t first, size_t most, pcre2_general_context* context)
    void pcre2_jit_stack_assign(pcre2_match_context* context, void* callback, void* data)
    void pcre2_jit_stack_free(pcre2_jit_stack* stack)
    pcre2_match_data* pcre2_match_data_create(uint32_t pairs, pcre2_general_context* context)
    void pcre2_match_data_free(pcre2_match_data* data)
    size_t* pcre2_get_ovector_pointer(pcre2_match_data* data)
    int pcre2_match(const pcre2_code* code, const uint8_t* subject, size_t size, size_t start, uint32_t options, pcre2_match_data* data,
                    pcre2_match_context* context)
    int pcre2_jit_match(const pcre2_code* code, const uint8_t* subject, size_t size, size_t start, uint32_t options,
                        pcre2_match_data* data, pcre2_match_context* context)
