"""Coverage-guided fuzzing of the parsers: `./dev fuzz [SECONDS [TARGET [INPUT FILE...]]]`.

Runs in a tree of its own (build/fuzz), where the modules are built by clang with coverage and sanitizers. A target is a module
tests/fuzz/fuzz_<target>.pyx with a function `int fuzz_one(data, size)` and its `address`. libFuzzer is loaded into a Python
process as a shared library and calls that address; no Python runs per input. The seeds in tests/fuzz/corpus/<target>/ are read
only; what the fuzzer finds worth keeping goes to build/fuzz-corpus/<target>/ and is used again by the next run.
"""

import concurrent.futures
import ctypes
import importlib
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
HERE = TREE / "tests" / "fuzz"
BUILD = TREE.parent  # corpus, findings and logs outlive this tree, which every run copies anew
TELLING = re.compile(r"ERROR|SUMMARY|ALARM|runtime error|broken promise|/fastlb/|/tests/fuzz/|Error|^INFO: Loaded")
SANITIZERS = "address,undefined"
FLAGS = (
    f"-O1 -g1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,{SANITIZERS} -fno-sanitize=function -fno-sanitize-recover=all "
    "-Wno-incompatible-pointer-types-discards-qualifiers"  # Cython drops `const` in temporaries; gcc has no such warning
)


def find_runtime(name: str) -> pathlib.Path:
    """A library of clang's own, whose folder differs between versions and distributions."""
    base = pathlib.Path(subprocess.check_output(["clang", "-print-resource-dir"], text=True).strip())
    stem, suffix = name.split(".")
    for file in (f"libclang_rt.{stem}-{platform.machine()}.{suffix}", f"libclang_rt.{stem}.{suffix}"):
        for path in base.rglob(file):
            return path
    sys.exit(f"fuzz: clang's {name} is missing below {base} (Debian: libclang-rt-*-dev)")


def build(library: pathlib.Path) -> None:
    environment = {**os.environ, "FASTLB_FUZZ": "1", "CC": "clang", "LDSHARED": "clang -shared", "CFLAGS": FLAGS}
    environment["LDFLAGS"] = f"-fsanitize={SANITIZERS} -shared-libasan"
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=TREE, env=environment, check=True)
    archive = find_runtime("fuzzer_no_main.a")
    whole = f"-Wl,--whole-archive,{archive},--no-whole-archive"
    subprocess.run(["clang", "-shared", "-o", str(library), whole, "-lstdc++", "-lpthread", "-lm"], check=True)


def run_target(target: str, seconds: int, library: pathlib.Path, inputs: list[str]) -> bool:
    corpus, log = BUILD / "fuzz-corpus" / target, BUILD / "fuzz-logs" / f"{target}.txt"
    findings = BUILD / "fuzz-findings"
    for folder in (corpus, log.parent, findings):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [f"-artifact_prefix={findings}/{target}-", "-timeout=5", "-rss_limit_mb=4096", "-print_final_stats=1"]
    dictionary = HERE / "corpus" / f"{target}.dict"
    if dictionary.exists():
        arguments.append(f"-dict={dictionary}")
    if inputs:
        arguments += inputs
    else:
        arguments += [f"-max_total_time={seconds}", "-max_len=8192", str(corpus)]
        arguments += [str(seeds) for seeds in [HERE / "corpus" / target] if seeds.is_dir()]
    environment = {
        **os.environ,
        # libFuzzer first: the address sanitizer has functions of the same names that only count coverage.
        "LD_PRELOAD": f"{library} {find_runtime('asan.so')}",
        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0:abort_on_error=0:handle_abort=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", target, *arguments]
    with log.open("w") as output:
        status = subprocess.run(command, cwd=TREE, env=environment, stdout=output, stderr=output, check=False).returncode
    text = log.read_text(errors="replace")
    counters = sum(int(n) for n in re.findall(r"\((\d+) inline 8-bit counters\)", text))
    coverage = re.findall(r"cov: (\d+)", text)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    failed = status != 0 or counters == 0 or not (inputs or (runs and coverage))
    done = f"{int(runs[1]) if runs else 0:,} inputs, {coverage[-1] if coverage else 0} of {counters} edges"
    print(f"fuzz: {target}: {'FAILED' if failed else 'ok'}, {done}", flush=True)
    if failed:
        print("\n".join([line[:200] for line in text.splitlines() if TELLING.search(line)][:40]))
        found = re.search(r"Test unit written to (\S+)", text)
        print(f"fuzz: the whole log is {log}" + (f"; once more: ./dev fuzz 0 {target} {found[1]}" if found else ""))
    return not failed


def enter(target: str, arguments: list[str]) -> int:
    """In the process with the libraries loaded: hands over to libFuzzer, which does not come back after a finding."""
    module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    for number, seed in enumerate(getattr(module, "make_seeds", tuple)()):
        (BUILD / "fuzz-corpus" / target / f"seed-{number}").write_bytes(seed)
    words = [b"fuzz", *(argument.encode() for argument in arguments)]
    count = ctypes.c_int(len(words))
    values = ctypes.pointer((ctypes.c_char_p * (len(words) + 1))(*words, None))
    return int(ctypes.CDLL(None).LLVMFuzzerRunDriver(ctypes.byref(count), ctypes.byref(values), ctypes.c_void_p(module.address)))


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--target"]:
        return enter(arguments[1], arguments[2:])
    targets = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.pyx"))
    seconds = int(arguments[0]) if arguments else 60
    if len(arguments) > 1:
        if arguments[1] not in targets:
            sys.exit(f"fuzz: no target {arguments[1]!r}; there are: {', '.join(targets)}")
        targets = [arguments[1]]
    inputs = [str(pathlib.Path(name).resolve()) for name in arguments[2:]]
    library = TREE / "build" / "libfuzzer.so"
    build(library)
    workers = min(os.cpu_count() or 1, len(targets))
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        good = list(pool.map(lambda target: run_target(target, max(1, seconds * workers // len(targets)), library, inputs), targets))
    print(f"fuzz: {len(targets)} targets, {time.monotonic() - started:.0f} seconds")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
