"""The engine's ready list: connections with work left that no further edge will announce (budget used up, pipelined input,
back-pressure released by the other side). A queue, so that turns are fair.
"""
from fastlb.data_plane.types cimport IO_READY_LISTED, Connection, Engine


cdef inline void list_ready(Engine* engine, Connection* connection) noexcept nogil:
    if connection.io & IO_READY_LISTED:
        return
    connection.io |= IO_READY_LISTED
    connection.ready_next = NULL
    if engine.ready_tail != NULL:
        engine.ready_tail.ready_next = connection
    else:
        engine.ready_head = connection
    engine.ready_tail = connection


cdef inline Connection* take_ready(Engine* engine) noexcept nogil:
    cdef Connection* connection = engine.ready_head
    if connection != NULL:
        engine.ready_head = connection.ready_next
        if engine.ready_head == NULL:
            engine.ready_tail = NULL
        connection.ready_next = NULL
        connection.io &= ~<unsigned int>IO_READY_LISTED
    return connection


cdef inline void unlist_ready(Engine* engine, Connection* connection) noexcept nogil:
    # Rare (a listed connection is closed): a walk of the list.
    cdef:
        Connection* at = engine.ready_head
        Connection* before = NULL
    if not connection.io & IO_READY_LISTED:
        return
    while at != connection:
        before = at
        at = at.ready_next
    if before == NULL:
        engine.ready_head = connection.ready_next
    else:
        before.ready_next = connection.ready_next
    if engine.ready_tail == connection:
        engine.ready_tail = before
    connection.ready_next = NULL
    connection.io &= ~<unsigned int>IO_READY_LISTED
