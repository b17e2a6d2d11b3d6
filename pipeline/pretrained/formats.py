"""The formats of weights from elsewhere, by name.

A format is a function in a module of its own. What takes long to import is imported there when a
file is read.
"""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pipeline.pretrained.caffe_weights import read_caffe
from pipeline.pretrained.keras_weights import read_keras
from pipeline.pretrained.matconvnet_weights import read_matconvnet
from pipeline.pretrained.onnx_weights import read_onnx
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.pretrained.timm_weights import read_timm
from pipeline.pretrained.torch7_weights import read_torch7
from pipeline.pretrained.torchvision_weights import read_torchvision
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest


class PretrainedReader(Protocol):
    """Reads one format of files.

    network: its name in the zoo, or None to recognize it by its layers. ema: take the moving
    average of the weights where the file has both. Raises `UserError` for a file of another kind,
    a network that isn't told, and layers that don't fit, by their names.
    """

    def __call__(self, file: Path, network: str | None, *, ema: bool) -> PretrainedWeights: ...


FORMATS: dict[str, PretrainedReader] = {
    "keras": read_keras,
    "onnx": read_onnx,
    "timm": read_timm,
    "torchvision": read_torchvision,
    "caffe": read_caffe,
    "matconvnet": read_matconvnet,
    "torch7": read_torch7,
}


def read_pretrained(
    format: str, file: Path, network: str | None, *, ema: bool = False
) -> PretrainedWeights:
    """Read a file of a format; see `PretrainedReader`. A remark says what its network sees."""
    if format not in FORMATS:
        raise UserError(f"{format}:{file}: {format} is no format; {suggest(format, FORMATS)}")
    read = FORMATS[format](file, network, ema=ema)
    return replace(read, remarks=(*read.remarks, read.preprocessing.words))
