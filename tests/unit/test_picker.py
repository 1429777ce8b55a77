"""fastlb/picker.py: what a name may lead to, and how what leads nowhere is told. The C struct is the header's."""

import ctypes
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastlb
from fastlb import picker
from fastlb.picker import VERSION, PickContext, PickerError, address_of, load_picker
from tests.support import _probe

HEADER = Path(fastlb.__path__[0]) / "picker.h"
FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(PickContext))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module that can be imported; what is loaded from it is forgotten."""
    made = types.ModuleType("pickers_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(picker, "_loaded", {})
    yield made


def load(module: types.ModuleType, found: Any) -> int:
    module.found = found  # type: ignore[attr-defined]
    return load_picker("pickers_of_a_test:found")


def test_the_struct_of_ctypes_is_that_of_the_header() -> None:
    ours = {name: getattr(PickContext, name).offset for name, _ in PickContext._fields_}
    assert ours | {"size": ctypes.sizeof(PickContext)} == _probe.PICKER_LAYOUT
    assert VERSION == _probe.PICKER_VERSION


def test_a_header_can_be_used_from_c_and_cxx(tmp_path: Path) -> None:
    for name, compiler in (("a.c", ["gcc", "-std=c99"]), ("a.cc", ["g++", "-std=c++11"])):
        source = tmp_path / name
        source.write_text('#include "picker.h"\nint32_t pick(const fastlb_pick_context *c) { return c->eligible[0] ? 0 : -1; }\n')
        subprocess.run([*compiler, "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{HEADER.parent}", "-fsyntax-only", source], check=True)


def test_an_object_with_an_address_is_one(module: types.ModuleType) -> None:
    assert load(module, types.SimpleNamespace(address=4096)) == 4096


def test_a_c_function_of_ctypes_is_one(module: types.ModuleType) -> None:
    address = _probe.PICKERS["last"]
    assert load(module, FUNCTION(address)) == address
    function = ctypes.CDLL(None).abs
    assert address_of(function, "abs") == ctypes.cast(function, ctypes.c_void_p).value


def test_a_capsule_is_one(module: types.ModuleType) -> None:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    assert load(module, new(4096, b"anything", None)) == 4096
    assert address_of(new(4096, None, None), "unnamed") == 4096


def test_a_function_that_a_cython_module_shares_is_one(module: types.ModuleType) -> None:
    module.__pyx_capi__ = _probe.__pyx_capi__  # type: ignore[attr-defined]
    assert load_picker("pickers_of_a_test:pick_last") == _probe.PICKERS["last"]


def test_an_attribute_of_an_attribute_is_found(module: types.ModuleType) -> None:
    module.inner = types.SimpleNamespace(found=types.SimpleNamespace(address=1))  # type: ignore[attr-defined]
    assert load_picker("pickers_of_a_test:inner.found") == 1


def test_numba_compiles_one(module: types.ModuleType) -> None:
    pytest.importorskip("numba")

    def fewest(pick: picker.Pick) -> int:
        best = -1
        for index in range(len(pick.eligible)):
            if pick.eligible[index] and (
                best < 0 or pick.in_flight[index] * pick.weights[best] < pick.in_flight[best] * pick.weights[index]
            ):
                best = index
        return best

    function = FUNCTION(load(module, picker.numba_picker(fewest)))
    eligible, weights, in_flight = (ctypes.c_uint8 * 4)(0, 1, 1, 1), (ctypes.c_uint32 * 4)(1, 1, 3, 1), (ctypes.c_int64 * 4)(0, 2, 3, 2)
    context = PickContext(VERSION, 4, 3, 0, 1, 2, 3, eligible, weights, in_flight)
    assert function(ctypes.byref(context)) == 2


def test_a_picker_is_imported_once_and_kept(module: types.ModuleType) -> None:
    first = types.SimpleNamespace(address=1)
    assert load(module, first) == 1
    assert load(module, types.SimpleNamespace(address=2)) == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: 0, "is no C function but function"),
        (7, "is no C function but int"),
        (types.SimpleNamespace(address="x"), "is no C function"),
        (types.SimpleNamespace(address=-1), "is no C function"),
        (types.SimpleNamespace(address=True), "is no C function"),
        (types.SimpleNamespace(address=0), "is a null pointer"),
        (FUNCTION(), "is a null pointer"),
        (FUNCTION(lambda context: 0), "is a Python function"),
    ],
)
def test_what_is_no_c_function_is_refused(module: types.ModuleType, found: Any, words: str) -> None:
    with pytest.raises(PickerError, match=f"^the picker pickers_of_a_test:found {words}"):
        load(module, found)


def test_a_module_that_is_not_there_or_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_at_import.py").write_text("1 / 0")
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(3)")
    for name, words in (
        ("not_there_at_all:f", "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("fails_at_import:f", "cannot be imported: ZeroDivisionError: division by zero"),
        ("leaves_at_import:f", "cannot be imported: SystemExit: 3"),
        ("json:f", "does not exist: module 'json' has no attribute 'f'"),
    ):
        with pytest.raises(PickerError, match=f"^the picker {name} {words}$"):
            load_picker(name)
