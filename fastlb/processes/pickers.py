"""Loads the pickers of the user's own that a snapshot names, in the worker that will run them.

This is the one place where code is imported after privileges are dropped, and on purpose: it is the user's, and runs with no more rights
than the requests that it picks for. So the account of the workers must be able to read the module and what that imports. It happens while
a snapshot is prepared, on its thread. A module is imported once in the life of a worker.
"""

import importlib
import sys
from collections.abc import Sequence


def load_pickers(names: Sequence[tuple[int, str]], python_path: Sequence[str]) -> dict[int, int]:
    """The addresses of pickers.

    Args:
        names: the index of each pool that has one, and its "module:name".
        python_path: directories that modules are looked for in, behind those of Python itself.

    Raises:
        PickerError: one cannot be loaded, or is not a function.
    """
    if not names:
        return {}
    from fastlb.picker import load_picker  # with ctypes, which nothing else here needs

    sys.path += [directory for directory in python_path if directory not in sys.path]
    importlib.invalidate_caches()
    return {index: load_picker(name) for index, name in names}
