"""What the shared memory says about itself, so that a fastlb that lays its own out otherwise can read it (processes/foreign_memory.py).

A *legend* names each number of the structs that workers and the controller count in, with where it stands. It is written into the memory
once, by who makes it. Structs that are nothing but numbers of eight bytes are described by themselves: a field that is added to them needs
no line here. Others have one for each field that a reader wants.
"""
from libc.stdint cimport uint64_t

from fastlb.data_plane.shared_table cimport (BACKEND_METER_BYTES, BACKEND_METERS_AT, BLOCK_BYTES, BLOCKS_AT, COLUMN_BYTES, COLUMNS_AT, DETAILS_AT,
                                             DETAILS_BYTES, METER_BYTES, METER_DETAILS_BYTES, METER_NAME_BYTES, METER_NAMES_AT, METERS_AT,
                                             WORKER_BACKEND_METERS_BYTES, WORKER_BYTES, WORKER_COLUMNS_BYTES, WORKER_METERS_BYTES, WORKERS_AT)
from fastlb.data_plane.types cimport (MAX_METERS, MAX_ROWS, MAX_WORKERS, ROWS_PER_BLOCK, BackendMeter, Column, Counters, Histogram, Meter,
                                      MeterDetails, MeterName, RowDetails, RowHealth, SharedHeader, WorkerBlock, WorkerGauges)


cdef dict name_all(fields, size_t at, str prefix):
    # Fields of a struct whose every number held its own index: name -> [offset, bytes, count].
    named = {}
    for name, value in fields.items():
        if name == "padding":
            continue
        if isinstance(value, dict):
            named.update(name_all(value, at, prefix + name + "."))
        else:
            named[prefix + name] = [at + 8 * value[0], 8, len(value)] if isinstance(value, list) else [at + 8 * value, 8, 1]
    return named


cdef void number_all(uint64_t* numbers, size_t size) noexcept:
    cdef size_t i
    for i in range(size // 8):
        numbers[i] = i


cdef dict describe_gauges(size_t at):
    cdef WorkerGauges one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, at, "gauges.")


cdef dict describe_counters(size_t at):
    cdef Counters one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, at, "counters.")


cdef dict describe_histogram(size_t at, str name):
    cdef Histogram one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, at, name + ".")


cdef dict describe_meter():
    cdef Meter one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, 0, "")


cdef dict describe_meter_details():
    cdef MeterDetails one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, 0, "")


cdef dict describe_backend_meter():
    cdef BackendMeter one
    number_all(<uint64_t*>&one, sizeof(one))
    return name_all(one, 0, "")


cdef inline size_t offset(const void* struct_, const void* field) noexcept:
    return <size_t>field - <size_t>struct_


def describe_memory():
    """The legend of this build's layout without its lists of names. Per struct its size and fields, each [offset, bytes, count]; per array
    where its elements are: [offset, bytes of one], with the bytes of one worker's share in between where each worker has one."""
    cdef:
        SharedHeader header                     # only where their fields are is looked at
        WorkerBlock worker
        MeterName name
        RowDetails details
        RowHealth health
        Column column
    return {
        "structs": {
            "header": [sizeof(SharedHeader), {
                "n_workers": [offset(&header, &header.n_workers), 4, 1], "n_rows": [offset(&header, &header.n_rows), 4, 1],
                "n_meters": [offset(&header, &header.n_meters), 4, 1], "identity": [offset(&header, &header.identity), 8, 1],
                "workers_died": [offset(&header, &header.workers_died), 8, 1],
                "exchanges_lost": [offset(&header, &header.exchanges_lost), 8, 1]}],
            "worker": [sizeof(WorkerBlock), {
                "guest": [offset(&worker, &worker.guest), 8, 1],
                **describe_gauges(offset(&worker, &worker.gauges)), **describe_counters(offset(&worker, &worker.counters)),
                **describe_histogram(offset(&worker, &worker.pumps), "pumps"),
                **describe_histogram(offset(&worker, &worker.lags), "lags")}],
            "meter_name": [sizeof(MeterName), {
                "use": [offset(&name, &name.use), 4, 1], "size": [offset(&name, &name.size), 4, 1],
                "name": [offset(&name, &name.name[0]), 1, sizeof(name.name)]}],
            "meter": [sizeof(Meter), describe_meter()],
            "meter_details": [sizeof(MeterDetails), describe_meter_details()],
            "row": [sizeof(RowDetails), {
                "use": [offset(&details, &details.use), 4, 1], "identity_size": [offset(&details, &details.identity_size), 4, 1],
                "identity": [offset(&details, &details.identity[0]), 1, sizeof(details.identity)],
                "ups": [offset(&details, &details.ups), 4, 1],
                "downs": [offset(&details, &details.downs), 4, 1],
                "ejections": [offset(&details, &details.health) + offset(&health, &health.ejections), 8, 1]}],
            "column": [sizeof(Column), {
                "claims": [offset(&column, &column.claims), 8, 1], "releases": [offset(&column, &column.releases), 8, 1],
                "failures": [offset(&column, &column.failures), 8, 1], "idle": [offset(&column, &column.idle), 4, 1]}],
            "backend_meter": [sizeof(BackendMeter), describe_backend_meter()],
        },
        "workers": [WORKERS_AT, WORKER_BYTES],
        "meter_names": [METER_NAMES_AT, METER_NAME_BYTES],
        "meters": [METERS_AT, WORKER_METERS_BYTES, METER_BYTES],
        "meter_details": [METERS_AT + MAX_METERS * METER_BYTES, WORKER_METERS_BYTES, METER_DETAILS_BYTES],
        "blocks": [BLOCKS_AT, BLOCK_BYTES],
        # In a block:
        "rows": [DETAILS_AT, DETAILS_BYTES],
        "columns": [COLUMNS_AT, WORKER_COLUMNS_BYTES, COLUMN_BYTES],
        "backend_meters": [BACKEND_METERS_AT, WORKER_BACKEND_METERS_BYTES, BACKEND_METER_BYTES],
        "rows_per_block": ROWS_PER_BLOCK,
        "max_workers": MAX_WORKERS,
        "max_rows": MAX_ROWS,
        "max_meters": MAX_METERS,
    }
