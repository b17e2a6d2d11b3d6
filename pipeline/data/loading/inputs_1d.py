"""Executes views of one-dimensional inputs (signals), which are shown exactly as packed."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.config.recipe import InputConfig
from pipeline.data.loading.views import Views
from pipeline.data.store.npy import decode_npy
from pipeline.data.store.store import Split


class Inputs1D:
    """Yields the inputs of each `Views`, float32 (n, 1, length), in order.

    An input is always whole. Raises `ValueError` when one can't be decoded.
    """

    def __init__(self, split: Split, views: Iterator[Views], input: InputConfig) -> None:
        self._split = split
        self._views = views
        self._length = input.size
        self._mean = np.float32(input.mean[0])
        self._std = np.float32(input.std[0])

    def __next__(self) -> Tensor:
        indices = next(self._views).images.tolist()
        values = np.stack(
            [decode_npy(data, self._length) for data in self._split.verified_batch(indices)]
        )
        normalized = (values - self._mean) / self._std
        return torch.from_numpy(normalized[:, None])

    def close(self) -> None:
        """There is nothing to release."""
