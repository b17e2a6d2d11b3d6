"""Random networks of fb.resnet.torch and of DenseNet's authors, as `torch.save` writes them."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Writer:
    """Writes objects as Torch7's `File:writeObject`; each module has a number of its own."""

    def __init__(self, type: str = "Float") -> None:
        self.type = type
        self.parts: list[bytes] = []
        self.count = 0

    @property
    def content(self) -> bytes:
        return b"".join(self.parts)

    def write(self, value: Any) -> None:
        match value:
            case None:
                self.pack("<i", 0)
            case bool():
                self.pack("<ii", 5, value)
            case int() | float():
                self.pack("<id", 1, value)
            case str():
                self.pack("<i", 2)
                self.text(value)
            case dict():
                self.pack("<iii", 3, self.number(), len(value))
                for key, each in value.items():
                    self.write(key)
                    self.write(each)
            case list() as sizes:
                self.head("torch.LongStorage")
                self.pack(f"<{1 + len(sizes)}q", len(sizes), *sizes)
            case np.ndarray():
                self.tensor(value)
            case (str() as kind, dict() as fields):
                self.head(kind)
                self.write(fields)
            case _:
                raise TypeError(type(value))

    def tensor(self, values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values, {"Double": "<f8"}.get(self.type, "<f4"))
        strides = [step // values.itemsize for step in values.strides]
        self.head(f"torch.{self.type}Tensor")
        self.pack(f"<i{2 * values.ndim}qq", values.ndim, *values.shape, *strides, 1)
        self.head(f"torch.{self.type}Storage")
        self.pack("<q", values.size)
        self.parts.append(values.tobytes())

    def head(self, kind: str) -> None:
        self.pack("<ii", 4, self.number())
        self.text("V 1")
        self.text(kind)

    def number(self) -> int:
        self.count += 1
        return self.count

    def text(self, value: str) -> None:
        self.pack("<i", len(value))
        self.parts.append(value.encode())

    def pack(self, format: str, *values: Any) -> None:
        self.parts.append(struct.pack(format, *values))


Module = tuple[str, dict[str, Any]]


class Maker:
    """Makes modules with random weights that keep the size of what passes."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def convolution(self, n: int, m: int, kernel: int, stride: int = 1, padding: int = 0) -> Module:
        weight = self.normal((m, n, kernel, kernel), np.sqrt(2 / (n * kernel**2)))
        sides = {"kW": kernel, "kH": kernel, "dW": stride, "dH": stride}
        sides |= {"padW": padding, "padH": padding}
        planes = {"nInputPlane": n, "nOutputPlane": m}
        return "nn.SpatialConvolution", {**planes, **sides, "weight": weight}

    def norm(self, n: int, gain: float = 1.0) -> Module:
        fields: dict[str, Any] = {"nOutput": n, "eps": 1e-5, "momentum": 0.1, "affine": True}
        fields |= {"weight": gain * self.uniform(n), "bias": self.normal((n,), 0.1)}
        fields |= {"running_mean": self.normal((n,), 0.2), "running_var": self.uniform(n)}
        return "nn.SpatialBatchNormalization", fields

    def linear(self, n: int, m: int) -> Module:
        weight = self.normal((m, n), np.sqrt(2 / n))
        return "nn.Linear", {"weight": weight, "bias": self.normal((m,), 0.1)}

    def normal(self, shape: tuple[int, ...], std: float) -> NDArray[Any]:
        return self.random.standard_normal(shape, np.float32) * np.float32(std)

    def uniform(self, count: int) -> NDArray[Any]:
        return self.random.uniform(0.5, 1.0, count).astype(np.float32)


RELU: Module = ("nn.ReLU", {"inplace": True})
IDENTITY: Module = ("nn.Identity", {})


def pool(kind: str, kernel: int, stride: int, padding: int = 0) -> Module:
    fields = {"kW": kernel, "kH": kernel, "dW": stride, "dH": stride}
    fields |= {"padW": padding, "padH": padding}
    return f"nn.Spatial{kind}Pooling", {**fields, "ceil_mode": False}


def view(channels: int) -> Module:
    return "nn.View", {"size": [channels], "numElements": channels, "numInputDims": 3}


def container(kind: str, *modules: Module, **fields: Any) -> Module:
    return f"nn.{kind}", {"modules": dict(enumerate(modules, 1)), **fields}


def resnet(depth: int, num_classes: int = 10) -> Module:
    """Of fb.resnet.torch: shortcuts of type B, the stride of bottlenecks in the 3×3."""
    make, counts = Maker(), {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    channels, gain = 64, 5 / sum(counts)
    modules = [make.convolution(3, 64, 7, 2, 3), make.norm(64), RELU, pool("Max", 3, 2, 1)]
    block = _basic if depth < 50 else _bottleneck
    for stage, count in enumerate(counts):
        blocks = []
        for place in range(count):
            stride = 2 if stage and not place else 1
            blocks.append(block(make, channels, 64 * 2**stage, stride, gain))
            channels = 64 * 2**stage * (1 if depth < 50 else 4)
        modules.append(container("Sequential", *blocks))
    modules += [pool("Average", 7, 1), view(channels)]
    return container("Sequential", *modules, make.linear(channels, num_classes))


def densenet121(num_classes: int = 10) -> Module:
    make, growth, channels = Maker(), 32, 64
    modules = [make.convolution(3, 64, 7, 2, 3), make.norm(64), RELU, pool("Max", 3, 2, 1)]
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            layer = container(
                "Sequential",
                *(make.norm(channels), RELU, make.convolution(channels, 4 * growth, 1)),
                *(make.norm(4 * growth), RELU, make.convolution(4 * growth, growth, 3, 1, 1)),
            )
            modules.append(container("Concat", IDENTITY, layer, dimension=2))
            channels += growth
        modules += [make.norm(channels), RELU]
        if stage < 3:
            modules += [make.convolution(channels, channels // 2, 1), pool("Average", 2, 2)]
            channels //= 2
    modules += [pool("Average", 7, 1), view(channels)]
    return container("Sequential", *modules, make.linear(channels, num_classes))


NETWORKS: dict[str, Callable[[], Module]] = {
    "resnet18": lambda: resnet(18),
    "resnet50_v1_5": lambda: resnet(50),
    "densenet121": densenet121,
}


def _basic(make: Maker, n: int, width: int, stride: int, gain: float) -> Module:
    first = make.convolution(n, width, 3, stride, 1), make.norm(width), RELU
    second = make.convolution(width, width, 3, 1, 1), make.norm(width, gain)
    return _residual(make, (*first, *second), n, width, stride)


def _bottleneck(make: Maker, n: int, width: int, stride: int, gain: float) -> Module:
    first = make.convolution(n, width, 1), make.norm(width), RELU
    second = make.convolution(width, width, 3, stride, 1), make.norm(width), RELU
    third = make.convolution(width, 4 * width, 1), make.norm(4 * width, gain)
    return _residual(make, (*first, *second, *third), n, 4 * width, stride)


def _residual(make: Maker, inner: tuple[Module, ...], n: int, m: int, stride: int) -> Module:
    shortcut = IDENTITY
    if n != m or stride > 1:
        shortcut = container("Sequential", make.convolution(n, m, 1, stride), make.norm(m))
    both = container("ConcatTable", container("Sequential", *inner), shortcut)
    return container("Sequential", both, ("nn.CAddTable", {"inplace": True}), RELU)
