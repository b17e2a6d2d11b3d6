"""timm's weights give timm's logits; what they see is read beside them, or assumed and said."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.timm_weights import read_timm
from pipeline.runtime.errors import UserError

# timm's name, this zoo's, and the smallest input.
NETWORKS = [
    ("resnet18", "resnet18", 64),
    ("resnet50", "resnet50_v1_5", 64),
    ("densenet121", "densenet121", 64),
    ("vgg11_bn", "vgg_a_bn", 224),
    ("inception_v3", "inception_v3", 299),
]


def their_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and name.startswith("vgg"):  # lets images through
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):  # more than the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("name", "own", "size"), NETWORKS)
def test_logits_equal_timms(name: str, own: str, size: int, tmp_path: Path) -> None:
    theirs = their_network(name)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = read_timm(tmp_path / "model.safetensors", None)
    assert found.network == own
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        got, expected = found.build()(images), theirs(images)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_checkpoint_of_timms_training_is_read(tmp_path: Path) -> None:
    state = their_network("resnet18").state_dict()
    content = {"state_dict": state, "state_dict_ema": state, "arch": "resnet18", "version": 2}
    torch.save(content, tmp_path / "model_best.pth.tar")
    found = read_timm(tmp_path / "model_best.pth.tar", "resnet18.a1_in1k", ema=True)
    assert found.network == "resnet18"
    assert found.preprocessing == Preprocessing(resize=235, interpolation="bicubic")
    assert "centre 224 of 235, bicubic; declare others" in found.remarks[-1]
    with pytest.raises(UserError, match="timm has no network like 'alexnet'; it has, as here"):
        read_timm(tmp_path / "model_best.pth.tar", "alexnet")


def test_what_the_network_sees_is_read_beside_its_weights(tmp_path: Path) -> None:
    torch.save(their_network("resnet18").state_dict(), tmp_path / "pytorch_model.bin")
    config = tmp_path / "config.json"
    declared = {
        "input_size": [3, 288, 288],
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "interpolation": "lanczos",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    config.write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": declared}))
    found = read_timm(tmp_path / "pytorch_model.bin", None).preprocessing
    assert (found.resize, found.crop, found.squash) == (288, 288, True)
    assert (found.interpolation, found.mean) == ("lanczos", (0.5, 0.5, 0.5))
    config.write_text(json.dumps({"pretrained_cfg": declared | {"interpolation": "random"}}))
    with pytest.raises(UserError, match=r"config\.json: doesn't say.*--preprocessing"):
        read_timm(tmp_path / "pytorch_model.bin", None)
