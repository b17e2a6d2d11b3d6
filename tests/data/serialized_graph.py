"""Reads the protobuf that DALI's `Pipeline.serialize()` returns: a GPU graph shown without a GPU.

NVIDIA ships no description of the message. The field numbers below were read from the bytes of
DALI 2.4; `test_dali_graph.py` checks them against a graph whose content is known.
"""

import struct
from dataclasses import dataclass
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Pipeline: 5 operator, 7 output. Operator: 1 type, 2 input, 3 output, 4 argument.
# Input and output: 1 name, 2 device. Argument: 1 name, 3 float, 4 integer, 5 string, 6 bool,
# 7 element of a list.


@dataclass(frozen=True)
class Operator:
    """One operator of a graph; inputs and outputs are (name, device)."""

    kind: str
    arguments: dict[str, Any]
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]


@dataclass(frozen=True)
class Graph:
    operators: list[Operator]
    outputs: list[tuple[str, str]]


def parse_graph(message: bytes) -> Graph:
    fields = _fields(message)
    return Graph(
        operators=[_operator(value) for number, value in fields if number == 5],
        outputs=[_edge(value) for number, value in fields if number == 7],
    )


def _operator(message: bytes) -> Operator:
    fields = _fields(message)
    arguments = (_argument(value) for number, value in fields if number == 4)
    return Operator(
        kind=next(value.decode() for number, value in fields if number == 1),
        # A leading underscore marks arguments of DALI's own tracing.
        arguments={name: value for name, value in arguments if not name.startswith("_")},
        inputs=[_edge(value) for number, value in fields if number == 2],
        outputs=[_edge(value) for number, value in fields if number == 3],
    )


def _edge(message: bytes) -> tuple[str, str]:
    fields = dict(_fields(message))
    return fields[1].decode(), fields[2].decode()


def _argument(message: bytes) -> tuple[str, Any]:
    name, elements, value = "", [], None
    for number, content in _fields(message):
        if number == 1:
            name = content.decode()
        elif number == 3:
            value = struct.unpack("<f", content)[0]
        elif number in (4, 6):
            value = content
        elif number == 5:
            value = content.decode()
        elif number == 7:
            elements.append(_argument(content)[1])
    return name, elements or value


def _fields(message: bytes) -> list[tuple[int, Any]]:
    fields, position = [], 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            fields.append((number, value))
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        else:
            length = {_FIXED32: 4, _FIXED64: 8}[wire_type]
        fields.append((number, message[position : position + length]))
        position += length
    return fields


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
