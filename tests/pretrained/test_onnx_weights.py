"""Networks in ONNX are recognized by their layers and give onnxruntime's probabilities."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.onnx_weights import read_onnx
from pipeline.runtime.errors import UserError


def randomized(model: nn.Module) -> nn.Module:
    """Return the network, in evaluation mode, with weights that let images through."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def export(model: nn.Module, file: Path, size: int = 64, **options: Any) -> Path:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"verbose": False} | options if options.get("dynamo", True) else options
        torch.onnx.export(model, (torch.zeros(1, 3, size, size),), file, **options)
    return file


def of_torchvision(name: str) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, num_classes=5)
    return randomized(model)


KEPT = {"dynamo": False, "do_constant_folding": False}
KEPT |= {"training": torch.onnx.TrainingMode.PRESERVE}
# What is exported, as what it is recognized, and how: by the exporter of today, which puts weights
# into another file and joins batch norm with convolutions, or by the one before.
EXPORTS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "resnet18": (lambda: of_torchvision("resnet18"), "resnet18", {}),
    "resnet50": (lambda: of_torchvision("resnet50"), "resnet50_v1_5", {"dynamo": False}),
    "densenet121": (lambda: of_torchvision("densenet121"), "densenet121", KEPT),
    "own": (lambda: randomized(NETWORKS["resnet34"](5)), "resnet34", {"dynamo": False}),
    "own kept": (lambda: randomized(NETWORKS["resnet50"](5)), "resnet50", KEPT),
}
LARGE: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "vgg11": (lambda: of_torchvision("vgg11"), "vgg_a", {"dynamo": False}),
    "vgg11_bn": (lambda: of_torchvision("vgg11_bn"), "vgg_a_bn", KEPT),
    "vgg11_bn, joined": (lambda: of_torchvision("vgg11_bn"), "vgg_a", {}),
}


def probabilities(file: Path, images: Tensor) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(file))
    (logits, *_) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits).softmax(1).numpy()


def check(exports: Any, name: str, folder: Path, size: int) -> None:
    build, own, options = exports[name]
    file = export(build(), folder / "network.onnx", size, **options)
    assert Path(f"{file}.data").is_file() == (not options)  # beside it
    found = read_onnx(file, None)
    assert (found.network, found.num_classes) == (own, 5)
    assert f"its layers are those of {own}" in found.remarks[0]
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        got = found.build()(images).softmax(1).numpy()
    assert abs(got - probabilities(file, images)).max() < 1e-4


