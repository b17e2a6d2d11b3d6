"""Random networks as Caffe's users write them: the prototxt, and the weights in a caffemodel.

Written from the released prototxts, and by protobuf's own library, with nothing of the package.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cv2
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass
class Layer:
    """A layer; `parameters` are those of its `section`, as `kernel_size: 3`."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    section: str = ""
    parameters: dict[str, float] = field(default_factory=dict)
    blobs: list[Array] = field(default_factory=list)


class Network:
    """Layers one after another, with random weights that keep the size of what passes."""

    def __init__(self, size: int, num_classes: int = 10) -> None:
        self.size = size
        self.num_classes = num_classes
        self.layers: list[Layer] = []
        self.random = np.random.default_rng(0)
        self.top, self.channels = "data", {"data": 3}

    def add(
        self,
        name: str,
        type: str,
        bottoms: Sequence[str] = (),
        channels: int = 0,
        in_place: bool = False,
        section: str = "",
        blobs: Iterable[Array] = (),
        **parameters: float,
    ) -> str:
        bottoms = tuple(bottoms) or (self.top,)
        self.top = bottoms[0] if in_place else name
        self.channels[self.top] = channels or self.channels[bottoms[0]]
        self.layers.append(Layer(name, type, bottoms, self.top, section, parameters, list(blobs)))
        return self.top

    def convolution(
        self,
        name: str,
        channels: int,
        kernel: int,
        bottom: str = "",
        bias: bool = True,
        **more: int,
    ) -> str:
        bottom = bottom or self.top
        wide = self.channels[bottom] // more.get("group", 1)
        weight = self.normal((channels, wide, kernel, kernel), np.sqrt(2 / (wide * kernel**2)))
        blobs = [weight, self.normal((channels,), 0.1)][: 1 + bias]
        return self.add(
            name, "Convolution", [bottom], channels, section="convolution_param", blobs=blobs,
            num_output=channels, kernel_size=kernel, **more, **({} if bias else {"bias_term": 0}),
        )  # fmt: skip

    def linear(self, name: str, inputs: int, outputs: int, bottom: str = "") -> str:
        blobs = [self.normal((outputs, inputs), np.sqrt(2 / inputs)), self.normal((outputs,), 0.1)]
        return self.add(
            name, "InnerProduct", [bottom or self.top], outputs,
            section="inner_product_param", blobs=blobs, num_output=outputs,
        )  # fmt: skip

    def relu(self, name: str) -> str:
        return self.add(name, "ReLU", in_place=True)

    def pool(self, name: str, kernel: int, stride: int, bottom: str = "", **more: int) -> str:
        return self.add(
            name, "Pooling", [bottom or self.top], section="pooling_param",
            kernel_size=kernel, stride=stride, **{"pool": 0, **more},
        )  # fmt: skip

    def response_norm(self, name: str) -> str:
        return self.add(name, "LRN", section="lrn_param", local_size=5, alpha=1e-4, beta=0.75)

    def batch_norm(self, name: str, scale: str, gain: float = 1.0, *, in_place: bool = True) -> str:
        channels, total = self.channels[self.top], np.float32(1.7)
        statistics = [self.normal((channels,), 0.2) * total, self.uniform(channels) * total]
        self.add(name, "BatchNorm", in_place=in_place, section="batch_norm_param",
                 blobs=[*statistics, np.array([total])], use_global_stats=1)  # fmt: skip
        blobs = [gain * self.uniform(channels), self.normal((channels,), 0.1)]
        return self.add(
            scale, "Scale", in_place=True, section="scale_param", blobs=blobs, bias_term=1
        )

    def normal(self, shape: tuple[int, ...], std: float) -> Array:
        return self.random.standard_normal(shape, np.float32) * np.float32(std)

    def uniform(self, count: int) -> Array:
        return self.random.uniform(0.5, 1.0, count).astype(np.float32)

    def prototxt(self) -> str:
        lines = [
            f'input: "data" input_dim: 1 input_dim: 3 input_dim: {self.size} input_dim: {self.size}'
        ]
        for layer in self.layers:
            bottoms = "".join(f'bottom: "{bottom}" ' for bottom in layer.bottoms)
            lines.append(
                f'layer {{ name: "{layer.name}" type: "{layer.type}" {bottoms}top: "{layer.top}" '
                f"{_section(layer)} }}"
            )
        lines.append(f'layer {{ name: "prob" type: "Softmax" bottom: "{self.top}" top: "prob" }}')
        return "\n".join(lines)

    def caffemodel(self, *, v1: bool = False, weights_only: bool = False) -> bytes:
        """Return the file's bytes; in the older form with `v1`."""
        messages = _messages()
        net = messages["NetParameter"](name="random")
        for layer in self.layers:
            if weights_only and not layer.blobs:
                continue
            if v1:
                each = net.layers.add(name=layer.name, type=_V1_TYPES.get(layer.type, 0))
            else:
                each = net.layer.add(
                    name=layer.name, type=layer.type, bottom=layer.bottoms, top=[layer.top]
                )
            if layer.section and hasattr(each, layer.section):
                for key, value in layer.parameters.items():
                    place = getattr(each, layer.section)
                    if key in ("pad", "kernel_size", "stride") and layer.type == "Convolution":
                        getattr(place, key).append(int(value))
                    elif hasattr(place, key):
                        setattr(place, key, value)
            for blob in layer.blobs:
                added = each.blobs.add(data=blob.tobytes())
                if v1:
                    sides = (1,) * (4 - blob.ndim) + blob.shape
                    added.num, added.channels, added.height, added.width = sides
                else:
                    added.shape.dim.extend(blob.shape)
        return net.SerializeToString()

    def images(self) -> Array:
        """Return two unlike images of noise, (2, 3, h, w), blue first."""
        images = np.random.default_rng(1).standard_normal((2, 3, self.size, self.size), np.float32)
        images[1] += np.array([2, 0, -2], np.float32).reshape(3, 1, 1)
        return images

    def probabilities(self, images: Array) -> Array:
        """Return what OpenCV computes for images (n, 3, h, w), blue first."""
        files = self.prototxt().encode(), self.caffemodel()
        network = cv2.dnn.readNetFromCaffe(*(np.frombuffer(file, np.uint8) for file in files))
        outputs = []
        for image in images:
            network.setInput(image[None])
            outputs.append(network.forward().reshape(-1).copy())
        return np.stack(outputs)


