"""Idle connections to one backend that another exchange may use: most recent first, so that the coldest ones time out."""
from fastlb.data_plane.types cimport Connection, IdleCache


cdef inline void cache_put(IdleCache* cache, Connection* connection) noexcept nogil:
    connection.cache_previous = NULL
    connection.cache_next = cache.newest
    if cache.newest != NULL:
        cache.newest.cache_previous = connection
    else:
        cache.oldest = connection
    cache.newest = connection
    cache.count += 1


cdef inline void cache_remove(IdleCache* cache, Connection* connection) noexcept nogil:
    if connection.cache_previous != NULL:
        connection.cache_previous.cache_next = connection.cache_next
    else:
        cache.newest = connection.cache_next
    if connection.cache_next != NULL:
        connection.cache_next.cache_previous = connection.cache_previous
    else:
        cache.oldest = connection.cache_previous
    connection.cache_next = connection.cache_previous = NULL
    cache.count -= 1


cdef inline Connection* cache_take(IdleCache* cache) noexcept nogil:
    cdef Connection* connection = cache.newest
    if connection != NULL:
        cache_remove(cache, connection)
    return connection
