"""Stored predictions of every image of a split, from which any score is computed again.

One file holds one evaluation: `predictions/<split>.<protocol>.safetensors` in a run's folder, the
split as `PredictionMetadata.qualified_split` has it. Its tensors are `keys` (UTF-8, a line an
image), `labels`, `probabilities`, `ranks` and `guesses`; its metadata are `about` (the
`PredictionMetadata`) and `classes`, both JSON, and `digest`, the SHA-256 of all the rest.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from pipeline.config.yaml import Section, validate
from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.metrics import Counts
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import write_atomically

PREDICTIONS = "predictions"  # the folder in a run's, and in its MLflow run's artifacts
NUM_GUESSES = 5  # as many as ILSVRC takes

_TENSORS = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F16": np.float16}
_TENSORS |= {"I16": np.int16}  # of ranks and guesses in older files
_FIELDS = ("keys", "labels", "probabilities", "ranks", "guesses")
_STORED = ("labels", "ranks", "guesses", "probabilities", "keys")


class PredictionMetadata(Section):
    """Which network predicted which images, and how: the key of a result (`ResultKey`), and more.

    `data` is the packed data set evaluated on, `training_data` the one trained on;
    `training_digest` is empty where that is unknown, as for external weights. `weights_digest` is
    the SHA-256 of the file of weights; of an ensemble it is that of its members' digests, and
    `members` names their runs. `precision` is what was computed in, on the devices that were there;
    it is empty in older files. The fields are stored by their names.
    """

    network: str
    training_data: str
    data: str
    data_digest: str
    split: str
    protocol: str
    weights_digest: str
    run: str
    ensemble_size: PositiveInt = 1
    members: tuple[str, ...] = ()
    extra_data: str = "none"
    training_digest: str = ""
    precision: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether the weights are known to be trained on another data set than `data`."""
        if self.training_digest:
            return self.training_digest != self.data_digest
        return self.training_data != self.data

    @property
    def qualified_split(self) -> str:
        """The split, as `val`; of data not known to be the training data, as `other.val`."""
        is_own = self.training_digest == self.data_digest
        return self.split if is_own else f"{self.data}.{self.split}"


