"""What a network is made of: a table of its layers, with shapes, parameters and receptive fields.

The network is traced, so that branches are followed by its graph and not by the order of calls.
It is looked at as it is tested: auxiliary classifiers, which are removed then, have no rows.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.models.classifier import modes_restored
from pipeline.models.receptive_field import Axis, Window, joins_positions, union, windows_of


@dataclass(frozen=True)
class LayerProfile:
    """One layer as it was called: `output_shape` is without the batch.

    `multiply_adds` counts those of convolutions and fully connected layers for one image, without
    biases, as papers do under the name FLOPs; all else counts 0. `windows` has one entry an axis,
    height first, and none where a layer sees each position alone. `receptive_field` and `jump`, in
    input pixels, have one entry an axis of the input. Position p sees the pixels from
    `first_pixel + p · jump` on, as many as the field has; below 0 lies the padding.
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
    positions, be it a global pooling or fully connected. `removed_parameters` are learned too, by
    auxiliary classifiers that are not there when the network is tested.
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
    parameters the first time. The model may stand on the meta device, and is left as it was.
    Raises `NotImplementedError` for a layer that changes a map's size in a way not known here, and
    for a function between layers other than a sum or a concatenation.
    """
    with modes_restored(model), torch.no_grad():
        walk = _Walk(model.eval())
        walk.run(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
        assert walk.last_map is not None
    trained = sum(parameter.numel() for parameter in model.parameters())
    removed = trained - sum(layer.parameters for layer in walk.layers)
    return ModelProfile(tuple(walk.layers), walk.depth, walk.last_map, removed)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children())


@dataclass(frozen=True)
class _Seen:
    """A value on its way through the graph: what it sees, and the layers with weights behind it."""

    axes: tuple[Axis, ...]
    depth: int

    @property
    def receptive_field(self) -> tuple[int, ...]:
        return tuple(axis.receptive_field for axis in self.axes)


class _Walk(fx.Interpreter):
    """Runs the graph of a network and lists its layers on the way.

    A flattened map keeps its axes, since a fully connected layer is a kernel over them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, graph=_Tracer().trace(model))
        self.layers: list[LayerProfile] = []
        self.depth = 0
        self.last_map: tuple[int, ...] | None = None
        self._listed: set[nn.Module] = set()
        self._seen: dict[fx.Node, _Seen] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        before = [self._seen[node] for node in n.all_input_nodes]
        if n.op == "placeholder":
            seen = _Seen(tuple(Axis(size) for size in value.shape[2:]), depth=0)
        elif n.op == "call_module":
            assert isinstance(n.target, str)
            seen = self._through_layer(n.target, self.fetch_attr(n.target), value, _meet(before))
        elif n.op == "output":
            seen = _meet(before)
            self.depth = seen.depth
            self._end_of_maps(seen)
        elif n.target in (torch.cat, operator.add):
            seen = _meet(before)
            _refuse_unless(_keeps_positions(value, seen.axes), n.name)
        else:
            raise NotImplementedError(f"{n.name}: what it sees of the input isn't known")
        self._seen[n] = seen
        return value

    def _through_layer(self, name: str, layer: nn.Module, output: Tensor, before: _Seen) -> _Seen:
        axes = before.axes
        windows = windows_of(layer, tuple(axis.num_positions for axis in axes))
        if windows:
            sizes = (1,) * len(axes) if joins_positions(layer) else output.shape[2:]
            axes = tuple(
                axis.through(window, size)
                for axis, window, size in zip(axes, windows, sizes, strict=True)
            )
        _refuse_unless(isinstance(layer, nn.Flatten) or _keeps_positions(output, axes), name)
        seen = _Seen(axes, before.depth + isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear))
        if joins_positions(layer):
            self._end_of_maps(before)
        self._list(name, layer, output, windows, seen)
        return seen

    def _end_of_maps(self, seen: _Seen) -> None:
        self.last_map = self.last_map or seen.receptive_field

    def _list(
        self, name: str, layer: nn.Module, output: Tensor, windows: tuple[Window, ...], seen: _Seen
    ) -> None:
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
                receptive_field=seen.receptive_field,
                jump=tuple(axis.jump for axis in seen.axes),
                first_pixel=tuple(axis.first for axis in seen.axes),
            )
        )


def _meet(branches: list[_Seen]) -> _Seen:
    axes = zip(*(branch.axes for branch in branches), strict=True)
    return _Seen(tuple(map(union, axes)), max(branch.depth for branch in branches))


def _keeps_positions(value: Tensor, axes: tuple[Axis, ...]) -> bool:
    """Say whether `value` has the positions that `axes` promise; vectors count as one position."""
    sizes = tuple(axis.num_positions for axis in axes)
    return value.shape[2:] == sizes or (value.dim() == 2 and set(sizes) == {1})


def _refuse_unless(known: bool, name: str) -> None:
    if not known:
        raise NotImplementedError(f"{name} changes the map in a way that isn't known")


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    """Each weight is multiplied once for each position."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        return output[0, 0].numel() * module.weight.numel()
    return 0
