"""Load the networks that were released for Caffe: BVLC's, VGG's, He's, and DenseNet-Caffe.

Their first convolutions take blue first; they are turned to take red first, as all of the zoo.
Caffe pools round up, as in the zoo's forms of these networks; those of DenseNet-Caffe, which are
Torch7's converted, round down.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.pretrained.caffe_model import CaffeLayer, read_caffemodel
from pipeline.pretrained.layer_matching import FileLayer, Place, matched, with_red_first
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.runtime.errors import UserError

_GOOGLENET = {
    "conv1.conv": "conv1/7x7_s2",
    "conv2_reduce.conv": "conv2/3x3_reduce",
    "conv2.conv": "conv2/3x3",
    "fc": "loss3/classifier",
}
_INCEPTION = {
    "conv1x1": "1x1",
    "reduce3x3": "3x3_reduce",
    "conv3x3": "3x3",
    "reduce5x5": "5x5_reduce",
    "conv5x5": "5x5",
    "pool_proj": "pool_proj",
}
_LOSS = {"conv.conv": "conv", "fc1": "fc", "fc2": "classifier"}


def googlenet_place(name: str) -> str:
    """`inception_3a.conv1x1.conv` is `inception_3a/1x1` in bvlc_googlenet."""
    if found := re.fullmatch(r"(inception_\w+)\.(\w+)\.conv", name):
        return f"{found[1]}/{_INCEPTION[found[2]]}"
    if found := re.fullmatch(r"auxiliary(\d)\.(.+)", name):
        return f"loss{found[1]}/{_LOSS[found[2]]}"
    return _GOOGLENET[name]


def resnet_place(name: str, numbered: tuple[str, ...] = ()) -> str:
    """`conv3_x.1.conv2` is `res3b_branch2b`; in `numbered` stages, `res3b1_branch2b`."""
    found = re.fullmatch(r"conv(\d)_x\.(\d+)\.(conv|bn|shortcut\.)(\d)", name)
    if not found:
        return {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}[name]
    stage, block, kind, number = found.groups()
    letter = f"b{block}" if stage in numbered and block != "0" else chr(ord("a") + int(block))
    if kind == "shortcut.":
        return f"{('res', 'bn')[int(number)]}{stage}{letter}_branch1"
    return f"{'res' if kind == 'conv' else 'bn'}{stage}{letter}_branch2{'_abc'[int(number)]}"


def densenet_place(name: str) -> str:
    """`block1.0.conv2` is `conv2_1/x2` in DenseNet-Caffe, `transition1.bn` is `conv2_blk/bn`."""
    if found := re.fullmatch(r"block(\d)\.(\d+)\.(conv|bn)(\d)", name):
        block, layer, kind, part = found.groups()
        return f"conv{int(block) + 1}_{int(layer) + 1}/x{part}" + "/bn" * (kind == "bn")
    if found := re.fullmatch(r"transition(\d)\.(conv|bn)", name):
        return f"conv{int(found[1]) + 1}_blk" + "/bn" * (found[2] == "bn")
    return {"conv0": "conv1", "bn0": "conv1/bn", "bn5": "conv5_blk/bn", "fc": "fc6"}[name]


PLACES: dict[str, Place] = {
    "alexnet_caffe": str,
    "caffenet": str,
    "vgg16": str,
    "vgg19": str,
    "vgg_a": str,
    "vgg_b": str,
    "vgg_c": str,
    "googlenet": googlenet_place,
    "resnet50_caffe": resnet_place,
    "resnet101_caffe": partial(resnet_place, numbered=("3", "4")),
    "resnet152_caffe": partial(resnet_place, numbered=("3", "4")),
    "densenet121": densenet_place,
    "densenet169": densenet_place,
    "densenet201": densenet_place,
    "densenet161": densenet_place,
}

# Of red, green and blue, in grey levels: the means over the pixels of imagenet_mean.binaryproto,
# which Caffe's own examples of classification subtract; those of VGG's readme, which Keras takes
# for He's networks too; those of bvlc_googlenet's transform_param; and of DenseNet-Caffe's readme,
# which multiplies by 0.017.
_MEAN_OF_IMAGE = (122.679, 116.669, 104.007)
_VGG_MEAN = (123.68, 116.779, 103.939)
_GOOGLENET_MEAN = (123.0, 117.0, 104.0)
_DENSENET_MEAN, _DENSENET_STD = (123.68, 116.78, 103.94), 1 / 0.017
_ONES = (1.0, 1.0, 1.0)
_MEAN_REMARK = "The mean image is replaced by its mean over the pixels, a value a channel."


def preprocessing_of(network: str) -> Preprocessing:
    """Return what the released network was tested on."""
    if network in ("alexnet_caffe", "caffenet"):
        return Preprocessing(
            mean=_MEAN_OF_IMAGE, std=_ONES, value_range=255, resize=256, crop=227, squash=True
        )
    if network == "googlenet":
        return Preprocessing(mean=_GOOGLENET_MEAN, std=_ONES, value_range=255, squash=True)
    if network.startswith("densenet"):
        return Preprocessing(mean=_DENSENET_MEAN, std=(_DENSENET_STD,) * 3, value_range=255)
    return Preprocessing(mean=_VGG_MEAN, std=_ONES, value_range=255)


def read_caffe(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read a `.caffemodel`; see `formats.PretrainedReader`. Such files have no moving average."""
    if ema:
        raise UserError(f"{file}: a caffemodel has no moving average of weights; leave out --ema")
    layers = with_red_first(list(_file_layers(read_caffemodel(file), str(file))))
    read = matched(str(file), layers, PLACES, network, preprocessing_of)
    remarks = ["The first convolution takes BGR in the file; it was turned to RGB."]
    if read.network.startswith(("alexnet", "caffenet", "resnet")):
        remarks.append(_MEAN_REMARK)
    return replace(read, remarks=(*remarks, *read.remarks))


