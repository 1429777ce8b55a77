"""Balancer and Ring: the pickers of the data plane as Python objects, for tests, simulations and programs that choose for themselves.

There is one implementation. A Balancer compiles its backends into a snapshot image with one pool, as the control plane does for a
configuration, and loads it over shared memory that nobody shares; a Ring is the table of a consistent_hash pool. Every method keeps the GIL
from its first look to its last, which makes each of them one step for all threads.
"""
import math
import os
import time

from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.backend_table cimport backend_table_close, backend_table_open, claim, drop_backend, hold_backend, release_claim
from fastlb.data_plane.select.consistent_hash cimport find_point
from fastlb.data_plane.select.dispatch cimport pick
from fastlb.data_plane.select.key cimport crc32, hash_key
from fastlb.data_plane.select.latency cimport note_row_latency
from fastlb.data_plane.select.tables cimport TableBackend, build_ring, build_ring_index, count_index_bits, count_ring_points
from fastlb.data_plane.shared_table cimport add_image_rows, close_shared, create_shared, open_worker, set_state, sweep_rows, worker_at
from fastlb.data_plane.snapshot cimport drop_snapshot, load_snapshot, map_image
from fastlb.data_plane.system cimport munmap
from fastlb.data_plane.types cimport (ALGORITHM_PEAK_EWMA, MAX_IDENTITY_BYTES, NO_BACKEND, POOL_NEEDS_KEY, ROW_DOWN, Backend, Engine, Group, ImageRingPoint, PickFunction, Pool,
                                      PoolBackend, SharedTable, Snapshot)

from fastlb._core import ALGORITHMS, SnapshotWriter, pack_address
from fastlb._build import BUILD_ID
from fastlb.picker import address_of, load_picker

cdef enum:
    MAX_WEIGHT = 65535              # sums of the weights of all rows of a node stay below 2^32
    MAX_PRIORITY = 255
    EXCLUDED_ON_STACK = 16

NOT_USED = dict.fromkeys(("replay_limit_bytes", "max_idle", "idle_timeout_ms", "connect_timeout_ms", "first_byte_timeout_ms",
                          "between_bytes_timeout_ms", "exchange_timeout_ms", "tunnel_timeout_ms"), 0)
ANY_ADDRESS = pack_address("127.0.0.1", 1)      # nobody connects to it: a backend without an address is never picked


def check_number(what, value, least, most):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{what} {value} is not between {least} and {most}")
    return value


def check_name(name):
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {name!r}")
    if not 0 < len(name.encode()) <= MAX_IDENTITY_BYTES:
        raise ValueError(f"the name {name!r} has not between 1 and {MAX_IDENTITY_BYTES} bytes")
    return name


def check_backend(*, weight=1, max_in_flight=0, priority=0):
    return {"weight": check_number("weight", weight, 0, MAX_WEIGHT),
            "max_in_flight": check_number("max_in_flight", max_in_flight, 0, 2**31 - 1),
            "priority": check_number("priority", priority, 0, MAX_PRIORITY)}


cdef bytes key_bytes(key):
    if key is None:
        return b""
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    raise TypeError(f"a key is a str or bytes, not {key!r}")