@dataclass(frozen=True)
class Predictions:
    """Predictions of n images, in the order of the split.

    keys: of the images, n. labels: int64 (n,), −1 where unknown. probabilities: float16 (n,
    classes). What their rounding would lose is kept beside them, both from float32 scores (of equal
    ones the lower class comes first): ranks, int32 (n,), the number of classes before the label, or
    of all classes where it is unknown; guesses, int32 (n, at most 5), the classes of the highest
    scores.
    """

    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float16]
    ranks: NDArray[np.int32]
    guesses: NDArray[np.int32]
    classes: tuple[ImageClass, ...]
    metadata: PredictionMetadata

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all fields, as hexadecimal digits."""
        return _digest(_arrays(self), _texts(self))

    @property
    def counts(self) -> Counts:
        """Top-1 and top-5 hits; raises `UserError` where labels are unknown."""
        return Counts(self.hits(1), self.hits(NUM_GUESSES), len(self))

    def hits(self, k: int) -> int:
        """Count the images whose label is among the k highest; `UserError` for unknown labels."""
        if (self.labels < 0).any():
            raise UserError(
                f"{self.metadata.split} of {self.metadata.data} has images of unknown class, whose "
                "predictions can't be scored; `ilsvrc submission` writes them for the server"
            )
        return int(self.are_hits(k).sum())

    def are_hits(self, k: int) -> NDArray[np.bool_]:
        """Return whether each image's label is among the k highest, bool (n,); as `topk_hits`.

        With fewer than k classes that is every label whose rank is below the number of classes.
        """
        hits: NDArray[np.bool_] = self.ranks < min(k, self.probabilities.shape[1])
        return hits


def predictions_file(folder: Path, split: str, protocol: str) -> Path:
    """Return where the run in `folder` keeps its predictions of a split (`qualified_split`)."""
    return folder / PREDICTIONS / f"{split}.{protocol}.safetensors"


def kept_predictions(folder: Path) -> list[Path]:
    """Return the files of predictions of the run in `folder`."""
    return sorted((folder / PREDICTIONS).glob("*.safetensors"))


def find_predictions(
    folder: Path, split: str | None, protocol: str | None, preferred: Path | None = None
) -> Path:
    """Return the file of the run in `folder` of the given split and protocol; None is any.

    A split `val` means the run's own before that of any other data. Of several files it is the
    `preferred` one. Raises `UserError` if there is none, or more than one; it names them.
    """
    files = kept_predictions(folder)
    names = {path: path.stem.rpartition(".") for path in files}
    found = [
        path
        for path, (qualified, _, by) in names.items()
        if split in (None, qualified, qualified.rpartition(".")[2]) and protocol in (None, by)
    ]
    found = [path for path in found if names[path][0] == split] or found
    if len(found) == 1:
        return found[0]
    if preferred in found:
        return preferred
    named = f" of {split or 'any split'} by {protocol or 'any protocol'}"
    known = ", ".join(path.stem for path in files) or "none"
    if not found:
        raise UserError(
            f"{folder}: no predictions{named}; there are: {known}; `ilsvrc evaluate` makes them"
        )
    raise UserError(f"{folder}: several predictions; choose by --split and --protocol: {known}")


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write `predictions`; the file appears whole. Raises `UserError` if it can't be written."""
    for key in predictions.keys:
        if "\n" in key:
            raise ValueError(f"a key of two lines: {key!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {**_texts(predictions), "digest": predictions.digest}
    write_atomically(path, *_as_safetensors(_arrays(predictions), texts))


def read_predictions(path: Path) -> Predictions:
    """Map the file at `path`: its pages are read as they are used.

    Raises `UserError` for a file that is missing, holds anything else, or has changed.
    """
    try:
        arrays, texts = _map_file(path)
        labels, keys = arrays["labels"], arrays["keys"].tobytes().decode().split("\n")
        is_whole = texts["digest"] == _digest(arrays, texts)
        classes = tuple(ImageClass(**known) for known in json.loads(texts["classes"]))
        metadata = validate(PredictionMetadata, json.loads(texts["about"]), path)
    except FileNotFoundError:
        raise UserError(f"{path}: no predictions there; `ilsvrc evaluate` makes them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: can't be read as predictions ({error})") from None
    if not is_whole or len(keys) != len(labels):
        raise UserError(f"{path}: its bytes have changed; evaluate again")
    others = {name: arrays[name] for name in ("probabilities", "ranks", "guesses")}
    return Predictions(
        keys=tuple(keys), labels=labels, classes=classes, metadata=metadata, **others
    )


def _map_file(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors of a safetensors file as views of its mapped bytes, and its metadata.

    The library would copy them all.
    """
    file = np.memmap(path, np.uint8, "r").view(np.ndarray)
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    header = json.loads(file[8:start].tobytes())
    metadata = header.pop("__metadata__")
    arrays = {}
    for name in _FIELDS:
        low, high = header[name]["data_offsets"]
        values = file[start + low : start + high].view(_TENSORS[header[name]["dtype"]])
        arrays[name] = values.reshape(header[name]["shape"])
    return arrays, metadata


def _as_safetensors(
    arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the parts of a safetensors file: the size of its header, the header, the tensors.

    The library would make one copy of all; `_STORED` puts large numbers first, where they are
    aligned.
    """
    header: dict[str, Any] = {"__metadata__": texts}
    names, end = {dtype: name for name, dtype in _TENSORS.items()}, 0
    for field in _STORED:
        values, start = arrays[field], end
        end += values.nbytes
        kind = names[values.dtype.type]
        header[field] = {"dtype": kind, "shape": values.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for field in _STORED:
        yield arrays[field].reshape(-1).view(np.uint8).data


def _arrays(predictions: Predictions) -> dict[str, NDArray[Any]]:
    arrays = {
        "keys": np.frombuffer("\n".join(predictions.keys).encode(), np.uint8),
        "labels": predictions.labels,
        "probabilities": predictions.probabilities,
        "ranks": predictions.ranks,
        "guesses": predictions.guesses,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _texts(predictions: Predictions) -> dict[str, str]:
    classes = [vars(known) for known in predictions.classes]
    metadata = predictions.metadata.model_dump(mode="json")
    return {"about": json.dumps(metadata), "classes": json.dumps(classes)}


def _digest(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in ("about", "classes"):
        digest.update(texts[name].encode() + b"\n")
    for name in _FIELDS:
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