def alexnet(*, pool_first: bool = False) -> Network:
    """bvlc_alexnet, or bvlc_reference_caffenet."""
    net = Network(227)
    net.convolution("conv1", 96, 11, stride=4)
    net.relu("relu1")
    _norm_and_pool(net, "1", pool_first)
    net.convolution("conv2", 256, 5, pad=2, group=2)
    net.relu("relu2")
    _norm_and_pool(net, "2", pool_first)
    net.convolution("conv3", 384, 3, pad=1)
    net.relu("relu3")
    net.convolution("conv4", 384, 3, pad=1, group=2)
    net.relu("relu4")
    net.convolution("conv5", 256, 3, pad=1, group=2)
    net.relu("relu5")
    net.pool("pool5", 3, 2)
    _three_linear(net, 256 * 6 * 6)
    return net


def vgg16() -> Network:
    """VGG_ILSVRC_16_layers."""
    net = Network(224)
    for block, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for place in range(1, count + 1):
            net.convolution(f"conv{block}_{place}", channels, 3, pad=1)
            net.relu(f"relu{block}_{place}")
        net.pool(f"pool{block}", 2, 2)
    _three_linear(net, 512 * 7 * 7)
    return net


def googlenet() -> Network:
    """bvlc_googlenet, as it was trained: with its two auxiliary classifiers' weights."""
    net = Network(224)
    net.convolution("conv1/7x7_s2", 64, 7, pad=3, stride=2)
    net.relu("conv1/relu_7x7")
    net.pool("pool1/3x3_s2", 3, 2)
    net.response_norm("pool1/norm1")
    net.convolution("conv2/3x3_reduce", 64, 1)
    net.relu("conv2/relu_3x3_reduce")
    net.convolution("conv2/3x3", 192, 3, pad=1)
    net.relu("conv2/relu_3x3")
    net.response_norm("conv2/norm2")
    net.pool("pool2/3x3_s2", 3, 2)
    _inception(net, "inception_3a", 64, 96, 128, 16, 32, 32)
    _inception(net, "inception_3b", 128, 128, 192, 32, 96, 64)
    net.pool("pool3/3x3_s2", 3, 2)
    _inception(net, "inception_4a", 192, 96, 208, 16, 48, 64)
    _inception(net, "inception_4b", 160, 112, 224, 24, 64, 64)
    _inception(net, "inception_4c", 128, 128, 256, 24, 64, 64)
    _inception(net, "inception_4d", 112, 144, 288, 32, 64, 64)
    _inception(net, "inception_4e", 256, 160, 320, 32, 128, 128)
    net.pool("pool4/3x3_s2", 3, 2)
    _inception(net, "inception_5a", 256, 160, 320, 32, 128, 128)
    _inception(net, "inception_5b", 384, 192, 384, 48, 128, 128)
    net.pool("pool5/7x7_s1", 7, 1, pool=1)
    net.linear("loss3/classifier", 1024, net.num_classes)
    return net


