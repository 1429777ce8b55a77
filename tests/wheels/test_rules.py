"""The rules for wheels, on modules and archives that each break one of them."""

import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.waiting import SANITIZED
from wheels.rules import TAG, find_faults, find_module_faults

pytestmark = pytest.mark.skipif(SANITIZED, reason="compilers are not to be run with sanitizers")

MODULE = "void *PyInit_good(void) { return 0; }\n"
VISIBLE = '__attribute__((visibility("default"))) '
NAME = f"fastlb-1.0-{TAG}.whl"
FILES = {"fastlb/_build.py": b"", "fastlb/py.typed": b"", "fastlb/_core.pyi": b"", "fastlb-1.0.dist-info/METADATA": b""}


def compile_module(folder: Path, source: str, *options: str) -> bytes:
    (folder / "good.c").write_text(source)
    target = folder / "good.abi3.so"
    command = ["gcc", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(target), str(folder / "good.c"), *options]
    subprocess.run(command, check=True)
    return target.read_bytes()


def module_faults(folder: Path, source: str, *options: str) -> list[str]:
    return list(find_module_faults("fastlb/good.abi3.so", compile_module(folder, VISIBLE + source, *options)))


def wheel_faults(files: dict[str, bytes], name: str = NAME, modules: tuple[str, ...] = ()) -> list[str]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return list(find_faults(name, packed.getvalue(), modules))


def test_module_that_shows_its_entry_and_needs_the_c_library_is_fine(tmp_path: Path) -> None:
    assert module_faults(tmp_path, MODULE + "char *getenv(const char *); char *f(void) { return getenv(0); }") == []


def test_function_seen_from_outside_is_refused(tmp_path: Path) -> None:
    (fault,) = module_faults(tmp_path, MODULE + VISIBLE + "int SSL_new(void) { return 1; }")
    assert fault.startswith("exports SSL_new; only PyInit_good may be seen")


def test_entry_of_another_module_is_refused(tmp_path: Path) -> None:
    (fault,) = module_faults(tmp_path, MODULE.replace("good", "other"))
    assert fault.startswith("exports PyInit_other; only PyInit_good")


@pytest.mark.parametrize(("options", "seen"), [((), True), (("-Wl,--exclude-libs,ALL",), False)])
def test_what_an_archive_brings_is_refused_unless_the_linker_hides_it(tmp_path: Path, options: tuple[str, ...], seen: bool) -> None:
    (tmp_path / "library.c").write_text("int SSL_new(void) { return 1; }")
    subprocess.run(["gcc", "-fPIC", "-c", "library.c"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rc", "liblibrary.a", "library.o"], cwd=tmp_path, check=True)
    source = MODULE + "int SSL_new(void); int use(void) { return SSL_new(); }"
    faults = module_faults(tmp_path, source, f"{tmp_path}/liblibrary.a", *options)
    assert [fault.split(";")[0] for fault in faults] == (["exports SSL_new"] if seen else [])


def test_library_that_not_every_system_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library.c").write_text("int SSL_new(void) { return 1; }")
    subprocess.run(["gcc", "-fPIC", "-shared", "-o", "libnew.so", "-Wl,-soname,libnew.so.3", "library.c"], cwd=tmp_path, check=True)
    source = MODULE + "int SSL_new(void); int use(void) { return SSL_new(); }"
    faults = module_faults(tmp_path, source, f"{tmp_path}/libnew.so")
    assert faults == [
        "needs libnew.so.3; link it in as an archive, or allow it if every system has it",
        "needs SSL_new, which no library that it names has",
    ]


def test_symbol_that_no_library_has_is_refused(tmp_path: Path) -> None:
    faults = module_faults(tmp_path, MODULE + "int SSL_new(void); int use(void) { return SSL_new(); }")
    assert faults == ["needs SSL_new, which no library that it names has"]


@pytest.mark.parametrize("tag", ["--enable-new-dtags", "--disable-new-dtags"])
def test_folder_of_the_building_machine_is_refused(tmp_path: Path, tag: str) -> None:
    faults = module_faults(tmp_path, MODULE, "-Wl,-rpath,/home/me/lib", f"-Wl,{tag}")
    assert faults == ["looks for libraries in /home/me/lib, a folder of the building machine"]


def test_newer_c_library_than_promised_is_refused(tmp_path: Path) -> None:
    # Another library stands in for a newer C library than that of this machine.
    (tmp_path / "library.c").write_text("int brand_new(void) { return 1; }")
    (tmp_path / "versions").write_text("GLIBC_2.17 { };\nGLIBC_2.99 { brand_new; };\n")
    options = ["-Wl,-soname,libc.so.6", "-Wl,--version-script=versions"]
    subprocess.run(["gcc", "-fPIC", "-shared", "-nostdlib", "-o", "libnew.so", *options, "library.c"], cwd=tmp_path, check=True)
    source = MODULE + "int brand_new(void); int use(void) { return brand_new(); }"
    faults = module_faults(tmp_path, source, "-nostdlib", f"{tmp_path}/libnew.so")
    assert faults == ["needs brand_new of GLIBC_2.99, newer than 2.28 (wheels/glibc_floor.h may help)"]


def test_functions_that_moved_into_libc_are_asked_for_by_their_older_names(tmp_path: Path) -> None:
    source = (
        MODULE
        + "#include <pthread.h>\nint use(pthread_t t, void *(*f)(void *)) { return pthread_create(&t, 0, f, 0) + pthread_join(t, 0); }"
    )
    header = Path(__file__).parents[2] / "wheels" / "glibc_floor.h"
    assert module_faults(tmp_path, source, "-include", str(header)) == []


def test_whole_wheel_is_fine(tmp_path: Path) -> None:
    module = compile_module(tmp_path, VISIBLE + MODULE)
    assert wheel_faults({**FILES, "fastlb/good.abi3.so": module}, modules=("fastlb/good",)) == []


def test_fault_of_a_module_names_its_file(tmp_path: Path) -> None:
    module = compile_module(tmp_path, VISIBLE + MODULE, "-Wl,-rpath,/home/me/lib")
    (fault,) = wheel_faults({**FILES, "fastlb/a/good.abi3.so": module})
    assert fault.startswith("fastlb/a/good.abi3.so: looks for libraries in /home/me/lib")


@pytest.mark.parametrize(
    "path",
    [
        *("fastlb/_core.pyx", "fastlb/data_plane/types.pxd", "fastlb/_core.c", "fastlb/_core.cpython-311-x86_64-linux-gnu.so"),
        *("tests/__init__.py", "fastlb.libs/libssl.so.3"),
    ],
)
def test_file_that_nobody_needs_is_refused(tmp_path: Path, path: str) -> None:
    faults = wheel_faults({**FILES, path: compile_module(tmp_path, MODULE)})
    assert f"{path}: only Python files, type stubs, modules and picker.h belong into a wheel" in faults


def test_missing_module_is_refused() -> None:
    assert wheel_faults(FILES, modules=("fastlb/_core",)) == ["fastlb/_core.abi3.so: missing"]


@pytest.mark.parametrize("tag", ["cp311-cp311-linux_x86_64", "cp312-abi3-manylinux_2_28_x86_64", "cp311-abi3-manylinux_2_34_x86_64"])
def test_name_that_promises_less_is_refused(tag: str) -> None:
    (fault,) = wheel_faults(FILES, name=f"fastlb-1.0-{tag}.whl")
    assert fault.startswith(f"fastlb-1.0-{tag}.whl: the name does not end in cp311-abi3-manylinux_2_28_")
