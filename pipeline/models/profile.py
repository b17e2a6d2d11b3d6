"""A network's profile: a table of its layers, with shapes, parameters and receptive fields.

The network is traced with torch.fx, so that branches are followed along its graph and not in the
order of calls. It is profiled as it is tested: auxiliary classifiers, which are removed then, have
no rows.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.models.classifier import modes_restored
from pipeline.models.receptive_field import (
    AxisField,
    Window,
    joins_positions,
    merge_branches,
    windows_of,
)


@dataclass(frozen=True)
class LayerProfile:
    """One call of a layer; `output_shape` is without the batch.

    `multiply_adds` counts those of convolutions and fully connected layers for one image, without
    biases, as papers do under the name FLOPs; all else counts 0. `windows` has one entry an axis,
    height first, and is empty for a layer that acts on each position alone. `receptive_field` and
    `jump`, in input pixels, have one entry an axis of the input. The field of position p begins at
    pixel `first_pixel + p · jump`; pixels below 0 are padding.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    windows: tuple[Window, ...]
    groups: int
    receptive_field: tuple[int, ...]
    jump: tuple[int, ...]
    first_pixel: tuple[int, ...]


@dataclass(frozen=True)
class ModelProfile:
    """The layers of a network in the order they are called.

    `depth` counts convolutions and fully connected layers on the longest path. `receptive_field`,
    one entry an axis, is that of a position of the last map: before the first layer that joins all
    positions, a global pooling or a fully connected layer. `removed_parameters` are those of
    auxiliary classifiers, which are trained too but removed when the network is tested.
    """

    layers: tuple[LayerProfile, ...]
    depth: int
    receptive_field: tuple[int, ...]
    removed_parameters: int

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def trained_parameters(self) -> int:
        return self.parameters + self.removed_parameters

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)


def profile_model(model: nn.Module, input_shape: tuple[int, ...]) -> ModelProfile:
    """Run `model` on one zero image of `input_shape`, (c, h, w) or (c, length); list its layers.

    Only modules without children are layers; one that is called twice is listed twice, its
    parameters the first time. The model may be on the meta device, and is left unchanged. Raises
    `NotImplementedError` for a layer that changes a map's size in an unknown way, and for a
    function between layers other than a sum or a concatenation.
    """
    with modes_restored(model), torch.no_grad():
        profiler = _Profiler(model.eval())
        profiler.run(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
        assert profiler.last_map_field is not None
    trained = sum(parameter.numel() for parameter in model.parameters())
    removed = trained - sum(layer.parameters for layer in profiler.layers)
    return ModelProfile(tuple(profiler.layers), profiler.depth, profiler.last_map_field, removed)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children())


@dataclass(frozen=True)
class _NodeState:
    """The receptive field of a node's output, and the layers with weights on the way to it."""

    axes: tuple[AxisField, ...]
    depth: int

    @property
    def receptive_field(self) -> tuple[int, ...]:
        return tuple(axis.receptive_field for axis in self.axes)


class _Profiler(fx.Interpreter):
    """Runs the graph of a network and lists its layers.

    A flattened map keeps its axes, since a fully connected layer is a kernel over them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, graph=_Tracer().trace(model))
        self.layers: list[LayerProfile] = []
        self.depth = 0
        self.last_map_field: tuple[int, ...] | None = None
        self._listed: set[nn.Module] = set()
        self._states: dict[fx.Node, _NodeState] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        inputs = [self._states[node] for node in n.all_input_nodes]
        if n.op == "placeholder":
            state = _NodeState(tuple(AxisField(size) for size in value.shape[2:]), depth=0)
        elif n.op == "call_module":
            assert isinstance(n.target, str)
            state = self._run_layer(n.target, self.fetch_attr(n.target), value, _merge(inputs))
        elif n.op == "output":
            state = _merge(inputs)
            self.depth = state.depth
            self._end_of_maps(state)
        elif n.target in (torch.cat, operator.add):
            state = _merge(inputs)
            _require_known(_keeps_positions(value, state.axes), n.name)
        else:
            raise NotImplementedError(f"{n.name}: its receptive field isn't known")
        self._states[n] = state
        return value

    def call_module(self, target: fx.node.Target, args: Any, kwargs: Any) -> Any:
        # On the meta device a batch norm takes most of the time, and only its shape is wanted.
        if args and isinstance(self.fetch_attr(str(target)), nn.BatchNorm1d | nn.BatchNorm2d):
            return args[0]
        return super().call_module(target, args, kwargs)

    def _run_layer(
        self, name: str, layer: nn.Module, output: Tensor, before: _NodeState
    ) -> _NodeState:
        axes = before.axes
        windows = windows_of(layer, tuple(axis.num_positions for axis in axes))
        if windows:
            sizes = (1,) * len(axes) if joins_positions(layer) else output.shape[2:]
            axes = tuple(
                axis.after(window, size)
                for axis, window, size in zip(axes, windows, sizes, strict=True)
            )
        _require_known(isinstance(layer, nn.Flatten) or _keeps_positions(output, axes), name)
        if joins_positions(layer):
            self._end_of_maps(before)
        has_weights = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
        state = _NodeState(axes, before.depth + has_weights)
        parameters = 0 if layer in self._listed else sum(p.numel() for p in layer.parameters())
        self._listed.add(layer)
        self.layers.append(
            LayerProfile(
                name=name,
                kind=type(layer).__name__,
                output_shape=tuple(output.shape[1:]),
                parameters=parameters,
                multiply_adds=_multiply_adds(layer, output),
                windows=windows,
                groups=layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d) else 1,
                receptive_field=state.receptive_field,
                jump=tuple(axis.jump for axis in state.axes),
                first_pixel=tuple(axis.first for axis in state.axes),
            )
        )
        return state

    def _end_of_maps(self, state: _NodeState) -> None:
        self.last_map_field = self.last_map_field or state.receptive_field


def _merge(branches: list[_NodeState]) -> _NodeState:
    axes = zip(*(branch.axes for branch in branches), strict=True)
    return _NodeState(tuple(map(merge_branches, axes)), max(branch.depth for branch in branches))


def _keeps_positions(value: Tensor, axes: tuple[AxisField, ...]) -> bool:
    """Return whether `value` has the positions that `axes` say; vectors count as one position."""
    sizes = tuple(axis.num_positions for axis in axes)
    return value.shape[2:] == sizes or (value.dim() == 2 and set(sizes) == {1})


def _require_known(known: bool, name: str) -> None:
    if not known:
        raise NotImplementedError(f"{name} changes the map in a way that isn't known")


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    """Each weight is multiplied once for each position."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        return output[0, 0].numel() * module.weight.numel()
    return 0
