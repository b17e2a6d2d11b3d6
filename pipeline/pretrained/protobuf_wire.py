"""Read messages of protocol buffers field by field, without their library, from a mapped file.

Caffe's messages hold their weights as one field of packed floats, which stays in the file until it
is copied: a file costs no memory for what it claims. Fields that nobody asks for are skipped.
https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class WireError(ValueError):
    """What isn't a message of protocol buffers, or ends too early."""


class Field(NamedTuple):
    """A field by its number: an integer, or the bytes of a float, a text, or a message."""

    number: int
    value: int | memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Return the fields of a message in their order; raise `WireError`."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has the number 0")
        if kind == 0:
            value, position = _varint(message, position)
            yield Field(number, value)
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise WireError(f"field {number} has a kind that there isn't")
        if size > len(message) - position:
            raise WireError(
                f"field {number} claims {size:,} bytes, of which there are "
                f"{len(message) - position:,}"
            )
        yield Field(number, message[position : position + size])
        position += size


def integers(field: Field) -> list[int]:
    """Return the integers of a field, packed or one."""
    if isinstance(field.value, int):
        return [field.value]
    if len(field.value) > _MOST_INTEGERS:
        raise WireError(f"field {field.number} is longer than any list of integers")
    values, position = [], 0
    while position < len(field.value):
        value, position = _varint(field.value, position)
        values.append(value)
    return values


# Of the sides of an array, or of a kernel.
_MOST_INTEGERS = 1000


def floats(field: Field, size: int = 4) -> NDArray[np.floating]:
    """Return the packed floats of `size` bytes of a field, as they lie in the file."""
    if isinstance(field.value, int) or len(field.value) % size:
        raise WireError(f"field {field.number} is no list of floats")
    return np.frombuffer(field.value, dtype=f"<f{size}")


def message(field: Field) -> memoryview:
    if isinstance(field.value, int):
        raise WireError(f"field {field.number} is a number where a message is needed")
    return field.value


def text(field: Field) -> str:
    """Return a short text, fit for a message."""
    found = bytes(message(field)[:_LONGEST_TEXT]).decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in found)


_LONGEST_TEXT = 200


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise WireError("it ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number has more than 64 bits")
