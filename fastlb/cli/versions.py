"""`fastlb -V`: what a bug report needs to know."""

import platform
from importlib import metadata

import fastlb


def format_versions() -> str:
    """One line per part: fastlb with its build id, the data plane's compiler, Python, libraries, kernel."""
    lines = [f"fastlb {fastlb.__version__} (build {fastlb.BUILD_ID})"]
    try:
        from fastlb import _core
    except ImportError as error:
        lines.append(f"data plane: not built ({error})")
    else:
        lines += [f"{name} {version}" for name, version in _core.versions().items() if name not in ("fastlb", "build")]
    lines.append(f"{platform.python_implementation()} {platform.python_version()}")
    for package in ("uvloop", "click", "h11", "dnspython", "cryptography"):
        lines.append(f"{package} {_version_of(package)}")
    lines.append(f"{platform.system()} {platform.release()} {platform.machine()}")
    return "\n".join(lines)


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