cdef class Balancer:
    """Picks among backends as a pool of fastlb does.

    Args:
        backends: names, or a mapping of each name to its weight or to the keyword arguments of add(). For the algorithms that hash, names
            such as "10.0.0.1:8080" lead to the same backends as a pool with these addresses.
        algorithm: as in a configuration: round_robin, weighted_round_robin, least_connections, weighted_least_connections, ip_hash, hash,
            consistent_hash, maglev, random_two_choices, peak_ewma, least_time; or a picker of your own, as "module:name" or as what that
            name would lead to (fastlb.picker).
        slow_start: seconds in which a backend that is added later, or comes up, gets to its whole weight; 0 = at once.
        balance_factor: for consistent_hash: a backend gets at most this many times its share of what is in flight, over 1; None = no bound.
        seed: of random choices, 0 to 2^64 - 1; None = another one each time.
        clock: a function that returns seconds, for simulations; None = time.monotonic. Only slow_start, peak_ewma, least_time and
            balance_factor look at it.

    Raises:
        TypeError, ValueError: an argument is out of range. PickerError: there is no such picker. OSError: out of descriptors. MemoryError.

    Threads may share one. It belongs to the process that made it: after a fork each process makes its own.

    >>> balancer = Balancer({"a": 5, "b": 1, "c": 1}, "weighted_round_robin")
    >>> [balancer.pick() for _ in range(7)]
    ['a', 'a', 'b', 'a', 'c', 'a', 'a']
    """
    cdef:
        Engine* engine              # owned; of it only what picks and claims look at
        SharedTable table           # owned
        Snapshot* snapshot          # owned: its only reference
        bint table_open
        dict options                # keyword arguments of add() by name, in the order of adding
        list names                  # by index in the pool
        dict indexes
        uint64_t generation
        object clock
        object picker               # of the user's own: kept as long as its address is used
        uintptr_t picker_address
        readonly str algorithm
        readonly double slow_start
        readonly object balance_factor

    def __cinit__(self, backends=(), algorithm="weighted_least_connections", *, slow_start=0.0, balance_factor=None, seed=None, clock=None):
        cdef:
            bytes build = BUILD_ID.encode()
            int error
        if not isinstance(algorithm, str):
            self.picker, algorithm = algorithm, f"{type(algorithm).__module__}:{type(algorithm).__name__}"
            self.picker_address = address_of(self.picker, algorithm)
        elif ":" in algorithm:
            self.picker_address = load_picker(algorithm)
        elif algorithm not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
        if not 0 <= slow_start <= 86400 * 30:
            raise ValueError(f"slow_start {slow_start!r} is not between 0 and 2592000 seconds")
        if balance_factor is not None and (algorithm != "consistent_hash" or not 1 < balance_factor <= 1000):
            raise ValueError("balance_factor is for consistent_hash, above 1 and at most 1000")
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        self.algorithm, self.slow_start, self.balance_factor = algorithm, slow_start, balance_factor
        self.clock = clock
        self.options, self.names, self.indexes = {}, [], {}
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        if self.engine == NULL:
            raise MemoryError
        self.engine.random[0] = check_number("seed", seed, 0, 2**64 - 1)
        error = create_shared(&self.table, build)
        if error:
            raise OSError(error, os.strerror(error))
        self.table_open = True
        open_worker(&self.table, 0, <int32_t>os.getpid())
        self.engine.shared = &self.table
        self.engine.worker = worker_at(&self.table, 0)
        self.engine.counters = &self.engine.worker.counters
        if backend_table_open(&self.engine.backends, &self.table, 0) != 0:
            raise MemoryError
        if isinstance(backends, str):
            raise TypeError("backends are several names, not one")
        given = backends.items() if hasattr(backends, "items") else [(name, {}) for name in backends]
        options = {}
        for name, what in given:
            if check_name(name) in options:
                raise ValueError(f"the backend {name!r} is there twice")
            options[name] = check_backend(**({"weight": what} if isinstance(what, int) else what))
        self.build(options)

    def __dealloc__(self):
        if self.snapshot != NULL:
            drop_snapshot(self.engine, self.snapshot)
            self.snapshot = NULL
        if self.engine != NULL:
            backend_table_close(&self.engine.backends)
            free(self.engine)
            self.engine = NULL
        if self.table_open:
            self.table_open = False
            close_shared(&self.table)

    cdef read_clock(self):
        # An hour on, because a time of 0 stands for "never" and simulations begin at 0.
        now = time.monotonic() if self.clock is None else self.clock()
        self.engine.now_ms = <uint64_t>(max(int(now * 1000), 0) + 3600000)

    cdef build(self, dict options):
        # Compiles these backends and puts them in the place of the old ones; what is in flight, health and latencies stay with the names.
        cdef:
            const char* image
            size_t size = 0
            int error = 0
            Snapshot* new
            Pool* pool
        self.read_clock()
        writer = SnapshotWriter(self.generation + 1)
        number = writer.add_pool("balancer", algorithm=self.algorithm, attempts=1, slow_start_ms=round(self.slow_start * 1000),
                                 balance_permille=round((self.balance_factor or 0) * 1000), **NOT_USED)
        names = sorted(options, key=lambda name: options[name]["priority"])
        priority = None
        for name in names:
            if priority is not None and options[name]["priority"] != priority:
                writer.begin_group(number)
            priority = options[name]["priority"]
            writer.add_backend(number, identity=name, display=name, address=ANY_ADDRESS, weight=options[name]["weight"],
                               max_in_flight=options[name]["max_in_flight"])
        fd = writer.finish()
        try:
            image = map_image(fd, &size, &error)
        finally:
            os.close(fd)
        if image == NULL:
            raise OSError(error, os.strerror(error)) if error else MemoryError()
        # Those that are there from the start have no slow start.
        error = add_image_rows(&self.table, image, self.engine.now_ms if self.generation else 0)
        if error:
            munmap(<void*>image, size)
            raise OSError(error, os.strerror(error))
        new = load_snapshot(self.engine, image, size, NULL, NULL, &error)
        if new == NULL:
            munmap(<void*>image, size)
            raise MemoryError
        pool = &new.pools[0]
        if pool.user_picker != NULL:
            pool.user_picker.pick = <PickFunction><void*>self.picker_address
        if self.snapshot != NULL:
            pool.random = self.snapshot.pools[0].random
            drop_snapshot(self.engine, self.snapshot)
        self.snapshot = new
        self.generation += 1
        self.options, self.names = options, names
        self.indexes = {name: index for index, name in enumerate(names)}
        sweep_rows(&self.table, image)

    cdef PoolBackend* find(self, name) except NULL:
        if name not in self.indexes:
            raise KeyError(name)
        return &self.snapshot.pools[0].backends[<uint32_t>self.indexes[name]]

    @property
    def backends(self):
        """The names, in the order of adding."""
        return tuple(self.options)

    @property
    def picks_rejected(self):
        """Answers of a picker of your own that named no backend which could be picked."""
        return self.engine.counters.picks_rejected

    def add(self, name, *, weight=1, max_in_flight=0, priority=0):
        """Adds a backend. Costs what building the tables of all of them costs, as do remove() and set_weight().

        Args:
            weight: its share, 0 to 65535; 0 = never picked.
            max_in_flight: claims that it has at most; 0 = no cap.
            priority: 0 to 255; picked only when none of a lower number can be.

        Raises:
            ValueError: it is there already, or a number is out of range. TypeError. OSError. MemoryError.
        """
        if check_name(name) in self.options:
            raise ValueError(f"the backend {name!r} is there already")
        self.build({**self.options, name: check_backend(weight=weight, max_in_flight=max_in_flight, priority=priority)})

    def remove(self, name):
        """Takes a backend out. Claims on it can still be released. KeyError: it is not there."""
        self.find(name)
        self.build({other: options for other, options in self.options.items() if other != name})

    def set_weight(self, name, weight):
        """Changes a weight, 0 to 65535. KeyError: no such backend. ValueError."""
        self.find(name)
        self.build({**self.options, name: {**self.options[name], "weight": check_number("weight", weight, 0, MAX_WEIGHT)}})

    def set_health(self, name, up):
        """Whether a backend is up and may be picked. KeyError: no such backend."""
        cdef bytes raw = name.encode()
        self.find(name)
        self.read_clock()
        set_state(&self.table, raw, <uint32_t>len(raw), 0 if up else <uint32_t>ROW_DOWN, self.engine.now_ms)

    def note_latency(self, name, seconds):
        """Tells how long a backend took to answer; only peak_ewma and least_time look at it. KeyError: no such backend. ValueError."""
        cdef:
            PoolBackend* backend = self.find(name)
            Pool* pool = &self.snapshot.pools[0]
            uint32_t i
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a latency of {seconds!r} seconds")
        self.read_clock()
        note_row_latency(backend.shared, <uint64_t>(min(seconds, 4000.0) * 1e6), self.engine.now_ms,
                         pool.algorithm == ALGORITHM_PEAK_EWMA)
        for i in range(pool.n_groups):
            pool.groups[i].costs_ms = 0         # read at the next pick, not in a while: here latencies are not told a thousand times a second

    def in_flight(self, name):
        """Claims on a backend that are not released. KeyError: no such backend."""
        return self.find(name).shared.in_flight

    def pick(self, key=None, exclude=()):
        """Chooses a backend and claims nothing.

        Args:
            key: str (as UTF-8) or bytes, for ip_hash (the text of an address), hash, consistent_hash and maglev; the others ignore it. Without
                one these take turns.
            exclude: names that may not be chosen; those that are not there are ignored.

        Returns:
            Its name, or None: none is up with a weight, below its cap, and not excluded.
        """
        cdef int32_t index = self.pick_index(key, exclude)
        return self.names[index] if index != NO_BACKEND else None

    cdef int32_t pick_index(self, key, exclude) except? -2:
        cdef:
            Pool* pool = &self.snapshot.pools[0]
            int32_t on_stack[EXCLUDED_ON_STACK]
            int32_t* excluded = on_stack
            int32_t index
            uint32_t n = 0
            uint64_t hashed = 0
            bytes raw
        self.read_clock()
        if pool.flags & POOL_NEEDS_KEY:
            raw = key_bytes(key)
            hashed = hash_key(pool.algorithm, raw, <uint32_t>len(raw))
        indexes = {self.indexes[name] for name in exclude if name in self.indexes} if exclude else ()
        if len(indexes) > EXCLUDED_ON_STACK:
            excluded = <int32_t*>malloc(len(indexes) * sizeof(int32_t))
            if excluded == NULL:
                raise MemoryError
        for known in indexes:
            excluded[n] = known
            n += 1
        index = pick(pool, hashed, excluded, n)
        if excluded != on_stack:
            free(excluded)
        return index

    def claim(self, name):
        """Counts one more in flight on a backend. False, with nothing counted, at its cap. KeyError: no such backend."""
        cdef PoolBackend* backend = self.find(name)
        return self.claim_backend(backend)

    cdef bint claim_backend(self, PoolBackend* backend):
        if not claim(self.engine, backend.row, backend.max_in_flight):
            return False
        backend.row.references += 1             # so that a backend which is removed keeps its count until the release
        return True

    def release(self, name):
        """Ends one claim. KeyError: there was never such a backend. ValueError: nothing is in flight on it."""
        cdef:
            bytes raw = name.encode()
            int error = 0
            Backend* row = hold_backend(&self.engine.backends, raw, <uint32_t>len(raw), &error)
        if row == NULL:
            raise KeyError(name)
        if row.shared.in_flight <= 0:
            drop_backend(&self.engine.backends, row)
            raise ValueError(f"nothing is in flight on {name!r}")
        release_claim(self.engine, row)
        drop_backend(&self.engine.backends, row)
        drop_backend(&self.engine.backends, row)        # the claim's

    def acquire(self, key=None, exclude=()):
        """A context manager: picks and claims as one step when it is entered, gives the name, and releases at the end. Entering raises
        LookupError when none can be picked. Arguments as pick()."""
        return Acquired(self, key, exclude)

    cdef str pick_and_claim(self, key, exclude):
        cdef int32_t index = self.pick_index(key, exclude)
        if index == NO_BACKEND or not self.claim_backend(&self.snapshot.pools[0].backends[index]):
            raise LookupError("no backend can be picked")
        return self.names[index]


