"""Does a request touch Python? Asks Cython's annotated pages, line by line.

`python -m tests.purity.annotate` (`./dev annotate`) writes the pages to build/annotate/ and prints what it found.

Cython makes pages for .pyx files only, but it keeps the C code of every body that it saw, those in .pxd files too. So its
writer is asked for the pages of all of them, with a generated module that cimports every .pxd, used or not.

What belongs to the request path is read from the source: every function whose signature says `nogil`. In the data plane a
`cdef` function without it has to say why on its def line: `# with the GIL: <why>`. Plain `def` functions cannot be called
without the GIL; module-level code runs once, at import. fastlb/_core.pyx, the door, is yellow at its edges by design.
"""

import contextlib
import dataclasses
import importlib.util
import io
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from Cython.Compiler import Annotate, Main

ROOT = pathlib.Path(__file__).resolve().parents[2]

Code = dict[int, str]  # C code per source line
Pages = dict[pathlib.Path, tuple[str, Code]]  # of each file that put code into a module: its page and its code

LINE = re.compile(r'<pre class="cython line score-(\d+)"')
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# Stricter than the score, which does not know Py_INCREF: any name of Python's C API or of Cython's helpers for it.
PYTHON_NAME = re.compile(r"\b(?:_?Py[A-Z_]|__Pyx_|__PYX_)\w*")
HARMLESS_NAMES = {"Py_ssize_t"}  # what Cython calls ssize_t
FUNCTION = re.compile(r"^(\s*)(cdef|cpdef|def)\s+(?!class\b|struct\b|union\b|enum\b|extern\b|packed\b)[^=#]*\(")
MARK = "# with the GIL: "


@dataclasses.dataclass(frozen=True)
class Finding:
    path: str
    line: int
    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}\n    {self.text.strip()}"


@dataclasses.dataclass(frozen=True)
class Function:
    first_line: int  # from 1, as in the pages
    body_line: int
    last_line: int
    kind: str  # def, cdef or cpdef
    signature: str

    @property
    def is_request_path(self) -> bool:
        return "nogil" in self.signature and MARK not in self.signature

    @property
    def needs_mark(self) -> bool:
        return self.kind != "def" and "nogil" not in self.signature and MARK not in self.signature


