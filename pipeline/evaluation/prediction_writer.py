"""Writing of predictions: each worker collects its share, the first one joins the shares."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from pipeline.data.loading.plans import share_of
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Split
from pipeline.evaluation.evaluate import ScoredImages
from pipeline.evaluation.predictions import (
    NUM_GUESSES,
    PredictionMetadata,
    Predictions,
    write_predictions,
)
from pipeline.evaluation.topk import label_ranks, topk_classes
from pipeline.runtime.distributed import Worker
from pipeline.runtime.storage import write_atomically


class PredictionWriter:
    """Collects the predictions of one worker. All workers see the folder of the file `path`.

    The first worker has room for those of all, which are large with many classes, and keeps no
    other copy of them.
    """

    def __init__(self, path: Path, num_images: int, worker: Worker) -> None:
        self._path = path
        self._worker = worker
        self._num_images = num_images
        self._share = share_of(num_images, worker.rank, worker.world_size)
        self._num_missing = len(self._share)
        self._arrays: dict[str, NDArray[Any]] = {}

    def add(self, scored: ScoredImages) -> None:
        """Add the predictions of some images of this worker's share, each of which comes once.

        With the last ones a worker other than the first writes its share beside the file.
        """
        fields = {
            "probabilities": scored.probabilities.half(),
            "ranks": label_ranks(scored.scores, scored.labels).int(),
            "guesses": topk_classes(scored.scores, NUM_GUESSES).int(),
        }
        rows = scored.indices.numpy() - self._share[0]
        for name, values in fields.items():
            array = values.cpu().numpy()
            if name not in self._arrays:
                number = self._num_images if self._worker.is_first else len(self._share)
                self._arrays[name] = np.zeros((number, *array.shape[1:]), array.dtype)
            self._arrays[name][rows] = array
        self._num_missing -= len(rows)
        if not self._num_missing and not self._worker.is_first:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._part(self._worker.rank), to_safetensors(self._arrays))

    def join(
        self, split: Split, classes: tuple[ImageClass, ...], metadata: PredictionMetadata
    ) -> Path:
        """Write the file from all shares. For the first worker, once all have added theirs."""
        workers = self._worker.world_size
        for rank in range(1, min(workers, self._num_images)):
            rows = share_of(self._num_images, rank, workers)
            for name, values in load_file(self._part(rank)).items():
                self._arrays[name][rows[0] : rows[-1] + 1] = values
        predictions = Predictions(
            keys=split.keys, labels=split.labels, classes=classes, metadata=metadata, **self._arrays
        )
        write_predictions(predictions, self._path)
        for part in self._path.parent.glob(self._part("*").name):
            part.unlink()
        return self._path

    def _part(self, rank: int | str) -> Path:
        return self._path.with_name(f".{self._path.name}.part-{rank}")