@pytest.mark.parametrize("name", EXPORTS)
def test_probabilities_equal_onnxruntimes(name: str, tmp_path: Path) -> None:
    check(EXPORTS, name, tmp_path, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_equal_onnxruntime(name: str, tmp_path: Path) -> None:
    check(LARGE, name, tmp_path, 224)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "resnet18.onnx"
    return export(of_torchvision("resnet18"), file, dynamo=False)


def changed(file: Path, copy: Path, change: Callable[[Any], object]) -> Path:
    model = onnx.load(file)
    change(model)
    copy.write_bytes(model.SerializeToString())
    return copy


def test_a_named_network_must_be_the_one(resnet18: Path, tmp_path: Path) -> None:
    assert read_onnx(resnet18, "resnet18").network == "resnet18"
    with pytest.raises(UserError, match=r"20 convolutions and 1 other layers .* of resnet34"):
        read_onnx(resnet18, "resnet34")

    def other_stride(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        next(each for each in node.attribute if each.name == "strides").ints[:] = [1, 1]

    with pytest.raises(UserError, match="not those of any network here"):
        read_onnx(changed(resnet18, tmp_path / "a.onnx", other_stride), None)


def test_what_our_export_says_is_read(tmp_path: Path) -> None:
    """As `ilsvrc export-model` writes it: weights by their own names, metadata in JSON."""
    torch.manual_seed(0)
    network = NETWORKS["lenet5_modern"](7, 1).eval()
    input = {"size": 32, "color": "gray", "mean": [30.0], "std": [70.0]}
    classes = [{"index": index, "name": f"digit {index}"} for index in range(7)]
    metadata = {
        "network": "lenet5_modern", "input": json.dumps(input), "protocol": "whole",
        "classes": json.dumps(classes),
    }  # fmt: skip
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["images"], ["logits"])],
            "network",
            [onnx.helper.make_tensor_value_info("images", 1, None)],
            [onnx.helper.make_tensor_value_info("logits", 1, None)],
            [onnx.numpy_helper.from_array(v.numpy(), k) for k, v in network.state_dict().items()],
        )
    )
    onnx.helper.set_model_props(model, metadata)
    (tmp_path / "own.onnx").write_bytes(model.SerializeToString())
    found = read_onnx(tmp_path / "own.onnx", None)
    assert found.remarks == ("own.onnx: exported from lenet5_modern",)
    assert (found.num_classes, found.num_channels) == (7, 1)
    assert all(torch.equal(found.weights[k], v) for k, v in network.state_dict().items())
    shown = found.preprocessing
    assert (shown.crop, shown.resize, shown.squash, shown.colors) == (32, 32, True, "gray")
    assert shown.input.mean == (30.0,)
    assert [each.name for each in found.classes] == [f"digit {index}" for index in range(7)]
    for wrong, message in (
        (json.dumps(classes[1:]), "names 6 classes, but its network tells 7"),
        ("[3]", "classes are no list of classes"),
    ):
        onnx.helper.set_model_props(model, metadata | {"classes": wrong})
        (tmp_path / "own.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=message):
            read_onnx(tmp_path / "own.onnx", None)
    onnx.helper.set_model_props(model, metadata | {"input": "[1"})
    (tmp_path / "own.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="isn't JSON"):
        read_onnx(tmp_path / "own.onnx", None)


def conv_weight(model: Any) -> Any:
    return max(model.graph.initializer, key=lambda each: len(each.raw_data))


def outside(location: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        weight = conv_weight(model)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(1 << 40))):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return change


def claim_more(model: Any) -> None:
    conv_weight(model).dims[:] = [1 << 20, 1 << 20, 3, 3]


def computed_weights(model: Any) -> None:
    weight = conv_weight(model)
    model.graph.node.insert(0, onnx.helper.make_node("Abs", [weight.name], ["computed"]))
    node = next(node for node in model.graph.node if weight.name in node.input[1:])
    node.input[1] = "computed"


def other_operation(model: Any) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "a file elsewhere": (outside("/etc/hostname"), "which is no file in its folder"),
    "a file above": (outside("../secret"), "which is no file in its folder"),
    "a link": (outside("link"), "which is no file in its folder"),
    "a short file beside": (outside("short"), "can't be read"),
    "more than there is": (claim_more, "can't be read"),
    "computed weights": (computed_weights, r"Abs \(computed\)|has weights that are computed"),
    "another operation": (other_operation, r"its Sigmoid \(\S+\) is in no network"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files_are_refused_in_one_line(fault: str, resnet18: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 100)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "short").write_bytes(b"\0" * 100)
    change, message = HOSTILE[fault]
    with pytest.raises(UserError, match=message) as raised:
        read_onnx(changed(resnet18, folder / "hostile.onnx", change), "resnet18")
    assert "\n" not in str(raised.value)


def test_a_graph_that_doubles_in_every_node_is_refused(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Concat", [f"x{i}", f"x{i}"], [f"x{i + 1}"], axis=1)
        for i in range(60)
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x0", 1, None)], [value("x60", 1, None)])
    file = tmp_path / "doubling.onnx"
    file.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match=r"its Concat \(x\d+\) joins too many parts"):
        read_onnx(file, None)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07", b"\xff" * 50])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"other\.onnx: is no ONNX file"):
        read_onnx(tmp_path / "other.onnx", None)
