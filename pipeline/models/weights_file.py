"""Files of weights as trainings save them: safetensors, or torch's, bare or in a checkpoint."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.models.torch_file import Placeholder, read_torch_file, whole_module
from pipeline.runtime.errors import UserError

# Where checkpoints keep weights, and their moving average, the usual ones first.
_PLAIN = (
    *("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network"),
    *("weights", "params", "backbone"),
)
_AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state"),
    *("ema_model_state_dict", "params_ema", "swa_model", "swa_state_dict", "averaged_model"),
)

# Added by what a network was wrapped in: by compile, FSDP and activation checkpoints anywhere; by
# DDP, AveragedModel, Lightning's modules and the like in front of all.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_PREFIXES = ("module.", "model.", "net.", "network.")
_PREFIXES_OF_AVERAGES = ("ema_model.", "model_ema.", "ema.", "averaged_model.")
_COUNTER = "n_averaged"  # of AveragedModel
_MAX_NESTING = 4


@dataclass(frozen=True)
class SavedWeights:
    """A state dict, taken out of what it was saved in.

    `remarks` tell what was chosen, a sentence each.
    """

    weights: Mapping[str, Tensor]
    remarks: tuple[str, ...] = ()


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file; see `read_saved_weights`."""
    return read_saved_weights(file).weights


def read_saved_weights(file: Path, *, ema: bool = False) -> SavedWeights:
    """Read a state dict onto the CPU, float32 where it was saved in 16 bits.

    ema: the moving average of the weights, of a checkpoint that also has others. Nothing in the
    file is executed. Raises `UserError` for a file without weights, for whole modules and programs
    by their names, and for tensors that claim more than the file holds.
    """
    if file.suffix == ".safetensors":
        content: object = _read_safetensors(file)
    else:
        content = read_torch_file(file)
    remarks: list[str] = []
    state, is_average = _state_dict(content, file, ema, remarks)
    weights = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    _check_sizes(weights, file)
    weights = {_WRAPPERS.sub("", key): value for key, value in weights.items()}
    while prefix := _prefix(weights, ema):
        inside = {key: value for key, value in weights.items() if key.startswith(prefix)}
        if others := sorted(weights.keys() - inside.keys() - {_COUNTER}):
            named = f"{others[0]}{' …' if len(others) > 1 else ''}"
            remarks.append(f"{file.name}: what starts with {prefix} is taken, not {named}")
        is_average |= _COUNTER in weights or prefix in _PREFIXES_OF_AVERAGES
        weights = {key.removeprefix(prefix): value for key, value in inside.items()}
    if ema and not is_average:
        raise UserError(f"--ema: {file} has no moving average of its weights; leave it out")
    floats = {v.dtype for v in weights.values() if v.is_floating_point()} - {torch.float32}
    if floats:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floats))
        remarks.append(f"{file.name} holds {names}; made float32")
    weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    return SavedWeights(weights, tuple(remarks))


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # of the library's own, and of damaged headers
        raise UserError(f"{file}: holds no weights ({' '.join(str(error).split())})") from None


def _state_dict(
    content: object, file: Path, ema: bool, remarks: list[str]
) -> tuple[Mapping[str, Any], bool]:
    """Return the mapping that holds the tensors, and whether it is the averaged one of several."""
    is_average = False
    for _ in range(_MAX_NESTING):
        if isinstance(content, Placeholder):
            if content.is_module:
                raise whole_module(file, content.class_name)
            raise UserError(
                f"{file}: holds no weights (a state dict of tensors), but a {content.class_name}; "
                "nothing was executed"
            )
        if not isinstance(content, Mapping):
            break
        found = {key: value for key, value in content.items() if _holds_weights(key, value)}
        averages = [key for key in _AVERAGED if key in found]
        plain = [key for key in _PLAIN if key in found]
        if not averages and not plain:
            break
        takes_average = bool(averages) and (ema or not plain)
        taken = (averages if takes_average else plain)[0]
        is_average |= takes_average
        others = [key for key in (*plain, *averages) if key != taken]
        if others or takes_average:
            average = " (the moving average)" if takes_average else ""
            aside = f", not {' or '.join(others)}" if others else ""
            hint = "; --ema takes that" if averages and not takes_average else ""
            remarks.append(f"{file.name}: {taken} is taken{average}{aside}{hint}")
        content = found[taken]
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file}: holds no weights (a {type(content).__name__}, not a state dict of tensors); "
            "nothing was executed"
        )
    state = {key: value for key, value in content.items() if isinstance(key, str)}
    if not any(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(list(state)[:5]) or "nothing"
        raise UserError(
            f"{file}: holds no weights (a state dict of tensors), but {keys}; nothing was executed"
        )
    return state, is_average


def _holds_weights(key: object, value: object) -> bool:
    return key in (*_PLAIN, *_AVERAGED) and (
        isinstance(value, Mapping) or (isinstance(value, Placeholder) and value.is_module)
    )


def _check_sizes(weights: Mapping[str, Tensor], file: Path) -> None:
    """Refuse tensors that repeat what the file holds, as they would need memory without bound."""
    size = file.stat().st_size
    for key, value in weights.items():
        is_plain = value.layout == torch.strided and value.device.type == "cpu"
        if not is_plain or value.is_quantized:
            raise UserError(f"{file}: {key} isn't a plain tensor of numbers")
        own = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > own or own > size:
            raise UserError(f"{file}: {key} is {tuple(value.shape)}, more than the file holds")


def _prefix(names: Collection[str], ema: bool) -> str | None:
    """Return what stands in front of the names of the network's own layers, or None."""
    order = (*_PREFIXES_OF_AVERAGES, *_PREFIXES) if ema else (*_PREFIXES, *_PREFIXES_OF_AVERAGES)
    return next((p for p in order if any(name.startswith(p) for name in names)), None)
