"""What a wheel of fastlb may be: its name, its files, and what its modules show to and ask of the process that loads them.

Reads a finished wheel and changes nothing. Every rule that is broken is one line that says where and what.
"""

import io
import platform
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

# The oldest CPython, whose limited API setup.py names too.
PYTHON = "cp311"
# The oldest C library: that of RHEL 8 and Debian 10. Nothing that fastlb calls is younger (splice, accept4 and getrandom are older; the
# youngest name is fcntl64), and the C library is all that it takes from the system.
GLIBC = (2, 28)
PLATFORM = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{platform.machine()}"
TAG = f"{PYTHON}-abi3-{PLATFORM}"

# Every system with this C library has these, and a process with Python in it has loaded them.
SYSTEM_LIBRARIES = {
    *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
}
PACKAGE_FILES = re.compile(r"fastlb/(?:[a-z0-9_]+/)*(?:[a-z0-9_]+\.(?:py|pyi|abi3\.so)|py\.typed|picker\.h)")
METADATA_FILES = re.compile(r"fastlb-[^/]+\.dist-info/(?:METADATA|WHEEL|RECORD|entry_points\.txt|top_level\.txt|licenses/LICENSE)")


def find_faults(wheel: str, content: bytes, modules: Iterable[str]) -> Iterator[str]:
    """Every rule that a wheel breaks.

    Args:
        wheel: its file name.
        content: the file.
        modules: all extension modules that it must have, as "fastlb/_core".
    """
    if not wheel.endswith(f"-{TAG}.whl"):
        yield f"{wheel}: the name does not end in {TAG}.whl, so it is for fewer (or other) systems than meant"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for name in names:
            if not PACKAGE_FILES.fullmatch(name) and not METADATA_FILES.fullmatch(name):
                yield f"{name}: only Python files, type stubs, modules and picker.h belong into a wheel"
        missing = {f"{module}.abi3.so" for module in modules} | {"fastlb/_build.py", "fastlb/py.typed", "fastlb/_core.pyi"}
        for name in sorted(missing - set(names)):
            yield f"{name}: missing"
        for name in names:
            if ".so" in PurePosixPath(name).suffixes:
                for fault in find_module_faults(name, archive.read(name)):
                    yield f"{name}: {fault}"


def find_module_faults(path: str, content: bytes) -> Iterator[str]:
    """Every rule that an extension module (or another shared library) breaks."""
    elf = ELFFile(io.BytesIO(content))
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection), f"{path} has no dynamic symbols"
    # A second copy of a library in one process, as of OpenSSL beside Python's own, must not be found under the names of the first, or
    # calls meant for one land in the other.
    entry = f"PyInit_{PurePosixPath(path).name.split('.')[0]}"
    for symbol in symbols.iter_symbols():
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name != entry:
            yield f"exports {symbol.name}; only {entry} may be seen from outside (-fvisibility=hidden, -Wl,--exclude-libs,ALL)"
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection), f"{path} has no dynamic section"
    for tag in dynamic.iter_tags():
        if tag.entry.d_tag == "DT_NEEDED" and tag.needed not in SYSTEM_LIBRARIES:
            yield f"needs {tag.needed}; link it in as an archive, or allow it if every system has it"
        if tag.entry.d_tag == "DT_RPATH":
            yield f"looks for libraries in {tag.rpath}, a folder of the building machine"
        if tag.entry.d_tag == "DT_RUNPATH":
            yield f"looks for libraries in {tag.runpath}, a folder of the building machine"
    versions = read_versions(elf)
    for number, symbol in enumerate(symbols.iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name:
            continue
        version = versions.get(number, "")
        may_be_missing = symbol["st_info"]["bind"] == "STB_WEAK"  # compilers leave some of those in every shared library
        if not version and not may_be_missing and not symbol.name.startswith(("Py", "_Py")):
            yield f"needs {symbol.name}, which no library that it names has"
        if version.startswith("GLIBC_") and tuple(int(part) for part in re.findall(r"\d+", version)) > GLIBC:
            yield f"needs {symbol.name} of {version}, newer than {'.'.join(map(str, GLIBC))} (wheels/glibc_floor.h may help)"


def read_versions(elf: ELFFile) -> dict[int, str]:
    """The version that each undefined dynamic symbol asks for, by its number."""
    numbers, needs = elf.get_section_by_name(".gnu.version"), elf.get_section_by_name(".gnu.version_r")
    if not isinstance(numbers, GNUVerSymSection) or not isinstance(needs, GNUVerNeedSection):
        return {}
    names = {entry["vna_other"]: entry.name for _, entries in needs.iter_versions() for entry in entries}
    return {number: names[entry["ndx"]] for number, entry in enumerate(numbers.iter_symbols()) if entry["ndx"] in names}
