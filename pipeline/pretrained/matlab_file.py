"""MATLAB's files up to version 7, as nested dicts, lists and arrays.

A struct is a dict, an array of structs and a cell are lists. scipy reads the file, once it has done
so in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.errors import UserError

# What reading may take, code included. The largest released file, VGG-19's, is of 575 MB.
_MOST_BYTES = 4 * 2**30
_MOST_VALUES = 1_000_000
_DEEPEST = 20


def read_matlab(file: Path) -> dict[str, Any]:
    """Return the variables by name; raise `UserError`, also for objects and functions in them."""
    from scipy.io import loadmat, matlab

    _try(file)
    content = loadmat(file, chars_as_strings=True)
    objects = (matlab.MatlabFunction, matlab.MatlabOpaque, matlab.MatlabObject)
    count = 0

    def plain(value: Any, depth: int = 0) -> Any:
        nonlocal count
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise UserError(f"{file}: is nested deeper, or has more values, than any network")
        if isinstance(value, objects):
            raise UserError(
                f"{file}: holds MATLAB objects or functions, which aren't read; save the network "
                "as a struct there (net.saveobj())"
            )
        if isinstance(value, np.void):  # a struct
            return {name: plain(value[name], depth + 1) for name in value.dtype.names or ()}
        if isinstance(value, np.ndarray) and value.dtype.names:
            return [plain(each, depth + 1) for each in value.flat]
        if isinstance(value, np.ndarray) and value.dtype == object:  # a cell
            return [plain(each, depth + 1) for each in value.flat]
        return value

    return {key: plain(value) for key, value in content.items() if not key.startswith("__")}


def _try(file: Path) -> None:
    """Read a file in a process of its own, with bounded memory; raise `UserError` if that fails.

    scipy reads nested cells by recursion, without a bound: a hostile file ends the process.
    """
    code = (
        "import resource, sys; from scipy.io import loadmat\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({_MOST_BYTES}, {_MOST_BYTES}))\n"
        "loadmat(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(file.absolute())],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode < 0:
        raise UserError(
            f"{file}: no MATLAB file, or a damaged one (its values are nested too deep)"
        )
    if done.returncode:
        line = (done.stderr.strip().splitlines() or [""])[-1][:200]
        if "NotImplementedError" in line:
            raise UserError(f"{file}: is of MATLAB 7.3; save it there with '-v7'")
        raise UserError(f"{file}: no MATLAB file, or a damaged one ({line})")
