"""Networks as graphs of layers without names or weights, by which one is recognized.

Two networks have one digest if they compute the same but for the values of weights, the number of
classes and that of channels. Batch norm right after a convolution is a part of it, so that a file
in which both were joined is recognized too.
"""

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from pipeline.models.zoo import NETWORKS


@dataclass(frozen=True)
class GraphNode:
    """An operation on other nodes' results; `layer` is what holds its weights, of any type.

    A convolution's `norm` is the batch norm on its result, where there is one. `attributes` tell
    all but weights.
    """

    kind: str
    attributes: tuple[object, ...] = ()
    inputs: tuple["GraphNode", ...] = ()
    layer: Any = None
    norm: Any = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digests = [each.digest for each in self.ordered_inputs]
        content = repr((self.kind, self.attributes, digests))
        object.__setattr__(self, "digest", hashlib.sha256(content.encode()).hexdigest())

    @property
    def ordered_inputs(self) -> tuple["GraphNode", ...]:
        """The inputs; those of a sum in an order that doesn't depend on how it was written."""
        if self.kind == "add":
            return tuple(sorted(self.inputs, key=lambda each: each.digest))
        return self.inputs


def convolution(
    channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    input: GraphNode,
    layer: object,
) -> GraphNode:
    attributes = (channels, kernel, stride, padding, dilation, groups)
    return GraphNode("convolution", attributes, (input,), layer)


def batch_norm(input: GraphNode, layer: object) -> GraphNode:
    """Return a batch norm, as a part of the convolution before it where there is one."""
    if input.kind == "convolution" and input.norm is None:
        return GraphNode(input.kind, input.attributes, input.inputs, input.layer, layer)
    return GraphNode("batch_norm", (), (input,), layer)


def concatenation(inputs: tuple[GraphNode, ...]) -> GraphNode:
    """Return a concatenation of channels, of all at once where it was done step by step."""
    each = [part.inputs if part.kind == "concatenation" else (part,) for part in inputs]
    joined = tuple(node for parts in each for node in parts)
    return joined[0] if len(joined) == 1 else GraphNode("concatenation", (), joined)


def layers_of(node: GraphNode) -> Iterator[GraphNode]:
    """Yield every node with weights once, in an order that graphs of one digest share."""
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.layer is not None:
            yield current
        stack.extend(current.ordered_inputs)


class _Tracer(fx.Tracer):
    """Records layers, whatever they are in."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


def graph_of_zoo(network: str) -> GraphNode | None:
    """Return the graph of one of the zoo, whose layers are names; None if it has others in it."""
    found: dict[fx.Node, GraphNode] = {}
    try:
        with torch.device("meta"):
            model = NETWORKS[network](num_classes=1000).eval()
        traced = _Tracer().trace(model)
    except Exception:  # of other numbers of classes only, or whose way depends on values
        return None
    for node in traced.nodes:
        result: GraphNode | None
        match node.op:
            case "placeholder":
                result = GraphNode("input")
            case "call_module":
                name = str(node.target)
                result = _layer(model.get_submodule(name), name, found[node.args[0]])
            case "call_function" if node.target is operator.add:
                result = GraphNode("add", (), tuple(found[each] for each in node.args))
            case "call_function" if node.target is torch.cat and node.kwargs.get("dim") == 1:
                result = concatenation(tuple(found[each] for each in node.args[0]))
            case "output":
                return found[node.args[0]]
            case _:
                result = None
        if result is None:
            return None
        found[node] = result
    return None


def _layer(module: nn.Module, name: str, input: GraphNode) -> GraphNode | None:
    match module:
        case nn.Conv2d() if isinstance(module.padding, tuple):
            return convolution(
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                input,
                name,
            )
        case nn.BatchNorm2d():
            return batch_norm(input, name)
        case nn.Linear():
            return GraphNode("linear", (module.in_features,), (input,), name)
        case nn.ReLU():
            return GraphNode("relu", (), (input,))
        case nn.MaxPool2d():
            sides = (pair(module.kernel_size), pair(module.stride), pair(module.padding))
            return GraphNode("max_pool", (*sides, module.ceil_mode), (input,))
        case nn.AvgPool2d():
            sides = (pair(module.kernel_size), pair(module.stride), pair(module.padding))
            counted = module.count_include_pad or sides[2] == (0, 0)
            return GraphNode("average_pool", (*sides, module.ceil_mode, counted), (input,))
        case nn.AdaptiveAvgPool2d() if module.output_size == 1:
            return GraphNode("global_average", (), (input,))
        case nn.Flatten() | nn.Dropout() | nn.Identity():
            return input  # fully connected layers read any map as one row
    return None


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) of what torch also takes as one number."""
    return value if isinstance(value, tuple) else (value, value)