def load_directives() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("fastlb_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.DIRECTIVES)


def find_functions(source: str) -> Iterator[Function]:
    lines = source.splitlines()
    for first, line in enumerate(lines):
        match = FUNCTION.match(line)
        if not match:
            continue
        # A signature ends where its brackets are closed; without a colon there it is a declaration or a variable.
        code, last = "", first
        while last < len(lines):
            code += lines[last].split("#")[0].rstrip() + " "
            if code.count("(") <= code.count(")"):
                break
            last += 1
        if not code.rstrip().endswith(":"):
            continue
        indent, end = len(match.group(1)), last
        for number in range(last + 1, len(lines)):
            stripped = lines[number].strip()
            if stripped and not stripped.startswith("#"):
                if len(lines[number]) - len(lines[number].lstrip()) <= indent:
                    break
                end = number
        yield Function(first + 1, last + 2, end + 1, match.group(2), "\n".join(lines[first : last + 1]))


def compile_annotated(source: pathlib.Path, root: pathlib.Path, out: pathlib.Path) -> tuple[Pages, str]:
    """Cythonizes one file. Returns the pages and Cython's messages."""
    pages: Pages = {}

    def keep_pages(writer: Any, *_: Any, **__: Any) -> None:
        writer.mark_pos(None)  # flushes the last line's code
        for name, code in writer.code.items():
            if name is None:  # Cython's own helper code
                continue
            path = pathlib.Path(name).resolve()
            if path.is_relative_to(root):
                pages[path] = (writer._save_annotation(path.read_text(), code, None, name), dict(code))

    messages = io.StringIO()
    with (
        mock.patch.object(Annotate.AnnotationCCodeWriter, "save_annotation", keep_pages),
        contextlib.redirect_stderr(messages),
        contextlib.chdir(root),  # Cython names files relative to it
    ):
        result = Main.compile_single(
            str(source.relative_to(root)) if source.is_relative_to(root) else str(source),
            Main.CompilationOptions(
                Main.default_options,
                annotate=True,
                compiler_directives=load_directives(),
                include_path=[str(root)],
                output_file=str(out / (source.stem + ".c")),
            ),
            full_module_name=".".join(source.relative_to(root).with_suffix("").parts) if source.is_relative_to(root) else source.stem,
        )
    if result.num_errors or not pages:
        raise RuntimeError(f"{source} does not compile:\n{messages.getvalue()}")
    return pages, messages.getvalue()


def check_file(path: pathlib.Path, root: pathlib.Path, page: str, code: Code, is_door: bool = False) -> Iterator[Finding]:
    source = path.read_text()
    lines = source.splitlines()
    name = str(path.relative_to(root))
    scores = [int(score) for score in LINE.findall(page)]
    assert len(scores) == len(lines), f"the annotated page of {name} has {len(scores)} lines, its source {len(lines)}"
    for function in find_functions(source):
        if function.needs_mark and not is_door:
            text = lines[function.first_line - 1]
            yield Finding(name, function.first_line, text, f"neither nogil nor marked `{MARK}<why>` on its def line")
        if not function.is_request_path:
            continue
        if not any(code.get(number) for number in range(function.body_line, function.last_line + 1)):
            yield Finding(name, function.first_line, lines[function.first_line - 1], "no C code seen for this body, so nothing is known")
        for number in range(function.first_line, function.last_line + 1):
            names = set(PYTHON_NAME.findall(COMMENT.sub("", code.get(number, "")))) - HARMLESS_NAMES
            if scores[number - 1] or names:
                why = f"touches Python (score {scores[number - 1]}): {', '.join(sorted(names))}"
                yield Finding(name, number, lines[number - 1], why)


def check_package(
    package: pathlib.Path, root: pathlib.Path, out: pathlib.Path, door: pathlib.Path | None = None
) -> tuple[list[Finding], int]:
    """Checks every .pyx and .pxd below `package`, an importable path below `root`. Returns findings and the number of functions."""
    out.mkdir(parents=True, exist_ok=True)
    pxds = sorted(path for path in package.rglob("*.pxd") if path.stem != "__init__")
    cover = out / "all_pxd_files.pyx"
    cover.write_text("".join(f"cimport {'.'.join(path.relative_to(root).with_suffix('').parts)}\n" for path in pxds))
    findings, checked, n_functions = [], set(), 0
    sources = sorted(package.rglob("*.pyx")) + ([door] if door else [])
    for source in [*sources, cover]:
        pages, messages = compile_annotated(source, root, out)
        for message in messages.splitlines():
            hint = re.match(r"performance hint: (.+?):(\d+):\d+: (.+)", message)
            hinted = (root / hint[1]).resolve() if hint else cover
            if hint and (hinted.is_relative_to(package) or hinted == door):
                findings.append(Finding(hint[1], int(hint[2]), hint[3], "performance hint"))
        for path, (page, code) in pages.items():
            # A .pxd is taken from the cover module, where all of its bodies are.
            if path in checked or not (path.is_relative_to(package) or path == door) or (path.suffix == ".pxd" and source != cover):
                continue
            checked.add(path)
            (out / f"{'.'.join(path.relative_to(root).parts)}.html").write_text(page)
            findings += check_file(path, root, page, code, is_door=path == door)
    for path in [*sources, *pxds]:
        functions = list(find_functions(path.read_text()))
        n_functions += sum(function.is_request_path for function in functions)
        if functions and path not in checked:
            findings.append(Finding(str(path.relative_to(root)), 1, "", "Cython compiled no line of this file, so nothing is known"))
    return sorted(set(findings), key=lambda finding: (finding.path, finding.line)), n_functions


def main() -> int:
    out = ROOT / "build" / "annotate"
    findings, n_functions = check_package(ROOT / "fastlb" / "data_plane", ROOT, out, door=ROOT / "fastlb" / "_core.pyx")
    for finding in findings:
        print(finding)
    print(f"{n_functions} request-path functions, {len(findings)} findings; pages in {out.relative_to(ROOT)}/")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
