"""Load weights of keras.applications: VGG, ResNet (the first form), DenseNet and Inception-v3.

Both layouts of HDF5: `.weights.h5` of Keras 3, by the layers' numbers, and the older `.h5` of
weights or whole models, by their names. Kernels are (height, width, in, out) there. ResNet's
convolutions have biases, which move the means of the batch norm that follows; its and DenseNet's
ε, 1.001e-5, goes into the variances. Inception-v3 is `inception_v3_tf` here.

VGG and ResNet see blue first, less ImageNet's mean, from 0 to 255 (Keras' mode "caffe").
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.batch_norm_values import BatchNormValues
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import (
    AUXILIARY,
    PretrainedWeights,
    fit_weights,
    weighted_layers,
)
from pipeline.runtime.errors import UserError

COUNTERPARTS = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "inception_v3_tf": "InceptionV3",
}
_EPSILON = 1.001e-5  # of ResNet and DenseNet
_EPSILON_OF_INCEPTION = 1e-3

_CAFFE = Preprocessing(
    mean=(103.939, 116.779, 123.68), std=(1, 1, 1), colors="bgr", value_range=255
)
_TF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=342, crop=299)

# What a layer holds, in the order of `.weights.h5`; Inception's batch norm has no gamma.
_KINDS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
_MAX_DEPTH = 8

KerasLayers = Mapping[str, Mapping[str, Tensor]]  # values by the layer's name and their own


def read_keras(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read weights of keras.applications; see `formats.PretrainedReader`.

    `network` may be Keras' name or this zoo's.
    """
    if ema:
        raise UserError("--ema: files of Keras have no moving average; leave it out")
    try:
        with h5py.File(file, "r") as opened:
            layers = _layers(opened, file)
    except OSError as error:
        raise UserError(f"{file}: is no HDF5 file ({' '.join(str(error).split())})") from None
    except (RuntimeError, KeyError, ValueError, TypeError) as error:  # of damaged files
        raise UserError(f"{file}: can't be read ({' '.join(str(error).split())})") from None
    own = _network(network, layers, file)
    weights, names = _converted(own, layers, file)
    found = fit_weights(own, weights, str(file), names)
    remark = f"{file.name}: layers of Keras' {COUNTERPARTS[own]}, which is {own} here"
    preprocessing = _TF if own == "inception_v3_tf" else Preprocessing()
    if own.startswith(("vgg", "resnet")):
        preprocessing = _CAFFE
    return replace(found, preprocessing=preprocessing, remarks=(remark, *found.remarks))