cdef class Acquired:
    """What Balancer.acquire() returns; may be entered again after it was left."""
    cdef:
        Balancer balancer
        object key, exclude
        str name

    def __init__(self, Balancer balancer, key, exclude):
        self.balancer, self.key, self.exclude = balancer, key, exclude

    def __enter__(self):
        if self.name is not None:
            raise RuntimeError("this claim is held already")
        self.name = self.balancer.pick_and_claim(self.key, self.exclude)
        return self.name

    def __exit__(self, *_):
        if self.name is None:
            raise RuntimeError("this claim is not held")
        name, self.name = self.name, None
        self.balancer.release(name)


cdef class Ring:
    """A ketama ring: a key belongs to the first point at or behind its hash, and a node has 160 points for each unit of weight. A node that is
    added or removed moves only the keys of its own points, about 1/n of them.

    The points and hashes are those of nginx's `hash ... consistent` and of fastlb's consistent_hash pools: nodes named as there,
    "10.0.0.1:8080", get the same keys.

    Args:
        nodes: names, or a mapping of names to weights (1 to 65535).

    Raises:
        TypeError, ValueError. MemoryError.

    Threads may share one.

    >>> ring = Ring(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])
    >>> ring["user-7"] == ring.get("user-7", 3)[0]
    True
    """
    cdef:
        Group group                 # of it: ring, ring_index, ring_shift, n_ring
        ImageRingPoint* owned_points
        uint32_t* owned_index
        dict weights
        list names

    def __cinit__(self, nodes=()):
        if isinstance(nodes, str):
            raise TypeError("nodes are several names, not one")
        given = nodes.items() if hasattr(nodes, "items") else [(name, 1) for name in nodes]
        weights = {}
        for name, weight in given:
            if check_name(name) in weights:
                raise ValueError(f"the node {name!r} is there twice")
            weights[name] = check_number("weight", weight, 1, MAX_WEIGHT)
        self.build(weights)

    def __dealloc__(self):
        free(self.owned_points)
        self.owned_points = NULL
        free(self.owned_index)
        self.owned_index = NULL

    cdef build(self, dict weights):
        cdef:
            uint32_t n = <uint32_t>len(weights), i = 0, bits, n_points
            TableBackend* nodes = <TableBackend*>malloc((<size_t>n + 1) * sizeof(TableBackend))
            ImageRingPoint* points = NULL
            uint32_t* index = NULL
        names = list(weights)
        raw = [name.encode() for name in names]
        try:
            if nodes == NULL:
                raise MemoryError
            for i in range(n):
                nodes[i].name, nodes[i].name_size = <const char*><bytes>raw[i], <uint32_t>len(raw[i])
                nodes[i].weight = weights[names[i]]
            points = <ImageRingPoint*>malloc((<size_t>count_ring_points(nodes, n) + 1) * sizeof(ImageRingPoint))
            if points == NULL:
                raise MemoryError
            n_points = build_ring(nodes, n, points)
            bits = count_index_bits(n_points)
            index = <uint32_t*>malloc(((<size_t>1 << bits) + 1) * sizeof(uint32_t))
            if index == NULL:
                free(points)
                raise MemoryError
            build_ring_index(points, n_points, bits, index)
        finally:
            free(nodes)
        free(self.owned_points)
        free(self.owned_index)
        self.owned_points, self.owned_index = points, index
        self.group.ring, self.group.ring_index = points, index
        self.group.n_ring, self.group.ring_shift = n_points, 32 - bits
        self.weights, self.names = weights, names

    @property
    def nodes(self):
        """The names with their weights, in the order of adding."""
        return dict(self.weights)

    @property
    def points(self):
        """All points as pairs of a hash (0 to 2^32 - 1) and the name of the node, in the order of the ring."""
        return [(self.group.ring[i].hash, self.names[self.group.ring[i].backend]) for i in range(self.group.n_ring)]

    def add(self, name, weight=1):
        """Adds a node of a weight from 1 to 65535. ValueError: it is there already."""
        if check_name(name) in self.weights:
            raise ValueError(f"the node {name!r} is there already")
        self.build({**self.weights, name: check_number("weight", weight, 1, MAX_WEIGHT)})

    def remove(self, name):
        """Takes a node out. KeyError: it is not there."""
        if name not in self.weights:
            raise KeyError(name)
        self.build({other: weight for other, weight in self.weights.items() if other != name})

    def __len__(self):
        return len(self.names)

    def __contains__(self, name):
        return name in self.weights

    def __getitem__(self, key):
        found = self.get(key, 1)
        if not found:
            raise LookupError("the ring has no node")
        return found[0]

    def get(self, key, n=1):
        """The first `n` different nodes for a key (str as UTF-8, or bytes), in the order of the ring; fewer where it has fewer."""
        cdef:
            bytes raw = key_bytes(key)
            uint32_t at, _i
        check_number("n", n, 0, 2**31 - 1)
        n = min(n, len(self.names))
        found = {}
        at = find_point(&self.group, crc32(0, raw, <size_t>len(raw)))
        for _i in range(self.group.n_ring):
            if len(found) >= n:
                break
            if at >= self.group.n_ring:
                at = 0
            found[self.names[self.group.ring[at].backend]] = None
            at += 1
        return list(found)
