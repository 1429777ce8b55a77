"""Pickers of your own: the functions that a pool's `algorithm = "module:name"` may name (fastlb/picker.h says what they get and may do).

The name leads to one of these:
- what `numba_picker` makes of a Python function;
- anything else with an `address`, such as a numba.cfunc of `int32(CPointer(...))`;
- a C function as ctypes gives it: `ctypes.CDLL("./pickers.so").pick`;
- a PyCapsule with the address, or a cdef function that Cython shares with other modules (declared in the module's .pxd file).

What was loaded by name is never unloaded: exchanges of older snapshots may still pick with it.
"""

import ctypes
import importlib
import typing
from _ctypes import CFuncPtr
from collections.abc import Callable, Sequence
from typing import Any

from fastlb import FastlbError

VERSION = 1

# Keeps what the addresses lead into.
_loaded: dict[str, Any] = {}


class PickerError(FastlbError):
    """A picker that cannot be loaded."""


class PickContext(ctypes.Structure):
    """The C struct, for ctypes."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("n_backends", ctypes.c_uint32),
        ("n_eligible", ctypes.c_uint32),
        ("attempt", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("random", ctypes.c_uint64),
        ("now_ms", ctypes.c_uint64),
        ("eligible", ctypes.POINTER(ctypes.c_uint8)),
        ("weights", ctypes.POINTER(ctypes.c_uint32)),
        ("in_flight", ctypes.POINTER(ctypes.c_int64)),
    )


class Pick(typing.NamedTuple):
    """What a function for `numba_picker` gets: the fields of the C struct, the sequences as arrays with an entry for each backend."""

    eligible: Sequence[int]
    weights: Sequence[int]
    in_flight: Sequence[int]
    key: int
    random: int
    now_ms: int
    attempt: int


def numba_picker(function: Callable[[Pick], int]) -> Any:
    """Compiles a picker with numba, when the module that holds it is imported.

    Args:
        function: takes a `Pick` and returns the index of a backend that is eligible. It may use what numba.njit can compile.

    Returns:
        An object with the `address` of the machine code.

    Raises:
        ImportError: numba is not installed. numba.TypingError and others of numba: the function cannot be compiled.

    >>> @numba_picker
    ... def first(pick):
    ...     for index in range(len(pick.eligible)):
    ...         if pick.eligible[index]:
    ...             return index
    ...     return -1
    """
    numba: Any = importlib.import_module("numba")
    voidptr: Any = importlib.import_module("numba.core.cgutils").voidptr_t
    intrinsic: Any = importlib.import_module("numba.extending").intrinsic
    types = numba.types
    fields: list[tuple[str, Any]] = [(name, types.uint32) for name in ("version", "n_backends", "n_eligible", "attempt")]
    fields += [(name, types.uint64) for name in ("key", "random", "now_ms", "eligible", "weights", "in_flight")]
    context_type = types.Record.make_c_struct(fields)  # numba's structs know no pointers: they are numbers here

    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], voidptr)

        return types.voidptr(types.uint64), generate

    compiled = numba.njit(function)
    carray, uint8, uint32, int64 = numba.carray, numba.uint8, numba.uint32, numba.int64

    @numba.cfunc(types.int32(types.CPointer(context_type)))  # type: ignore[untyped-decorator]
    def picker(context: Any) -> Any:
        given = carray(context, 1)[0]
        n = given.n_backends
        return compiled(
            Pick(
                carray(pointer(given.eligible), n, uint8),
                carray(pointer(given.weights), n, uint32),
                carray(pointer(given.in_flight), n, int64),
                given.key,
                given.random,
                given.now_ms,
                given.attempt,
            )
        )

    return picker


def load_picker(name: str) -> int:
    """The address of the picker that "module:name" leads to; kept for the life of this process. PickerError: there is none."""
    if name not in _loaded:
        _loaded[name] = _import(name)
    return address_of(_loaded[name], name)


def _import(name: str) -> Any:
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise PickerError(f"the picker {name} cannot be imported: {type(error).__name__}: {error}") from error
    for attribute in path.split("."):
        shared = getattr(found, "__pyx_capi__", {})
        if not hasattr(found, attribute) and attribute in shared:
            return shared[attribute]
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise PickerError(f"the picker {name} does not exist: {error}") from error
    return found


def address_of(picker: Any, name: str) -> int:
    """The address of the C function that this object stands for; `name` is for messages. PickerError: it stands for none."""
    address = _find_address(picker, name)
    if not address:
        raise PickerError(f"the picker {name} is a null pointer")
    return address


def _find_address(found: Any, name: str) -> int:
    if isinstance(found, CFuncPtr):
        if any(type(kept).__name__ == "CThunkObject" for kept in (found._objects or {}).values()):
            raise PickerError(f"the picker {name} is a Python function: requests are picked for without Python; compile it (fastlb.picker)")
        return ctypes.cast(found, ctypes.c_void_p).value or 0
    if type(found).__name__ == "PyCapsule":
        return _address_in_capsule(found)
    address = getattr(found, "address", None)
    if isinstance(address, int) and not isinstance(address, bool) and 0 <= address < 1 << 64:
        return address
    raise PickerError(f"the picker {name} is no C function but {type(found).__name__}: fastlb.picker says what it can be")


def _address_in_capsule(capsule: Any) -> int:
    python = ctypes.PyDLL(None)
    python.PyCapsule_GetName.restype = ctypes.c_char_p
    python.PyCapsule_GetName.argtypes = (ctypes.py_object,)
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    return python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule)) or 0
