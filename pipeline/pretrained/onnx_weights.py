"""Load a network of ONNX whose layers are those of one of the zoo, whatever exported it.

The graph is compared, operation by operation, so that what is recognized computes the same. Batch
norm may be a part of its convolution; then the zoo's layer of it only adds the bias. Files that
`ilsvrc export-model` wrote name their network, and their weights as it does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.config.protocol import CenterCrop, parse_protocol
from pipeline.config.recipe import InputConfig
from pipeline.config.yaml import validate
from pipeline.data.store.manifest import ImageClass
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.batch_norm_values import BatchNormValues, identity
from pipeline.pretrained.network_graph import (
    GraphNode,
    batch_norm,
    concatenation,
    convolution,
    graph_of_zoo,
    layers_of,
)
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import (
    ANY_CLASSES,
    AUXILIARY,
    COUNTS,
    PretrainedWeights,
    fit_weights,
)
from pipeline.runtime.errors import UserError

_CLASSES = TypeAdapter(tuple[ImageClass, ...])
_LARGEST = 2**31  # bytes, of a message of protobuf
_MOST_JOINED = 1000  # DenseNet-264's largest block joins 65


@dataclass(frozen=True)
class _Affine:
    """A convolution's or a fully connected layer's weight, (out, in, …), and its bias, (out,)."""

    name: str
    weight: Tensor
    bias: Tensor | None


def read_onnx(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read a network of the zoo from ONNX; see `formats.PretrainedReader`."""
    if ema:
        raise UserError("--ema: an ONNX file has one set of weights; leave it out")
    model = _model(file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        found, remark = _found(model, metadata.get("network", ""), network, file)
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of damaged nodes
        said = " ".join(str(error).split())[:100]
        raise UserError(f"{file}: its graph can't be read ({said})") from None
    if network and found.network != network:
        raise UserError(f"--network {network}: {remark}, not of that")
    preprocessing = _preprocessing(metadata, file)
    remarks = [remark, *found.remarks]
    if preprocessing is None:
        preprocessing = Preprocessing()
        remarks.append("what it sees is taken to be torchvision's; declare it: --preprocessing")
    classes = _classes(metadata, file)
    if classes and len(classes) != found.num_classes:
        raise UserError(
            f"{file}: names {len(classes):,} classes, but its network tells {found.num_classes:,}"
        )
    return replace(found, preprocessing=preprocessing, classes=classes, remarks=tuple(remarks))


def _found(
    model: Any, exported: str, network: str | None, file: Path
) -> tuple[PretrainedWeights, str]:
    """Return the weights, and which network they are of: as `exported` says, or by the graph."""
    tensors = _Tensors(model, file)
    if exported in NETWORKS and (named := _by_own_names(exported, tensors)):
        return fit_weights(exported, named, str(file), {}), f"{file.name}: exported from {exported}"
    return _recognized(_Graph(model, tensors, file).output(), network, file)


def _model(file: Path) -> Any:
    if file.stat().st_size >= _LARGEST:
        raise UserError(f"{file}: is larger than an ONNX message can be, 2 GiB")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception:  # protobuf's own
        raise UserError(f"{file}: is no ONNX file") from None
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{file}: is no ONNX file, or has no network in it")
    return model


class _Tensors:
    """The constants of a graph by name, read when they are needed."""

    def __init__(self, model: Any, file: Path) -> None:
        self._file = file
        self._protos = {each.name: each for each in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute:
                value = onnx.helper.get_attribute_value(node.attribute[0])
                if isinstance(value, int | float | list):
                    value = numpy_helper.from_array(np.array(value))
                if isinstance(value, onnx.TensorProto):
                    self._protos[node.output[0]] = value
        self._same = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Identity" and node.input[0] in self._protos
        }

    def __contains__(self, name: str) -> bool:
        return name in self._protos or name in self._same

    def __getitem__(self, name: str) -> Tensor:
        """Return a constant, floats as float32; raises `UserError` for what the file can't hold."""
        proto = self._protos[self._same.get(name, name)]
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            proto = self._from_beside(proto)
        try:
            values = np.array(numpy_helper.to_array(proto))
            if values.dtype.kind == "V" or values.dtype.name == "bfloat16":
                values = values.astype(np.float32)
            if values.dtype.kind not in "fi":
                raise ValueError(f"of type {values.dtype}")
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            said = " ".join(str(error).split())[:100]
            raise UserError(f"{self._file}: {name} can't be read ({said})") from None
        return torch.from_numpy(values.astype(np.float32) if values.dtype.kind == "f" else values)

    def _from_beside(self, proto: Any) -> Any:
        """Return a tensor whose data are in another file, which must lie in the same folder."""
        entries = {each.key: each.value for each in proto.external_data}
        folder, location = self._file.parent.resolve(), entries.get("location", "")
        data = (folder / location).resolve()
        if not location or not data.is_relative_to(folder) or not data.is_file():
            raise UserError(
                f"{self._file}: {proto.name} is in {location or 'no file'}, which is no file in "
                "its folder"
            )
        try:
            start, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
            with data.open("rb") as opened:
                opened.seek(start)
                # A length may claim more than there is: what is there bounds what is read.
                here = max(data.stat().st_size - start, 0)
                content = opened.read(here if length < 0 else min(length, here))
        except (ValueError, OSError) as error:
            raise UserError(f"{self._file}: {proto.name} can't be read ({error})") from None
        copy = onnx.TensorProto()
        copy.name, copy.data_type, copy.raw_data = proto.name, proto.data_type, content
        copy.dims.extend(proto.dims)
        return copy


def _by_own_names(network: str, tensors: _Tensors) -> dict[str, Tensor]:
    """Return all weights of a network by its own names, or none if they have others."""
    with torch.device("meta"):
        keys = NETWORKS[network](ANY_CLASSES).state_dict()
    wanted = [key for key in keys if not key.endswith(COUNTS) and not key.startswith(AUXILIARY)]
    return {key: tensors[key] for key in wanted} if all(key in tensors for key in wanted) else {}


class _Graph:
    """Translates a graph of ONNX into the terms in which the zoo's are told."""

    def __init__(self, model: Any, tensors: _Tensors, file: Path) -> None:
        self._tensors = tensors
        self._file = file
        self._found: dict[str, GraphNode] = {
            each.name: GraphNode("input") for each in model.graph.input if each.name not in tensors
        }
        if len(self._found) != 1:
            raise UserError(f"{file}: has {len(self._found)} inputs, not one of images")
        for node in model.graph.node:
            if node.output[0] not in tensors and not self._is_shape(node):
                self._found[node.output[0]] = self._translated(node)
        self._output = model.graph.output[0].name

    def output(self) -> GraphNode:
        """Return what gives the first output; raises `UserError` where that is an unknown one."""
        if self._output not in self._found:
            raise UserError(f"{self._file}: its output {self._output} is computed by nothing")
        node = self._found[self._output]
        return node.inputs[0] if node.kind == "softmax" else node

    def _is_shape(self, node: Any) -> bool:
        """Whether a node computes a shape, or from shapes: of no matter, as is what reads it."""
        inputs = [name for name in node.input if name and name not in self._tensors]
        return node.op_type == "Shape" or all(name not in self._found for name in inputs)

    def _translated(self, node: Any) -> GraphNode:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
            raise self._refused(node, "pads by itself")
        images = [self._found[name] for name in node.input if name in self._found]
        first = images[0]  # `_is_shape` leaves out nodes without
        match node.op_type:
            case "Conv":
                return self._convolution(node, attributes, first)
            case "BatchNormalization" if attributes.get("training_mode", 0) == 0:
                gamma, beta, mean, variance = map(
                    self._tensors.__getitem__, self._constants(node, 4)
                )
                epsilon = float(attributes.get("epsilon", 1e-5))
                return batch_norm(first, BatchNormValues(gamma, beta, mean, variance, epsilon))
            case "Relu":
                return GraphNode("relu", (), (first,))
            case "MaxPool":
                return GraphNode("max_pool", self._window(node, attributes), (first,))
            case "AveragePool":
                window = self._window(node, attributes)
                if window[0] == window[1] == (1, 1):  # torchvision's VGG, of 224 pixels
                    return first
                counted = bool(attributes.get("count_include_pad", 0)) or window[2] == (0, 0)
                return GraphNode("average_pool", (*window, counted), (first,))
            case "GlobalAveragePool":
                return GraphNode("global_average", (), (first,))
            case "ReduceMean" if self._axes(node, attributes) in ([-2, -1], [2, 3]):
                return GraphNode("global_average", (), (first,))
            case "Add" if len(images) == 2:
                return GraphNode("add", (), tuple(images))
            case "Add" if first.kind == "linear" and first.layer.bias is None:
                (name,) = (name for name in node.input if name in self._tensors)
                layer = replace(first.layer, bias=self._tensors[name])
                return GraphNode("linear", first.attributes, first.inputs, layer)
            case "Concat" if attributes.get("axis") == 1 and len(images) == len(node.input):
                if sum(len(each.inputs) for each in images) > _MOST_JOINED:
                    raise self._refused(node, "joins too many parts")
                return concatenation(tuple(images))
            case "Gemm" | "MatMul":
                return self._linear(node, attributes, first)
            case "Flatten" | "Reshape" | "Squeeze":
                return GraphNode("flat", (), (first,))
            case "Softmax":
                return GraphNode("softmax", (), (first,))
            case "Identity" | "Dropout":
                return first
        raise self._refused(node, "is in no network that is recognized")

    def _convolution(self, node: Any, attributes: Mapping[str, Any], input: GraphNode) -> GraphNode:
        layer = self._affine(node)
        if layer.weight.dim() != 4:
            raise self._refused(node, "is no convolution of images")
        kernel, stride, padding, dilation = self._sides(node, attributes, layer.weight.shape[2:])
        groups = int(attributes.get("group", 1))
        channels = len(layer.weight)
        return convolution(channels, kernel, stride, padding, dilation, groups, input, layer)

    def _linear(self, node: Any, attributes: Mapping[str, Any], input: GraphNode) -> GraphNode:
        layer = self._affine(node)
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if layer.weight.dim() != 2 or any(
            attributes.get(name, value) != value for name, value in plain.items()
        ):
            raise self._refused(node, "is no fully connected layer")
        if node.op_type == "MatMul" or not attributes.get("transB", 0):
            layer = replace(layer, weight=layer.weight.T.contiguous())
        if input.kind == "flat":
            input = input.inputs[0]
        return GraphNode("linear", (layer.weight.shape[1],), (input,), layer)

    def _affine(self, node: Any) -> _Affine:
        weight, *bias = self._constants(node, 2 if len(node.input) > 2 and node.input[2] else 1)
        return _Affine(weight, self._tensors[weight], self._tensors[bias[0]] if bias else None)

    def _constants(self, node: Any, count: int) -> list[str]:
        names = list(node.input[1 : 1 + count])
        if len(names) < count or not all(name in self._tensors for name in names):
            raise self._refused(node, "has weights that are computed")
        return names

    def _sides(
        self, node: Any, attributes: Mapping[str, Any], kernel: Any
    ) -> tuple[tuple[int, int], ...]:
        """Return kernel, stride, padding and dilation, each (down, across)."""
        top, left, bottom, right = (*attributes.get("pads", (0, 0, 0, 0)), *(None,) * 4)[:4]
        sides = [attributes.get(name, (1, 1)) for name in ("strides", "dilations")]
        if (top, left) != (bottom, right) or any(len(side) != 2 for side in (kernel, *sides)):
            raise self._refused(node, "pads one side more than the other")
        stride, dilation = ((int(down), int(across)) for down, across in sides)
        return (int(kernel[0]), int(kernel[1])), stride, (int(top), int(left)), dilation

    def _window(self, node: Any, attributes: Mapping[str, Any]) -> tuple[Any, ...]:
        kernel, stride, padding, dilation = self._sides(
            node, attributes, attributes.get("kernel_shape", ())
        )
        if dilation != (1, 1):
            raise self._refused(node, "is dilated")
        return kernel, stride, padding, bool(attributes.get("ceil_mode", 0))

    def _axes(self, node: Any, attributes: Mapping[str, Any]) -> list[int]:
        if "axes" in attributes:
            return sorted(attributes["axes"])
        given = [name for name in node.input[1:] if name in self._tensors]
        return sorted(self._tensors[given[0]].flatten().tolist()) if given else []

    def _refused(self, node: Any, why: str) -> UserError:
        return UserError(f"{self._file}: its {node.op_type} ({node.output[0]}) {why}")


def _recognized(graph: GraphNode, network: str | None, file: Path) -> tuple[PretrainedWeights, str]:
    """Return the weights as those of the zoo's network with this graph."""
    theirs = list(layers_of(graph))
    own, ours = _counterpart(graph, network)
    if ours is None:
        kinds = sum(layer.kind == "convolution" for layer in theirs)
        raise UserError(
            f"{file}: its {kinds} convolutions and {len(theirs) - kinds} other layers are not "
            f"those of {network or 'any network here'}"
        )
    with torch.device("meta"):
        modules = dict(NETWORKS[own](num_classes=1000).named_modules())
    weights: dict[str, Tensor] = {}
    for here, there in zip(layers_of(ours), theirs, strict=True):
        weights |= _layer(here, there, modules, file)
    found = fit_weights(own, weights, str(file), {})
    remark = f"{file.name}: its layers are those of {own}"
    if any(layer.norm for layer in layers_of(ours)) and not any(layer.norm for layer in theirs):
        remark += ", batch norm joined with the convolutions"
    return found, remark


def _counterpart(graph: GraphNode, network: str | None) -> tuple[str, GraphNode | None]:
    """Return the zoo's network with this graph; VGG's in the form with batch norm or without."""
    for name in [network] if network in NETWORKS else NETWORKS:
        candidate = graph_of_zoo(str(name))
        if candidate is None or candidate.digest != graph.digest:
            continue
        with_norm = f"{name}_bn"
        if with_norm in NETWORKS and any(layer.norm for layer in layers_of(graph)):
            return with_norm, graph_of_zoo(with_norm)
        return str(name), candidate
    return "", None


def _layer(
    here: GraphNode, there: GraphNode, modules: Mapping[str, nn.Module], file: Path
) -> dict[str, Tensor]:
    """Return the state of one layer of the zoo, and of the batch norm on it, by its names."""
    if here.kind == "batch_norm":
        return _named(here.layer, there.layer.state(_epsilon(modules[here.layer])))
    layer: _Affine = there.layer
    weight, bias = layer.weight, layer.bias
    none = torch.zeros(len(weight))
    if here.norm is None:
        if there.norm is not None:  # it is joined with the convolution
            norm = there.norm.state(0.0, bias)
            scale = norm["weight"] / norm["running_var"].sqrt()
            weight = weight * scale[:, None, None, None]
            bias = norm["bias"] - norm["running_mean"] * scale
        if modules[here.layer].bias is None and bias is not None:
            raise UserError(f"{file}: {layer.name} has a bias, {here.layer} here has none")
        state = {"weight": weight}
        if modules[here.layer].bias is not None:
            state["bias"] = none if bias is None else bias  # exporters leave out zeros
        return _named(here.layer, state)
    epsilon = _epsilon(modules[here.norm])
    own_bias = modules[here.layer].bias is not None
    if there.norm is None:
        norm = identity(none if bias is None or own_bias else bias, epsilon)
    else:
        norm = there.norm.state(epsilon, None if own_bias else bias)
    state = {"weight": weight}
    if own_bias:
        state["bias"] = none if bias is None else bias
    return _named(here.layer, state) | _named(here.norm, norm)


def _named(layer: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{layer}.{key}": value for key, value in state.items()}


def _epsilon(module: nn.Module) -> float:
    assert isinstance(module, nn.BatchNorm2d)
    return module.eps


def _classes(metadata: Mapping[str, str], file: Path) -> tuple[ImageClass, ...]:
    """Return the classes that `ilsvrc export-model` wrote, where it did."""
    try:
        return _CLASSES.validate_json(metadata.get("classes", "[]"))
    except ValidationError:
        raise UserError(f"{file}: its metadata's classes are no list of classes") from None


def _preprocessing(metadata: Mapping[str, str], file: Path) -> Preprocessing | None:
    """Return what `ilsvrc export-model` wrote of the input and the protocol, where it did."""
    if "input" not in metadata:
        return None
    try:
        content = json.loads(metadata["input"])
    except ValueError:
        raise UserError(f"{file}: its metadata's input isn't JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: its metadata's input is no mapping")
    input = validate(InputConfig, content, f"{file}: input")
    shown = CenterCrop(resize=input.size, squash=True)  # of `whole`: stretched
    if metadata.get("protocol", "whole") != "whole":
        parsed = parse_protocol(metadata["protocol"], input.size, CenterCrop())
        usual = CenterCrop(resize=input.size * 8 // 7)
        shown = parsed if isinstance(parsed, CenterCrop) else usual
    return Preprocessing(
        mean=input.mean,
        std=input.std,
        colors="gray" if input.color == "gray" else "rgb",
        value_range=255,
        resize=shown.resize,
        crop=input.size,
        squash=shown.squash,
        interpolation=input.interpolation,
    )
