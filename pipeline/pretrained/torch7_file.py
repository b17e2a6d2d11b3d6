"""Torch7's binary files (`.t7`), read without executing anything in them.

A file is one object: a number, a text, a table of objects, or an object of a class, which is its
name and, but for tensors and storages, a table of its fields. Tables, and objects of classes, are
written once and referred to by their number. The bytes of functions are skipped. Storages stay in
the mapped file. torch7's `File.lua`, and `generic/Tensor.c` and `Storage.c`, define the format.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pretrained.mapped_file import mapped
from pipeline.runtime.errors import UserError

_TYPES = {
    "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8",
    "Half": "f2", "Float": "f4", "Double": "f8", "Cuda": "f4",
}  # fmt: skip
_CLASS = re.compile(r"[A-Za-z][\w.]{1,100}", re.ASCII)
_TENSOR = re.compile(r"torch\.(Cuda(?=[A-Z]\w+(?:Tensor|Storage)))?(\w+?)(Tensor|Storage)")

# More than any network has, so that a file of nothing but small objects takes no memory.
_MOST_OBJECTS, _DEEPEST, _LONGEST_TEXT, _MOST_DIMENSIONS = 200_000, 100, 1_000_000, 10

Table = dict[Any, Any]


@dataclass(eq=False)
class TorchObject:
    """An object of a class, `nn.Linear` say, with its fields."""

    kind: str
    fields: Table


class _Skipped:
    """What is left of a function."""


def read_torch7_file(file: Path) -> Any:
    """Return the object of a file; tables are dicts, tensors arrays. Raise `UserError`."""
    content = mapped(file)
    try:
        return _Reader(content).read()
    except _DamagedError as error:
        raise UserError(f"{file}: no binary file of Torch7, or a damaged one: {error}") from None


class _DamagedError(ValueError):
    pass


class _Reader:
    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.position = 0
        self.num_objects = 0
        self.known: dict[int, Any] = {}

    def read(self, depth: int = 0) -> Any:
        self.num_objects += 1
        if depth > _DEEPEST or self.num_objects > _MOST_OBJECTS:
            raise _DamagedError("it is nested deeper, or has more objects, than any network")
        match kind := self.integer():
            case 0:
                return None
            case 1:
                return float(self.numbers("f8", 1)[0])
            case 2:
                return self.text()
            case 5:
                return self.integer() == 1
            case 3 | 4 | 7 | 8:
                number = self.integer()
                if number in self.known:
                    return self.known[number]
                if kind == 3:
                    return self.table(number, depth)
                return self.object(number, depth) if kind == 4 else self.function(number, depth)
            case 6:
                return self.function(None, depth)
        raise _DamagedError(f"an object of kind {kind}, which there isn't")

    def table(self, number: int, depth: int) -> Table:
        found: Table = {}
        self.known[number] = found  # it may refer to itself
        for _ in range(self.integer()):
            key = self.read(depth + 1)
            value = self.read(depth + 1)
            if isinstance(key, float | str | bool):
                found[key] = value
        return found

    def object(self, number: int, depth: int) -> Any:
        version = self.text()
        kind = self.text() if version.startswith("V ") else version
        if not _CLASS.fullmatch(kind):
            raise _DamagedError("an object of a class without a name")
        if found := _TENSOR.fullmatch(kind):
            if found[2] not in _TYPES:
                raise _DamagedError(f"{kind} has numbers of a kind that isn't read")
            read = self.tensor if found[3] == "Tensor" else self.storage
            array = read("<" + _TYPES[found[2]], depth)
            self.known[number] = array
            return array
        made = TorchObject(kind, {})
        self.known[number] = made
        fields = self.read(depth + 1)
        if not isinstance(fields, dict):
            raise _DamagedError(f"{kind} has no table of fields")
        made.fields = fields
        return made

    def function(self, number: int | None, depth: int) -> _Skipped:
        skipped = _Skipped()
        if number is not None:
            self.known[number] = skipped
        self.take(self.integer())
        self.read(depth + 1)  # what it refers to
        return skipped

    def tensor(self, type: str, depth: int) -> NDArray[Any]:
        num_dimensions = self.integer()
        if not 0 <= num_dimensions <= _MOST_DIMENSIONS:
            raise _DamagedError(f"a tensor of {num_dimensions} dimensions")
        sizes = [int(each) for each in self.numbers("<i8", num_dimensions)]
        strides = [int(each) for each in self.numbers("<i8", num_dimensions)]
        first = int(self.numbers("<i8", 1)[0]) - 1
        storage = self.read(depth + 1)
        if not num_dimensions or storage is None:
            return np.empty(0, type)
        if not isinstance(storage, np.ndarray) or storage.dtype != np.dtype(type):
            raise _DamagedError("a tensor without a storage of its kind")
        if min(sizes) < 1 or min(strides) < 0 or first < 0:
            raise _DamagedError(f"a tensor of {sizes} from {first}, by steps of {strides}")
        last = first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if last >= storage.size:
            raise _DamagedError(f"a tensor of {sizes} in a storage of {storage.size:,} numbers")
        steps = [step * storage.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(storage[first:], sizes, steps, writeable=False)

    def storage(self, type: str, depth: int) -> NDArray[Any]:
        return self.numbers(type, int(self.numbers("<i8", 1)[0]))

    def integer(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def text(self) -> str:
        size = self.integer()
        if size > _LONGEST_TEXT:
            raise _DamagedError(f"a text of {size:,} bytes")
        return bytes(self.take(size)).decode("utf-8", "replace")

    def numbers(self, type: str, count: int) -> NDArray[Any]:
        size = np.dtype(type).itemsize
        return np.frombuffer(self.take(count * size), dtype=type)

    def take(self, size: int) -> memoryview:
        left = len(self.content) - self.position
        if not 0 <= size <= left:
            raise _DamagedError(f"it claims {size:,} bytes where there are {left:,}")
        taken = self.content[self.position : self.position + size]
        self.position += size
        return taken
