"""torchvision's weights give torchvision's logits; others are refused by the layer's name."""

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from pipeline.pretrained.torchvision_weights import COUNTERPARTS, from_torchvision, read_torchvision
from pipeline.runtime.errors import UserError

# The smallest input that each family takes; VGG's is fixed.
SIZES = {"resnet": 64, "densenet": 64, "vgg": 224, "inception": 299}
FAST = ["resnet18", "resnet50_v1_5", "densenet121", "vgg_a", "vgg_a_bn", "inception_v3"]


def their_network(name: str, num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" or name.startswith("vgg") else {}
    model: nn.Module = getattr(torchvision.models, COUNTERPARTS[name])(
        num_classes=num_classes, **options
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and name.startswith("vgg"):  # lets images through
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):  # more than the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in COUNTERPARTS],
)
def test_logits_equal_torchvisions(name: str) -> None:
    theirs = their_network(name)
    ours = from_torchvision(name, theirs.state_dict()).build()
    size = next(size for family, size in SIZES.items() if name.startswith(family))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_every_weight_is_loaded(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, COUNTERPARTS[name])
        weights = theirs(**{"init_weights": False} if name == "inception_v3" else {}).state_dict()
        ours = from_torchvision(name, weights).build()
    assert len(ours.state_dict()) == len(weights)
    assert sum(p.numel() for p in ours.parameters()) == sum(
        value.numel()
        for key, value in weights.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_either_format_are_read_in_any_order(tmp_path: Path, suffix: str) -> None:
    weights = their_network("resnet18").state_dict()
    shuffled = {key: weights[key] for key in sorted(weights, reverse=True)}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(shuffled, file)
    else:
        save_file(shuffled, file)
    ours = read_torchvision(file, "resnet18").build().state_dict()
    assert torch.equal(ours["conv5_x.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert torch.equal(
        ours["conv3_x.0.shortcut.1.running_var"], weights["layer2.0.downsample.1.running_var"]
    )


def test_names_in_old_files_of_densenet_are_converted() -> None:
    weights = their_network("densenet121").state_dict()
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in weights.items()
        if not key.endswith("num_batches_tracked")
    }
    assert any(".norm.1." in key for key in old)
    ours = from_torchvision("densenet121", old).build().state_dict()
    theirs = weights["features.denseblock2.denselayer3.norm1.weight"]
    assert torch.equal(ours["block2.2.bn1.weight"], theirs)


def test_torchvisions_names_are_taken_and_said(tmp_path: Path) -> None:
    weights = their_network("resnet50_v1_5").state_dict()
    found = from_torchvision("resnet50", weights)
    assert found.network == "resnet50_v1_5"
    assert found.remarks == (
        "torchvision's resnet50 with the stride in its 3×3 convolutions is resnet50_v1_5 here",
    )
    assert from_torchvision("resnet50_v1_5", weights).remarks == ()
    torch.save({"state_dict": weights, "arch": "mine"}, tmp_path / "own.pth")
    alone = read_torchvision(tmp_path / "own.pth", None)
    assert (alone.network, alone.num_classes) == ("resnet50_v1_5", 5)
    assert alone.remarks == ("own.pth: its layers are those of resnet50_v1_5",)
    with pytest.raises(UserError, match=r"x\.weight …\) are of no network .*--network"):
        from_torchvision(None, {"x.weight": torch.zeros(3)})
    del weights["fc.weight"]
    with pytest.raises(UserError, match=r"fc\.weight is missing, for resnet50_v1_5"):
        from_torchvision("resnet50", weights)


def test_weights_without_the_auxiliary_classifier_are_taken() -> None:
    theirs = their_network("inception_v3")
    kept = {k: v for k, v in theirs.state_dict().items() if not k.startswith("AuxLogits")}
    found = from_torchvision(None, kept)
    assert "auxiliary classifiers" in found.remarks[-1]
    images = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        assert torch.allclose(found.build()(images), theirs(images), atol=1e-4)


def test_weights_that_do_not_fit_are_refused_with_the_layers_name() -> None:
    weights = dict(their_network("resnet18").state_dict())
    another = r"torchvision has no network like .googlenet.; its googlenet has batch norm"
    with pytest.raises(UserError, match=another):
        from_torchvision("googlenet", weights)
    with pytest.raises(UserError, match=r"conv3\.weight is missing.* those of resnet18"):
        from_torchvision("resnet50", weights)
    with pytest.raises(UserError, match=r"layer1\.0\.conv3\.weight is missing"):
        from_torchvision("resnet50_v1_5", weights)
    with pytest.raises(UserError, match=r"weights: layer\S+ has no place"):
        from_torchvision("resnet18", their_network("resnet34").state_dict())
    narrow = weights | {"layer2.0.conv1.weight": torch.zeros(127, 64, 3, 3)}
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight is \(127, 64, 3, 3\), here"):
        from_torchvision("resnet18", narrow)
    for name in ("conv1.weight", "fc.bias"):  # whose shapes tell channels and classes
        standard = weights | {"fc.weight": torch.zeros(1000, 512), name: torch.tensor(1.0)}
        with pytest.raises(UserError, match=rf"weights: {name} is \(\), here"):
            from_torchvision("resnet18", standard)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("content", ["bomb", "list", "text", "nothing"])
def test_a_file_that_is_not_weights_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "weights.pth"
    match content:
        case "bomb":
            file.write_bytes(pickle.dumps(_Bomb()))
        case "list":
            torch.save([torch.zeros(2)], file)
        case "text":
            file.write_text("not weights")
        case "nothing":
            file.touch()
    with pytest.raises(UserError, match=r"weights\.pth: holds no weights"):
        read_torchvision(file, "resnet18")


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: can't be read"):
        read_torchvision(tmp_path / "none.pth", "resnet18")