def resnet(depth: int) -> Network:
    """ResNet-50, 101 or 152 of He et al."""
    net = Network(224)
    net.convolution("conv1", 64, 7, pad=3, stride=2, bias=depth == 50)
    net.batch_norm("bn_conv1", "scale_conv1")
    net.relu("conv1_relu")
    net.pool("pool1", 3, 2)
    counts = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    for stage, count in enumerate(counts, 2):
        for block in range(count):
            letter = chr(ord("a") + block)
            if depth > 50 and stage in (3, 4) and block:
                letter = f"b{block}"
            width, gain = 64 * 2 ** (stage - 2), 5 / sum(counts)  # or the sums grow with the depth
            _bottleneck(net, f"{stage}{letter}", width, stage, gain, first=block == 0)
    net.pool("pool5", 7, 1, pool=1)
    net.linear("fc1000", 2048, net.num_classes)
    return net


def densenet121() -> Network:
    """DenseNet-Caffe's, whose pools round down and whose last layer is a convolution."""
    net, growth = Network(224), 32
    net.convolution("conv1", 64, 7, pad=3, stride=2, bias=False)
    net.batch_norm("conv1/bn", "conv1/scale")
    net.relu("relu1")
    net.pool("pool1", 3, 2, pad=1, ceil_mode=0)
    for stage, count in enumerate((6, 12, 24, 16), 2):
        for number in range(1, count + 1):
            before, name = net.top, f"conv{stage}_{number}"
            _norm_relu_convolution(net, f"{name}/x1", 4 * growth, 1)
            _norm_relu_convolution(net, f"{name}/x2", growth, 3)
            channels = net.channels[before] + growth
            net.add(f"concat_{stage}_{number}", "Concat", [before, net.top], channels)
        if stage < 5:
            _norm_relu_convolution(net, f"conv{stage}_blk", net.channels[net.top] // 2, 1)
            net.pool(f"pool{stage}", 2, 2, pool=1)
    net.batch_norm("conv5_blk/bn", "conv5_blk/scale", in_place=False)
    net.relu("relu5_blk")
    net.pool("pool5", 7, 1, pool=1)
    net.convolution("fc6", net.num_classes, 1)
    return net


def _norm_relu_convolution(net: Network, name: str, channels: int, kernel: int) -> None:
    net.batch_norm(f"{name}/bn", f"{name}/scale", in_place=False)
    net.relu(f"relu_{name}")
    net.convolution(name, channels, kernel, bias=False, pad=kernel // 2)


def _bottleneck(
    net: Network, name: str, width: int, stage: int, gain: float, *, first: bool
) -> None:
    bottom = shortcut = net.top
    stride = 2 if first and stage > 2 else 1
    if first:
        shortcut = net.convolution(f"res{name}_branch1", 4 * width, 1, bias=False, stride=stride)
        net.batch_norm(f"bn{name}_branch1", f"scale{name}_branch1")
    for part, channels, kernel in (("2a", width, 1), ("2b", width, 3), ("2c", 4 * width, 1)):
        net.convolution(
            f"res{name}_branch{part}", channels, kernel, bottom if part == "2a" else "", bias=False,
            stride=stride if part == "2a" else 1, pad=kernel // 2,
        )  # fmt: skip
        norm = f"bn{name}_branch{part}", f"scale{name}_branch{part}"
        net.batch_norm(*norm, gain if part == "2c" else 1.0)
        if part != "2c":
            net.relu(f"res{name}_branch{part}_relu")
    net.add(f"res{name}", "Eltwise", [shortcut, net.top])
    net.relu(f"res{name}_relu")


def _inception(
    net: Network, name: str, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
) -> None:
    bottom, tops = net.top, []
    for parts in (
        [("1x1", one, 1)],
        [("3x3_reduce", reduce3, 1), ("3x3", three, 3)],
        [("5x5_reduce", reduce5, 1), ("5x5", five, 5)],
        [("pool", 0, 0), ("pool_proj", pool, 1)],
    ):
        top = bottom
        for part, channels, kernel in parts:
            if not kernel:
                top = net.pool(f"{name}/pool", 3, 1, top, pad=1)
                continue
            net.convolution(f"{name}/{part}", channels, kernel, top, pad=kernel // 2)
            top = net.relu(f"{name}/relu_{part}")
        tops.append(top)
    net.add(f"{name}/output", "Concat", tops, one + three + five + pool)


def _norm_and_pool(net: Network, number: str, pool_first: bool) -> None:
    steps: list[Callable[[], str]] = [
        lambda: net.response_norm(f"norm{number}"),
        lambda: net.pool(f"pool{number}", 3, 2),
    ]
    for step in reversed(steps) if pool_first else steps:
        step()


def _three_linear(net: Network, inputs: int) -> None:
    net.linear("fc6", inputs, 4096)
    net.relu("relu6")
    net.linear("fc7", 4096, 4096)
    net.relu("relu7")
    net.linear("fc8", 4096, net.num_classes)


def _section(layer: Layer) -> str:
    words = {
        "pool": ("MAX", "AVE"),
        "bias_term": ("false", "true"),
        "ceil_mode": ("false", "true"),
        "use_global_stats": ("", "true"),
    }
    parts = [
        f"{key}: {words[key][int(value)] if key in words else value}"
        for key, value in layer.parameters.items()
    ]
    return f"{layer.section} {{ {' '.join(parts)} }}" if layer.section else ""


_V1_TYPES = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18}

# name, number, type; `data` is declared as bytes, which lie in a file as packed floats do.
_FIELDS = {
    "BlobShape": "dim*:1:int64",
    "BlobProto": "num:1:int32 channels:2:int32 height:3:int32 width:4:int32 data:5:bytes "
    "shape:7:BlobShape double_data:8:bytes",
    "ConvolutionParameter": "num_output:1:uint32 bias_term:2:bool pad*:3:uint32 "
    "kernel_size*:4:uint32 group:5:uint32 stride*:6:uint32",
    "PoolingParameter": "pool:1:int32 kernel_size:2:uint32 stride:3:uint32 pad:4:uint32",
    "LRNParameter": "local_size:1:uint32 alpha:2:float beta:3:float",
    "BatchNormParameter": "use_global_stats:1:bool eps:3:float",
    "LayerParameter": "name:1:string type:2:string bottom*:3:string top*:4:string "
    "blobs*:7:BlobProto convolution_param:106:ConvolutionParameter "
    "pooling_param:121:PoolingParameter lrn_param:118:LRNParameter "
    "batch_norm_param:139:BatchNormParameter",
    "V1LayerParameter": "name:4:string type:5:int32 blobs*:6:BlobProto "
    "convolution_param:10:ConvolutionParameter pooling_param:19:PoolingParameter "
    "lrn_param:18:LRNParameter",
    "NetParameter": "name:1:string layers*:2:V1LayerParameter layer*:100:LayerParameter",
}


@cache
def _messages() -> dict[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_of_tests.proto", package="caffe_of_tests")
    for name, declared in _FIELDS.items():
        message = file.message_type.add(name=name)
        for each in declared.split():
            key, number, kind = each.split(":")
            added = message.field.add(name=key.rstrip("*"), number=int(number))
            added.label = kinds.LABEL_REPEATED if key.endswith("*") else kinds.LABEL_OPTIONAL
            if kind in _FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".caffe_of_tests.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_of_tests.{name}"))
        for name in _FIELDS
    }