def _layers(opened: h5py.File, file: Path) -> KerasLayers:
    """Return the values of every layer that has some, by the layer's name."""
    size = file.stat().st_size
    found: dict[str, dict[str, Tensor]] = {}
    if "layers" in opened:
        for path, dataset in _datasets(_inside(opened, "layers"), file):
            group = re.fullmatch(r"(conv2d|dense|batch_normalization)(?:_\d+)?/vars/(\d)", path)
            if group is None:
                raise UserError(f"{file}: has a layer {path}, unlike Keras' networks that are here")
            kinds, number = _KINDS[group[1]], int(group[2])
            name = str(dataset.parent.attrs.get("name", ""))
            if not name:
                raise UserError(f"{file}: doesn't name its layers; save it with Keras from 3.8 on")
            if group[1] == "batch_normalization" and len(dataset.parent) == 3:
                kinds = kinds[1:]
            if number >= len(kinds):
                raise UserError(f"{file}: has a value {path}, unlike Keras' layers")
            found.setdefault(name, {})[kinds[number]] = _read(dataset, size, file)
        return found
    root = _inside(opened, "model_weights") if "model_weights" in opened else opened
    for path, dataset in _datasets(root, file):
        *parts, kind = path.split("/")
        # LAYER/LAYER/kernel:0, where a layer's name may hold a slash, and be numbered within.
        name = "_".join(parts[: len(parts) // 2])
        found.setdefault(name, {})[kind.removesuffix(":0")] = _read(dataset, size, file)
    return found


def _inside(group: h5py.Group, name: str) -> Any:
    """Return a member that lies in the file itself: a link could lead to any other."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{group.file.filename}: {name} is a link, which isn't followed")
    return group[name]


def _datasets(group: h5py.Group, file: Path, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    if depth > _MAX_DEPTH:
        raise UserError(f"{file}: its groups are nested too deep for a file of Keras")
    for name in group:
        member = _inside(group, name)
        if isinstance(member, h5py.Group):
            for path, dataset in _datasets(member, file, depth + 1):
                yield f"{name}/{path}", dataset
        elif isinstance(member, h5py.Dataset):
            yield name, member


def _read(dataset: h5py.Dataset, size: int, file: Path) -> Tensor:
    """Return a dataset's values, float32, if they are numbers that the file itself holds."""
    outside = dataset.external is not None or dataset.is_virtual
    if outside or dataset.dtype.kind != "f" or dataset.nbytes > size:
        raise UserError(
            f"{file}: {dataset.name} is {dataset.shape} {dataset.dtype}"
            f"{' in another file' if outside else ''}, not numbers that the file holds"
        )
    return torch.from_numpy(np.asarray(dataset[()], dtype=np.float32))


def _network(name: str | None, layers: KerasLayers, file: Path) -> str:
    """Return the network that is named by either name, or else has exactly these layers."""
    if name is None:
        for network in COUNTERPARTS:
            if set(_their_names(network, layers).values()) == layers.keys():
                return network
        some = ", ".join(list(layers)[:3]) or "none"
        raise UserError(
            f"{file}: its layers ({some} …) are of no network that keras.applications and this "
            f"zoo both have: {', '.join(COUNTERPARTS.values())}"
        )
    own = "inception_v3_tf" if name == "inception_v3" else name
    for network, theirs in COUNTERPARTS.items():
        if own.lower() in (network, theirs.lower()):
            return network
    raise UserError(
        f"keras.applications has no network like '{name}'; it has, as here: "
        f"{', '.join(COUNTERPARTS)}"
    )


# From the zoo's names of layers to Keras', by family. Blocks are counted from 1 there, and
# DenseNet's first is that of the second stage.
_NAMES: dict[str, list[tuple[str, str]]] = {
    "vgg": [
        (r"conv(?P<stage>\d)_(?P<place>\d)", "block{stage}_conv{place}"),
        ("fc6", "fc1"),
        ("fc7", "fc2"),
    ],
    "resnet": [
        ("conv1", "conv1_conv"),
        ("bn1", "conv1_bn"),
        (
            r"conv(?P<stage>\d)_x\.(?P<block>\d+)\.(?P<kind>conv|bn)(?P<place>\d)",
            "conv{stage}_block{block}_{place}_{kind}",
        ),
        (r"conv(?P<stage>\d)_x\.(?P<block>\d+)\.shortcut\.0", "conv{stage}_block{block}_0_conv"),
        (r"conv(?P<stage>\d)_x\.(?P<block>\d+)\.shortcut\.1", "conv{stage}_block{block}_0_bn"),
    ],
    "densenet": [
        ("conv0", "conv1_conv"),
        ("bn0", "conv1_bn"),
        (r"block(?P<stage>\d)\.(?P<block>\d+)\.bn1", "conv{stage}_block{block}_0_bn"),
        (r"block(?P<stage>\d)\.(?P<block>\d+)\.conv1", "conv{stage}_block{block}_1_conv"),
        (r"block(?P<stage>\d)\.(?P<block>\d+)\.bn2", "conv{stage}_block{block}_1_bn"),
        (r"block(?P<stage>\d)\.(?P<block>\d+)\.conv2", "conv{stage}_block{block}_2_conv"),
        (r"transition(?P<stage>\d)\.(?P<kind>bn|conv)", "pool{stage}_{kind}"),
        ("bn5", "bn"),
    ],
}


def _modules(network: str) -> dict[str, nn.Module]:
    """Return the layers that Keras has too, by their names, in the network's order."""
    with torch.device("meta"):
        layers = weighted_layers(NETWORKS[network](num_classes=1000))
    return {name: each for name, each in layers.items() if not name.startswith(AUXILIARY)}


def _their_names(network: str, layers: KerasLayers) -> dict[str, str]:
    """Map the zoo's layers to Keras' names; the last one's is whatever the others leave."""
    modules = _modules(network)
    if network == "inception_v3_tf":
        names = _numbered(modules, layers)
    else:
        family = next(family for family in _NAMES if network.startswith(family))
        names = {own: _renamed(own, family) for own in modules}
    last = list(modules)[-1]
    names.pop(last, None)
    rest = layers.keys() - set(names.values())
    return {**names, last: rest.pop() if len(rest) == 1 else "predictions"}


def _renamed(own: str, family: str) -> str:
    for pattern, theirs in _NAMES[family]:
        if found := re.fullmatch(pattern, own):
            parts: dict[str, Any] = found.groupdict()
            if "block" in parts:
                parts["block"] = int(parts["block"]) + 1
            if "stage" in parts and family == "densenet":
                parts["stage"] = int(parts["stage"]) + 1
            return theirs.format(**parts)
    return own


def _numbered(modules: Mapping[str, nn.Module], layers: KerasLayers) -> dict[str, str]:
    """Map layers that Keras numbers as they are made, which is the order of the zoo's."""
    names: dict[str, str] = {}
    for kind, theirs in ((nn.Conv2d, "conv2d"), (nn.BatchNorm2d, "batch_normalization")):
        numbered = sorted(
            (name for name in layers if re.fullmatch(rf"{theirs}(_\d+)?", name)),
            key=lambda name: int(name.removeprefix(theirs).lstrip("_") or 0),
        )
        own = [name for name, module in modules.items() if isinstance(module, kind)]
        names |= dict(zip(own, numbered, strict=False))  # a missing one is named later
    return names


def _converted(
    network: str, layers: KerasLayers, file: Path
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights by the zoo's names, and the names in the file of each."""
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    theirs = _their_names(network, layers)
    bias: Tensor | None = None
    for own, module in _modules(network).items():
        layer = theirs.get(own, "")
        values = layers.get(layer)
        if values is None:
            raise UserError(f"{file}: has no layer {layer or own}, for {network}'s {own}")
        state: dict[str, Tensor] = {}
        match module:
            case nn.BatchNorm2d():
                state = _batch_norm(values, network).state(module.eps, bias)
                bias = None
            case nn.Conv2d():
                state["weight"] = values["kernel"].permute(3, 2, 0, 1).contiguous()
                bias = values.get("bias")
                if module.bias is not None:
                    state["bias"] = values["bias"]
            case nn.Linear():
                state["weight"] = fully_connected(values["kernel"], own)
                state["bias"] = values["bias"]
        for key, value in state.items():
            weights[f"{own}.{key}"] = value
            names[f"{own}.{key}"] = f"{layer}'s {key}"
    if strange := sorted(layers.keys() - set(theirs.values())):
        raise UserError(f"{file}: {strange[0]} has no place in {network}")
    return weights, names


def _batch_norm(values: Mapping[str, Tensor], network: str) -> BatchNormValues:
    beta = values["beta"]
    return BatchNormValues(
        gamma=values.get("gamma", torch.ones_like(beta)),
        beta=beta,
        mean=values["moving_mean"],
        variance=values["moving_variance"],
        epsilon=_EPSILON_OF_INCEPTION if network == "inception_v3_tf" else _EPSILON,
    )


def fully_connected(kernel: Tensor, own: str) -> Tensor:
    """Return (in, out) as (out, in); VGG's first comes after a map whose channels are last."""
    if own == "fc6":
        kernel = kernel.reshape(7, 7, 512, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return kernel.T.contiguous()
