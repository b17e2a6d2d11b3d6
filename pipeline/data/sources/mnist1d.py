"""MNIST-1D (Greydanus 2020): ten digits as signals of 40 values, computed here, no download.

The package `mnist1d` draws them from seed 42: 4,000 train and 1,000 test signals, those that its
author published in `mnist1d_data.pkl`.
"""

import hashlib
import random
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.data.store.npy import encode_npy
from pipeline.data.store.packing import ProgressCallback, Sample
from pipeline.runtime.errors import UserError

LENGTH = 40
NUM_TRAIN = 4000
NUM_SIGNALS = 5000

# SHA-256 of the values in millionths and the labels, train before test, as little-endian 64-bit
# integers. The published file has this digest too.
_DIGEST = "304f43cfcc9d8d052aa0fe586cd9ca9a08235417e6afd5858c522480472965a4"


def mnist1d_samples(progress: ProgressCallback) -> dict[str, Iterator[Sample]]:
    """Return the splits `train` and `test`: the published values, rounded to float32.

    Raises `UserError` when the installed packages draw other data than the published.
    """
    drawn = _draw()
    values = np.concatenate([drawn["x"], drawn["x_test"]])
    labels = np.concatenate([drawn["y"], drawn["y_test"]])
    digest = hashlib.sha256(np.rint(values * 1e6).astype("<i8").tobytes())
    digest.update(labels.astype("<i8").tobytes())
    if digest.hexdigest() != _DIGEST:
        installed = ", ".join(f"{name} {version(name)}" for name in ("mnist1d", "numpy", "scipy"))
        raise UserError(
            f"mnist1d: {installed} draw other signals than the published ones; install the "
            "versions in constraints.txt"
        )
    signals = values.astype(np.float32)

    def samples(numbers: range) -> Iterator[Sample]:
        for i in numbers:
            data = encode_npy(signals[i])
            yield Sample(f"mnist1d-{i:04d}", data, int(labels[i]), 1, LENGTH)
            progress(i + 1, NUM_SIGNALS)

    return {"train": samples(range(NUM_TRAIN)), "test": samples(range(NUM_TRAIN, NUM_SIGNALS))}


def _draw() -> dict[str, Any]:
    from mnist1d.data import get_dataset_args, make_dataset

    # `make_dataset` seeds the global generators of Python and numpy.
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        drawn: dict[str, Any] = make_dataset(get_dataset_args())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
    return drawn
