"""Weights are found in what training scripts save; hostile files run nothing and stay small."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.models.weights_file import read_saved_weights, read_weights
from pipeline.runtime.errors import UserError

PLAIN = {"conv1.weight": torch.ones(2, 1), "fc.bias": torch.arange(2.0)}
AVERAGE = {key: value + 1 for key, value in PLAIN.items()}


def under(prefix: str, weights: dict[str, Tensor] = PLAIN) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in weights.items()}


def averaged_model() -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(3), **under("module.", AVERAGE)}


class Schedule:
    """An object of a training script, which no reader knows."""

    def __init__(self) -> None:
        self.rate = 0.1


CHECKPOINTS: dict[str, Any] = {
    "plain": PLAIN,
    "ddp": under("module."),
    "compiled": under("_orig_mod."),
    "compiled in ddp": under("module._orig_mod."),
    "ddp in compiled": under("_orig_mod.module."),
    "compiled layer": {
        "conv1._orig_mod.weight": PLAIN["conv1.weight"],
        "fc.bias": PLAIN["fc.bias"],
    },
    "fsdp": under("_fsdp_wrapped_module."),
    "pytorch/examples": {
        "epoch": 90,
        "arch": "resnet18",
        "state_dict": under("module."),
        "best_acc1": torch.tensor(69.7),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "torchvision": {
        "model": OrderedDict(PLAIN),
        "args": argparse.Namespace(lr=0.1, output=Path("out")),
        "model_ema": averaged_model(),
    },
    "timm": {"state_dict": PLAIN, "state_dict_ema": AVERAGE, "args": argparse.Namespace(lr=1)},
    "lightning": {"state_dict": under("model."), "pytorch-lightning_version": "2.0"},
    "lightning, compiled": {"state_dict": under("model._orig_mod.")},
    "lightning with more": {
        "state_dict": {
            **under("model."),
            **under("ema_model.", AVERAGE),
            "criterion.weight": torch.ones(2),
        }
    },
    "strange objects": {
        "model": PLAIN,
        "schedule": Schedule(),
        "best": __import__("numpy").float64(0.5),
        "more": defaultdict(list, {"a": [1]}),
    },
    "nested": {"state_dict": {"model": under("module.")}},
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_taken_out_of_what_scripts_save(
    tmp_path: Path, name: str, old_format: bool
) -> None:
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(CHECKPOINTS[name], file, _use_new_zipfile_serialization=not old_format)
    found = read_weights(file)
    assert found.keys() == PLAIN.keys()
    assert all(torch.equal(found[key], PLAIN[key]) for key in PLAIN)


@pytest.mark.parametrize("name", ["torchvision", "timm", "lightning with more"])
def test_the_average_is_taken_where_it_is_asked_for(tmp_path: Path, name: str) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINTS[name], file)
    found = read_saved_weights(file, ema=True)
    assert torch.equal(found.weights["fc.bias"], AVERAGE["fc.bias"])
    assert "n_averaged" not in found.weights
    assert "is taken" in read_saved_weights(file).remarks[0]


def test_an_average_alone_is_taken_and_said(tmp_path: Path) -> None:
    network = AveragedModel(nn.Linear(2, 1))
    torch.save(network.state_dict(), tmp_path / "average.pth")
    for ema in (False, True):
        found = read_saved_weights(tmp_path / "average.pth", ema=ema)
        assert found.weights.keys() == {"weight", "bias"}
    torch.save({"epoch": 1, "state_dict_ema": AVERAGE}, tmp_path / "only.pth")
    found = read_saved_weights(tmp_path / "only.pth")
    assert torch.equal(found.weights["fc.bias"], AVERAGE["fc.bias"])
    assert "moving average" in found.remarks[0]
    torch.save(PLAIN, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"--ema: \S+plain\.pth has no moving average"):
        read_saved_weights(tmp_path / "plain.pth", ema=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({k: v.to(dtype) for k, v in PLAIN.items()}, tmp_path / "half.safetensors")
    found = read_saved_weights(tmp_path / "half.safetensors")
    assert {value.dtype for value in found.weights.values()} == {torch.float32}
    assert found.remarks == (f"half.safetensors holds {str(dtype)[6:]}; made float32",)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("within", [False, True])
def test_whole_modules_are_refused_by_their_names(
    tmp_path: Path, old_format: bool, within: bool
) -> None:
    content = {"model": Network(), "epoch": 1} if within else Network()
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match=r"whole pickled module of \S*\.Network, .*state_dict"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_programs_are_refused_by_their_names(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match=r"TorchScript.* of torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "script.pt")


class Bomb:
    """Writes a file when it is unpickled by Python's own unpickler."""

    def __init__(self, calls: Any, *arguments: object) -> None:
        self.calls, self.arguments = calls, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.calls, self.arguments


def test_a_pickle_executes_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told"
    bombs = {
        "os": Bomb(os.system, f"touch {told}"),
        "path": Bomb(Path.touch, told),
        "exec": Bomb(exec, f"open({str(told)!r}, 'w')"),
    }
    for name, bomb in bombs.items():
        for new in (False, True):
            file = tmp_path / f"{name}.pth"
            torch.save(bomb, file, _use_new_zipfile_serialization=new)
            with pytest.raises(UserError, match="holds no weights"):
                read_weights(file)
            content = {"state_dict": PLAIN, "args": bomb}
            torch.save(content, file, _use_new_zipfile_serialization=new)
            if name == "exec":
                assert read_weights(file).keys() == PLAIN.keys()
            else:  # what torch refuses whatever is allowed, and what isn't a class or function
                with pytest.raises(UserError, match=r"\((Trying to load|Trying to call)"):
                    read_weights(file)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(exec, "raise SystemExit"), protocol=2))
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "plain.pth")
    assert not told.exists()


def rewritten(file: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """Return a copy of torch's archive with its pickle changed."""
    copy = file.with_name("hostile.pth")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(copy, "w", compression) as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return copy


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"fc\.weight is \(1048576, 1048576\), more than"):
        read_weights(tmp_path / "wide.pth")
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "small.pth")
    # BININT1 3, three times in it, becomes BININT 2**30: numel of the storage and the size.
    large = rewritten(
        tmp_path / "small.pth", lambda pickled: pickled.replace(b"K\x03", b"J\x00\x00\x00\x40")
    )
    with pytest.raises(UserError):
        read_weights(large)
    torch.save({"fc.bias": torch.zeros(1 << 20)}, tmp_path / "zeros.pth")
    deflated = rewritten(tmp_path / "zeros.pth", lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_weights(deflated)
    torch.save({"state_dict": PLAIN, "more": Bomb(bytearray, 1 << 40)}, tmp_path / "bytes.pth")
    with pytest.raises(UserError, match=r"builtins\.bytearray"):
        read_weights(tmp_path / "bytes.pth")


@pytest.mark.parametrize("content", [[1], {"epoch": 3}, {}, Schedule(), {"state_dict": {}}])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"none\.pth: holds no weights"):
        read_weights(tmp_path / "none.pth")


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save(PLAIN, saved)
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(saved.getvalue()[:300])
        with pytest.raises(UserError, match="holds no weights") as raised:
            read_weights(tmp_path / name)
        assert "\n" not in str(raised.value)
