"""System calls that Python has no names for: prctl(2), capset(2), and the command line that `ps` shows.

Called a few times at the start of a process, with the GIL; no request comes here. A module of its own because the alternative, ctypes,
costs every worker a megabyte and the start ten milliseconds.
"""
from libc.errno cimport EINVAL, EPERM, errno
from libc.stdint cimport uint32_t, uintptr_t
from libc.string cimport memcpy, memset

import os

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER, PR_GET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP
    int PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    int prctl(int option, ...)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_capset

cdef extern from "<linux/capability.h>" nogil:
    uint32_t _LINUX_CAPABILITY_VERSION_3
    cdef struct __user_cap_header_struct:
        uint32_t version
        int pid
    cdef struct __user_cap_data_struct:
        uint32_t effective
        uint32_t permitted
        uint32_t inheritable

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)


def set_no_new_privileges():
    """From now on no exec, in this process or below it, gains anything by a set-user-id file or by capabilities of a file."""
    _check(prctl(PR_SET_NO_NEW_PRIVS, <unsigned long>1, <unsigned long>0, <unsigned long>0, <unsigned long>0))


def has_no_new_privileges():
    return prctl(PR_GET_NO_NEW_PRIVS, <unsigned long>0, <unsigned long>0, <unsigned long>0, <unsigned long>0) == 1


def set_child_subreaper():
    """Processes below this one whose parent has ended become its children. Not inherited by a fork."""
    _check(prctl(PR_SET_CHILD_SUBREAPER, <unsigned long>1, <unsigned long>0, <unsigned long>0, <unsigned long>0))


def is_dumpable():
    """Whether processes of the same user may trace this one, and a crash may leave a core file."""
    return prctl(PR_GET_DUMPABLE, <unsigned long>0, <unsigned long>0, <unsigned long>0, <unsigned long>0) == 1


def drop_bounding_capabilities():
    """Takes every capability out of the bounding set, so that no exec can give one back. Needs CAP_SETPCAP.

    Returns:
        Whether that was allowed.
    """
    cdef int capability = 0, present
    while True:
        present = prctl(PR_CAPBSET_READ, <unsigned long>capability, <unsigned long>0, <unsigned long>0, <unsigned long>0)
        if present < 0:
            if errno == EINVAL:  # past the last one that this kernel knows
                return True
            _check(-1)
        if present and prctl(PR_CAPBSET_DROP, <unsigned long>capability, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
            if errno == EPERM:
                return False
            _check(-1)
        capability += 1


def clear_capabilities():
    """Gives up every capability of this process: ambient, inheritable, permitted and effective. Always allowed."""
    cdef:
        __user_cap_header_struct header
        __user_cap_data_struct data[2]  # 32 capabilities in each (capget(2))
    if prctl(PR_CAP_AMBIENT, <unsigned long>PR_CAP_AMBIENT_CLEAR_ALL, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        if errno != EINVAL:  # a kernel without ambient capabilities
            _check(-1)
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    memset(data, 0, sizeof(data))
    _check(<int>syscall(SYS_capset, &header, data))


def set_process_title(str title):
    """What `ps` and `top` show for this process: the command line, and the first 15 bytes as its short name.

    The new text replaces the arguments where the kernel keeps them, on the stack of the first thread, and is cut to their length
    (proc_pid_stat(5), fields 48 and 49; Python works with copies of its own). Where the kernel does not say where they are, only the
    short name changes.
    """
    cdef:
        bytes text = os.fsencode(title)
        uintptr_t start, end
        size_t size
    _check(prctl(PR_SET_NAME, <unsigned long><uintptr_t><const char*>text, <unsigned long>0, <unsigned long>0, <unsigned long>0))
    start, end = _find_arguments()
    if start and end > start:
        size = min(<size_t>len(text), <size_t>(end - start - 1))
        memset(<void*>start, 0, end - start)  # a last byte that is not 0 would make the kernel show the environment too
        memcpy(<void*>start, <const char*>text, size)


cdef tuple _find_arguments():  # with the GIL: reads a file
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
        return int(fields[45]), int(fields[46])  # the first one here is field 3
    except (OSError, ValueError, IndexError):
        return 0, 0


cdef int _check(int result) except -1:  # with the GIL: raises
    if result < 0:
        number = errno
        raise OSError(number, os.strerror(number))
    return 0
