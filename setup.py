"""Builds every Cython file of fastlb into one extension module each.

Names, versions and dependencies live in pyproject.toml; here is only what has to be code. Switches, all environment variables:

    FASTLB_DEBUG=1      bounds, wraparound, initialisation and None checks on; -Og; assert statements kept
    FASTLB_PROBE=1      also builds tests/support/_probe.pyx, which shows internals of the data plane to the tests
    FASTLB_FAULT_HOOK=1 a process can be told to end itself between any two stores of a claim, a release or a settlement (shared_table.pxd)
    FASTLB_ARCHIVES=1   links libraries of others into their module instead of loading them: for wheels (wheels/README.md)
    FASTLB_FUZZ=1       also builds tests/fuzz/fuzz_*.pyx and the libFuzzer driver (needs clang, see tests/fuzz/run.py)
    CFLAGS, LDFLAGS     appended after our own flags, so they win

Annotated pages (which line touches Python?) are made by `./dev annotate`, with the directives of this file.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import shlex
import subprocess
import sys
import sysconfig
import tomllib

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).resolve().parent
JOBS = os.cpu_count() or 1


def is_on(switch: str) -> bool:
    return os.environ.get(switch, "") not in ("", "0")


DEBUG, PROBE, FUZZ, FAULT_HOOK, ARCHIVES = (is_on(f"FASTLB_{name}") for name in ("DEBUG", "PROBE", "FUZZ", "FAULT_HOOK", "ARCHIVES"))

if not sys.platform.startswith("linux"):
    sys.exit("fastlb runs on Linux only: it is built on epoll, splice and memfd, which this system does not have")

# Set here and not in comments of the .pyx files: a comment does not reach the bodies in the .pxd files that they cimport.
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,  # in debug builds too: it is not only a check, it changes what -7 // 2 is
}

C_FLAGS = [
    "-Og" if DEBUG else "-O3",
    "-g1",  # line numbers for perf and backtraces at a tenth of the size of -g
    "-fno-semantic-interposition",
    "-fno-plt",
    "-fvisibility=hidden",  # a module exports its init function and nothing else
    "-Wall",
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Wno-unused-function",  # each module gets a copy of all inline functions of the .pxd files it cimports
    "-Wno-unused-variable",
    "-Wno-unused-but-set-variable",
    "-Wno-sign-compare",
]
# One build for every CPython from 3.11 on: only what Python promises to keep (its limited API). The builds without a GIL have no such
# promise before 3.15, so there the modules are for that one Python.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
MACROS = [("Py_LIMITED_API", "0x030b0000")] if LIMITED else []
MACROS += [("FASTLB_ARCHIVES", "1")] if ARCHIVES else []
MACROS += [] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
# Beside the probe these have the hook in a developer's build: no request passes them.
HOOKED = ["tests.support._probe", "fastlb.data_plane.settlement", "fastlb.data_plane.shared_table"]

# Libraries of others, each in one module: names, C code that can be compiled where their headers are, the package in Debian and Fedora.
LIBRARIES = {
    "fastlb.data_plane.http2": (("nghttp2",), "#include <nghttp2/nghttp2.h>\n", "libnghttp2-dev", "libnghttp2-devel"),
    "fastlb.data_plane.regex": (("pcre2-8",), "#define PCRE2_CODE_UNIT_WIDTH 8\n#include <pcre2.h>\n", "libpcre2-dev", "pcre2-devel"),
    "fastlb.data_plane.tls": (
        ("ssl", "crypto"),
        "#include <openssl/ssl.h>\n#if OPENSSL_VERSION_NUMBER < 0x30000000L\n#error OpenSSL 3.0 or newer\n#endif\n",
        "libssl-dev",
        "openssl-devel",
    ),
}
# What the archives of OpenSSL call of glibc under names younger than a wheel may need: wheels/old_names.h has the older ones.
OLD_NAMES = (
    *("stat", "fstat", "dlopen", "dlsym", "dladdr", "dlclose", "dlerror", "pthread_once"),
    *(f"pthread_{name}" for name in ("key_create", "key_delete", "getspecific", "setspecific")),
    *(f"pthread_rwlock_{name}" for name in ("init", "destroy", "rdlock", "wrlock", "unlock")),
)


def link_option(library: str) -> str:
    return f"-l:lib{library}.a" if ARCHIVES else f"-l{library}"


def find_pyx() -> list[pathlib.Path]:
    files = sorted((ROOT / "fastlb").rglob("*.pyx"))
    if PROBE:
        files += sorted((ROOT / "tests" / "support").glob("_probe.pyx"))
    if FUZZ:
        files += sorted((ROOT / "tests" / "fuzz").glob("fuzz_*.pyx"))
    return [path.relative_to(ROOT) for path in files]


def make_extension(path: pathlib.Path) -> Extension:
    name = ".".join(path.with_suffix("").parts)
    hook = [("FASTLB_FAULT_HOOK", "1")] if FAULT_HOOK or (PROBE and name in HOOKED) else []
    libraries = [link_option(library) for library in LIBRARIES[name][0]] if name in LIBRARIES else []
    if ARCHIVES and name == "fastlb.data_plane.tls":
        includes = ["-include", str(ROOT / "wheels" / "old_names.h")]
        libraries += [f"-Wl,--wrap={wrapped}" for wrapped in OLD_NAMES]
    else:
        includes = []
    return Extension(
        name=name,
        sources=[str(path)],
        include_dirs=["."],  # fastlb/picker.h
        define_macros=[*MACROS, *hook],
        py_limited_api=LIMITED,
        extra_compile_args=[*includes, *C_FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))],
        extra_link_args=[*shlex.split(os.environ.get("LDFLAGS", "")), *libraries],
    )


def write_build_id() -> None:
    """fastlb/_build.py: processes of different builds must not share memory, so a build is named after its sources."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    digest = hashlib.sha256(version.encode())
    for path in sorted([*(ROOT / "fastlb").rglob("*.pyx"), *(ROOT / "fastlb").rglob("*.pxd")]):
        digest.update(b"\0" + str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    text = '"""Written by setup.py at every build; not in git."""\n\n'
    text += f'VERSION = "{version}"\nBUILD_ID = "{version}+{digest.hexdigest()[:12]}"\n'
    target = ROOT / "fastlb" / "_build.py"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def check_libraries() -> None:
    """Ends the build, naming the package, where a library or its header is missing: a compiler's message for that is long and late."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = shlex.split(os.environ.get("CFLAGS", "")) + shlex.split(os.environ.get("LDFLAGS", ""))
    for libraries, source, debian, fedora in LIBRARIES.values():
        options = [link_option(library) for library in libraries]
        command = [*compiler, *flags, "-shared", "-fPIC", "-x", "c", "-", "-o", os.devnull, *options]
        if subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode != 0:
            packages = f"{debian} (Debian, Ubuntu) or {fedora} (Fedora, RHEL)"
            sys.exit(f"fastlb: {' '.join(options)} or its header is missing here, or too old; install {packages}")


class BuildPy(build_py):
    def run(self) -> None:
        write_build_id()
        super().run()


class BuildExt(build_ext):
    """Cythonizes late (so that `pip` reading metadata costs nothing), in parallel, and again when the flags have changed."""

    def finalize_options(self) -> None:
        import Cython
        from Cython.Build import cythonize

        check_libraries()
        write_build_id()
        # Variables are not files, so no time stamp tells that the flags differ from those of the last build.
        names = ("CC", "LDSHARED", "CFLAGS", "LDFLAGS", "FASTLB_DEBUG", "FASTLB_FAULT_HOOK", "FASTLB_ARCHIVES")
        environment = {name: os.environ.get(name) for name in names}
        self.flags = f"{hashlib.sha256((ROOT / 'setup.py').read_bytes()).hexdigest()} {environment} {PROBE}"
        self.stamp = ROOT / "build" / "flags"
        if not self.stamp.exists() or self.stamp.read_text() != self.flags:
            self.force = True
            self.stamp.unlink(missing_ok=True)  # a build that fails half-way leaves objects of both kinds
        # The C code is the same for all of them. A stamp beside it, so that it may be copied to a tree that is built in another way.
        cython_flags = f"{hashlib.sha256((ROOT / 'setup.py').read_bytes()).hexdigest()} {Cython.__version__} {DEBUG}"
        cython_stamp = ROOT / "build" / "cython" / "flags"
        force = not cython_stamp.exists() or cython_stamp.read_text() != cython_flags
        if force:
            cython_stamp.unlink(missing_ok=True)
        extensions = [make_extension(path) for path in find_pyx()]
        with contextlib.redirect_stdout(io.StringIO()):  # two lines a module; errors and warnings go to stderr
            self.distribution.ext_modules = cythonize(
                extensions,
                build_dir="build/cython",
                compiler_directives=DIRECTIVES,
                emit_linenums=True,  # debuggers, profilers and sanitizers name the line of the .pyx file
                force=force,
                nthreads=min(JOBS, len(extensions)),
            )
        cython_stamp.write_text(cython_flags)
        super().finalize_options()
        self.parallel = self.parallel or JOBS

    def run(self) -> None:
        super().run()
        if self.inplace:
            self.remove_shadows()
        self.stamp.parent.mkdir(exist_ok=True)
        self.stamp.write_text(self.flags)

    def remove_shadows(self) -> None:
        """Python would rather load what an earlier build made for one version of it (`x.cpython-311-….so`) than `x.abi3.so`."""
        for extension in self.extensions:
            built = ROOT / self.get_ext_filename(extension.name)
            for path in built.parent.glob(f"{built.name.split('.')[0]}.*.so"):
                if path != built:
                    path.unlink()


if __name__ == "__main__":  # the processes that cythonize starts import this file; the annotated pages use its directives
    os.chdir(ROOT)
    setup(
        cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
        ext_modules=[make_extension(path) for path in find_pyx()],
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
    )
