"""No line of the request path touches Python; and the check that says so can fail."""

import pathlib

import pytest

from tests.purity.annotate import ROOT, Finding, check_package, find_functions

PLANE = ROOT / "fastlb" / "data_plane"

PURE = """
cdef inline int add(int a, int b) noexcept nogil:
    return a + b
"""

IMPURE = {
    "raise": "cdef int bad(int a) noexcept nogil:\n    if a:\n        raise ValueError\n    return a\n",
    "with_gil": "cdef int bad(int a) noexcept nogil:\n    with gil:\n        print(a)\n    return a\n",
    "assert": "cdef int bad(int a) noexcept nogil:\n    assert a\n    return a\n",
    "memoryview": "cdef int bad(int[:] view) noexcept nogil:\n    cdef int[:] part = view[1:]\n    return part[0]\n",
    "checked_call": "cdef int callee(int a) except? -1 nogil:\n    return a\ncdef int bad(int a) noexcept nogil:\n    return callee(a)\n",
    "unmarked": "cdef bad(int a):\n    return a\n",
}


def check_snippet(tmp_path: pathlib.Path, files: dict[str, str]) -> list[Finding]:
    package = tmp_path / "plane"
    package.mkdir()
    for name in ("__init__.pxd", "__init__.py"):
        (package / name).touch()
    for name, text in files.items():
        (package / name).write_text(text)
    return check_package(package, tmp_path, tmp_path / "out")[0]


@pytest.mark.timeout(300)
def test_no_request_path_line_touches_python(tmp_path: pathlib.Path) -> None:
    findings, n_functions = check_package(PLANE, ROOT, tmp_path, door=ROOT / "fastlb" / "_core.pyx")
    assert not findings, "\n".join(str(finding) for finding in findings)
    assert n_functions > 50, "the check has lost sight of the data plane"


def test_c_source_in_the_data_plane_names_no_python_function() -> None:
    # What stands in `cdef extern from *` blocks has no annotated page.
    for path in sorted([*PLANE.rglob("*.pxd"), *PLANE.rglob("*.pyx")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in ("Python.h", "PyObject", "PyGILState_", "PyErr_", "PyMem_", "Py_INCREF", "cpython"):
                assert name not in line.split("#")[0], f"{path}:{number}: {name}"


def test_pure_code_passes(tmp_path: pathlib.Path) -> None:
    use = "from plane.pure cimport add\ncdef int use(int a) noexcept nogil:\n    return add(a, a)\n"
    assert check_snippet(tmp_path, {"pure.pxd": PURE, "use.pyx": use}) == []


@pytest.mark.parametrize("name", IMPURE)
def test_impure_line_is_found_in_a_pyx(tmp_path: pathlib.Path, name: str) -> None:
    assert check_snippet(tmp_path, {"impure.pyx": IMPURE[name]})


@pytest.mark.parametrize("name", ["raise", "with_gil", "memoryview", "unmarked"])
def test_impure_line_is_found_in_a_pxd_that_nothing_uses(tmp_path: pathlib.Path, name: str) -> None:
    inline = IMPURE[name].replace("cdef ", "cdef inline ", 1)
    findings = check_snippet(tmp_path, {"impure.pxd": PURE + inline})
    assert {finding.path for finding in findings} == {"plane/impure.pxd"}


def test_function_with_a_reason_for_the_gil_is_exempt(tmp_path: pathlib.Path) -> None:
    marked = "cdef int build(list names) except -1:  # with the GIL: runs once per snapshot\n    return len(names)\n"
    assert check_snippet(tmp_path, {"marked.pyx": marked}) == []


def test_performance_hint_is_found(tmp_path: pathlib.Path) -> None:
    # A function pointer type without `noexcept` makes every call ask for the GIL.
    hint = "cdef void checked(int a) nogil:\n    pass\ncdef void caller(int a) noexcept nogil:\n    checked(a)\n"
    assert "performance hint" in {finding.why for finding in check_snippet(tmp_path, {"hint.pyx": hint})}


def test_signatures_over_several_lines_and_declarations_are_told_apart() -> None:
    source = (
        "cdef int declared(int a) noexcept nogil\n"
        "cdef int value = first(1)\n"
        "cdef int longer(int a,  # one\n"
        "                int b) noexcept nogil:\n"
        "    return a\n"
        "\n"
        "    # a comment inside\n"
        "    return b\n"
        "cdef class Owner(Base):\n"
        "    def method(self):\n"
        "        pass\n"
    )
    found = [(function.first_line, function.body_line, function.last_line, function.kind) for function in find_functions(source)]
    assert found == [(3, 5, 8, "cdef"), (10, 11, 11, "def")]