def _file_layers(layers: list[CaffeLayer], file: str) -> Iterator[FileLayer]:
    """Return the layers that compute with weights, pool, or normalize, in their order."""
    norm: CaffeLayer | None = None
    for layer in layers:
        stated = layer.parameters
        match layer.type:
            case "Convolution" if layer.blobs:
                yield FileLayer(
                    layer.name,
                    "convolution",
                    *_weight_and_bias(layer, 4),
                    settings=_convolution(stated),
                )
            case "InnerProduct" if layer.blobs:
                yield FileLayer(layer.name, "linear", *_weight_and_bias(layer, 2))
            case "Pooling":
                yield FileLayer(layer.name, "pooling", settings=_pooling(stated))
            case "LRN":
                settings = {
                    "size": int(stated.get("local_size", 5)),
                    "alpha": float(stated.get("alpha", 1)),
                    "k": float(stated.get("k", 1)),
                }
                yield FileLayer(layer.name, "response norm", settings=settings)
            case "BatchNorm":
                norm = layer
            case "Scale" if layer.blobs:
                if norm is None or len(norm.blobs) != 3 or norm.blobs[2].size != 1:
                    raise UserError(f"{file}: {layer.name} follows no batch norm with statistics")
                yield _norm(norm, layer)
                norm = None


def _weight_and_bias(
    layer: CaffeLayer, dimensions: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the arrays without the sides of 1 that the older form puts first."""
    weight, *biases = layer.blobs
    while weight.ndim > dimensions and weight.shape[0] == 1:
        weight = weight[0]
    return weight, biases[0].reshape(-1) if biases else None


def _norm(norm: CaffeLayer, scale: CaffeLayer) -> FileLayer:
    """Join BatchNorm, whose third array is the weight that its statistics sum over, and Scale."""
    mean, variance, total = norm.blobs
    gamma, *beta = scale.blobs
    return FileLayer(
        norm.name,
        "norm",
        weight=gamma.reshape(-1),
        bias=beta[0].reshape(-1) if beta else None,
        mean=mean.reshape(-1),
        variance=variance.reshape(-1),
        factor=1 / float(total.flat[0]) if total.any() else 0.0,
        eps=float(norm.parameters.get("eps", 1e-5)),
    )


def _convolution(stated: Mapping[str, float]) -> dict[str, object]:
    return {
        "stride": _sides(stated, "stride", 1),
        "padding": _sides(stated, "pad", 0),
        "groups": int(stated.get("group", 1)),
    }


def _pooling(stated: Mapping[str, float]) -> dict[str, object]:
    if stated.get("global_pooling"):
        return {}
    return {"kernel": _sides(stated, "kernel", 1), "stride": _sides(stated, "stride", 1)}


def _sides(stated: Mapping[str, float], name: str, default: int) -> tuple[int, int]:
    both = stated.get(name, stated.get(f"{name}_size", default))
    return int(stated.get(f"{name}_h", both)), int(stated.get(f"{name}_w", both))
