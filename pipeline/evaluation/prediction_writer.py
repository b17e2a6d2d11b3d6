"""Predictions on their way to a file: each worker gathers its own, the first one joins them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from pipeline.data.loading.plans import share_of
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Split
from pipeline.evaluation.evaluate import PredictionSink, Scored
from pipeline.evaluation.predictions import (
    NUM_GUESSES,
    PredictionMetadata,
    Predictions,
    write_predictions,
)
from pipeline.evaluation.topk import label_ranks, topk_classes
from pipeline.runtime.distributed import Worker
from pipeline.runtime.storage import write_atomically


class PredictionWriter(PredictionSink):
    """One worker's predictions. Workers share the folder of `path`, where the file will be."""

    def __init__(self, path: Path, num_images: int, worker: Worker) -> None:
        self._path = path
        self._worker = worker
        self._num_images = num_images
        self._share = share_of(num_images, worker.rank, worker.world_size)
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def add(self, scored: Scored) -> None:
        """Take the predictions of some images of this worker's share."""
        fields = {
            "probabilities": scored.probabilities.half(),
            "ranks": label_ranks(scored.scores, scored.labels).int(),
            "guesses": topk_classes(scored.scores, NUM_GUESSES).int(),
        }
        places = scored.indices.numpy() - self._share[0]
        for name, values in fields.items():
            array = values.cpu().numpy()
            if name not in self._arrays:
                self._arrays[name] = np.zeros((len(self._share), *array.shape[1:]), array.dtype)
            self._arrays[name][places] = array

    def hand_over(self) -> None:
        """Lay this worker's share beside the file. To be called before the workers meet."""
        if not self._worker.is_first and len(self._share):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._part(self._worker.rank), to_safetensors(self._arrays))

    def join(
        self, split: Split, classes: tuple[ImageClass, ...], about: PredictionMetadata
    ) -> Path:
        """Write the file from all workers' shares. For the first worker, after they have met."""
        ranks = range(1, min(self._worker.world_size, self._num_images))
        others = [load_file(self._part(rank)) for rank in ranks]
        arrays = {
            name: np.concatenate([own, *(other[name] for other in others)])
            for name, own in self._arrays.items()
        }
        write_predictions(
            Predictions(
                keys=split.keys, labels=split.labels, classes=classes, about=about, **arrays
            ),
            self._path,
        )
        for part in self._path.parent.glob(self._part("*").name):
            part.unlink()
        return self._path

    def _part(self, rank: int | str) -> Path:
        return self._path.with_name(f".{self._path.name}.part-{rank}")
