"""A run's network as a file that other programs read: ONNX, TorchScript or safetensors.

ONNX and TorchScript hold the network itself, safetensors its weights by the zoo's names. Each says
in its metadata what it takes and gives.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.runtime.storage import file_digest, write_atomically

# Names of the input and the output, and of the metadata in TorchScript's archive.
INPUT, OUTPUT, METADATA_FILE = "images", "logits", "ilsvrc.json"


@dataclass(frozen=True)
class ExportFormat:
    """A format: the ending of its files, and what makes one of a network and its metadata.

    The network is in evaluation mode, on the CPU; it takes inputs of the given shape, any number at
    once.
    """

    suffix: str
    encode: Callable[[nn.Module, tuple[int, ...], Mapping[str, str]], bytes]


def export_network(folder: RunFolder, format: str, out: Path | None = None) -> Path:
    """Write the network of a trained run as a file of `format`; return where it is.

    By default it is named as the run, in the working folder. Raises `UserError` for a run that
    isn't trained yet, and for a file that is there already.
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"--to {format}: no format to export; {suggest(format, EXPORT_FORMATS)}")
    chosen = EXPORT_FORMATS[format]
    path = (out or Path(f"{folder.name}{chosen.suffix}")).absolute()
    if path.exists():
        raise UserError(f"{path}: is there already; remove it, or name another with --out")
    metadata, recipe = export_metadata(folder), folder.recipe()
    network = build_model(recipe.network, recipe.input)
    network.load_state_dict(read_weights(folder.weights))
    shape = (recipe.input.num_channels, *(recipe.input.size,) * recipe.input.dimensions)
    write_atomically(path, chosen.encode(network.eval(), shape, metadata))
    return path


def export_metadata(folder: RunFolder) -> dict[str, str]:
    """Return what a trained run's file says of itself; other values than texts are JSON.

    `input` is how pixels of 0 to 255, red first, become what the network takes; `classes` are
    those of its outputs, in their order.
    """
    record, recipe = folder.trained_record(), folder.recipe()
    return {
        "run": folder.name,
        "network": recipe.network.name,
        "weights_digest": record.weights_digest or file_digest(folder.weights),
        "input": json.dumps(recipe.input.model_dump(mode="json")),
        "protocol": recipe.evaluation.name(recipe.input.size),
        "classes": json.dumps([vars(each) for each in record.classes]),
    }


def _onnx(network: nn.Module, shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    from onnxscript.optimizer import fold_constants, remove_unused_nodes  # takes a second

    # What the exporter says of its own parts is no user's matter.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),  # one image would be a batch of one for ever
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=False,
            optimize=False,
        )
    assert program is not None
    # In place of all that the exporter would do: it would also join batch norm with convolutions.
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    model = program.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def _torchscript(network: nn.Module, shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still what C++ programs load
        traced = torch.jit.trace(network, torch.zeros(2, *shape))
        torch.jit.save(traced, file, _extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return file.getvalue()


def _safetensors(network: nn.Module, shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    return to_safetensors(network.state_dict(), dict(metadata))


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", _onnx),
    "torchscript": ExportFormat(".pt", _torchscript),
    "safetensors": ExportFormat(".safetensors", _safetensors),
}
