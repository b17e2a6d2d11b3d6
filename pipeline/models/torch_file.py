"""torch's files, read without executing anything in them.

torch's own restricted unpickler makes tensors, numbers, texts and containers of them; every other
object of a training script (its arguments, a scheduler, a path) becomes a `Placeholder`.
"""

import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.errors import UserError

# What torch's unpickler would call with any size that a pickle writes.
_MAKES_MORE_THAN_IT_READS = {
    "builtins.bytearray",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch._utils._rebuild_device_tensor_from_numpy",
}
# Python 2 wrote these.
_MODULES_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MODULE = "module: "
_ZIP = b"PK\x03\x04"
_MOST_NAMES = 1000  # a whole module of a zoo's imports some thirty
_HEAD = 10_000  # bytes
_PICKLES_OF_OLD_FILES = 5  # before torch 1.6: magic number, version, system, content, storages


class Placeholder:
    """Stands for an object of a class that wasn't imported: its state, and no behaviour."""

    state: object = None

    def __new__(cls, *arguments: object) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    @property
    def class_name(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"

    @property
    def is_module(self) -> bool:
        """Whether it stands for an `nn.Module`."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


def whole_module(file: Path, name: str) -> UserError:
    """Return the error for a module that was pickled with its class, `name`."""
    return UserError(
        f"{file}: a whole pickled module of {name}, whose code isn't imported; save "
        "model.state_dict()"
    )


def read_torch_file(file: Path) -> object:
    """Return what `torch.save` wrote, tensors on the CPU, strange objects as `Placeholder`.

    Memory is bounded by the file's size. Raises `UserError` for files that hold a program
    (TorchScript, torch.export), and for all that isn't torch's.
    """
    try:
        with file.open("rb") as opened:
            is_zip = opened.read(4) == _ZIP  # as torch decides
        names = _globals_of_zip(file) if is_zip else _globals_of_old_file(file)
        if len(names) > _MOST_NAMES:
            raise ValueError(f"it imports {len(names):,} names")
        if growing := sorted(names & _MAKES_MORE_THAN_IT_READS):
            raise UserError(f"{file}: holds a {growing[0]}, which isn't read; nothing was executed")
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([_placeholder(name) for name in names]),
        ):
            warnings.simplefilter("ignore")  # about pickles that torch didn't write
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror or error})") from None
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise many kinds
        raise UserError(
            f"{file}: holds no weights that can be read ({_first_sentence(error)}); nothing was "
            "executed"
        ) from None
    return content


def _globals_of_zip(file: Path) -> set[str]:
    """Return the names that the pickle of an archive imports."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        pickled = [name for name in names if name.endswith("/data.pkl")]
        if any(name.endswith(("/constants.pkl", "/archive_format")) for name in names):
            # Of a part of it: deflated data could be of any size.
            head = archive.open(pickled[0]).read(_HEAD) if pickled else b""
            name = next(_globals(io.BytesIO(head)), "").removeprefix("__torch__.")
            raise UserError(
                f"{file}: a TorchScript or torch.export archive{name and f' of {name}'}: a "
                "program, which isn't read; save model.state_dict()"
            )
        # mmap needs it, and nothing can grow.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, torch doesn't compress")
        return set(_globals(io.BytesIO(archive.read(pickled[0])))) if pickled else set()


def _globals_of_old_file(file: Path) -> set[str]:
    with file.open("rb") as opened:
        names = {name for _ in range(_PICKLES_OF_OLD_FILES) for name in _globals(opened)}
    if module := next((name for name in names if name.startswith(_MODULE)), None):
        raise whole_module(file, module.removeprefix(_MODULE))
    return names


def _globals(pickled: Any) -> Iterator[str]:
    """Yield the dotted names that one pickle imports; nothing is imported.

    Old files keep the class of a module with its source; `_MODULE` is put before the first one's.
    """
    before, mark = "", _MODULE
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "GLOBAL" and isinstance(argument, str):
                module, _, name = argument.partition(" ")
                is_module = before == "module"
                yield f"{mark * is_module}{_MODULES_RENAMED.get(module, module)}.{name}"
                mark = "" if is_module else mark
            before = argument if isinstance(argument, str) else before
    except ValueError:
        return  # torch will say what is wrong


def _placeholder(name: str) -> tuple[Any, str]:
    """Return what stands for a class or function, as torch wants it. torch's own come first."""
    if name == "collections.defaultdict":
        return _plain_dict, name
    module, _, own = name.rpartition(".")
    return type(own, (Placeholder,), {"__module__": module}), name


def _plain_dict(*arguments: object) -> dict[object, object]:
    return {}


def _first_sentence(error: Exception) -> str:
    # torch wraps what its unpickler says in advice of its own.
    said = error.__context__ if isinstance(error, pickle.UnpicklingError) else error
    text = " ".join(str(said or error).split()) or type(error).__name__
    return text.partition(". ")[0][:120].rstrip(".")
