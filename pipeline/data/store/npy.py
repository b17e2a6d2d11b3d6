"""Signals as `.npy` files: rows of float32 values, stored unchanged."""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray


def encode_npy(values: NDArray[np.float32]) -> bytes:
    """Return `values` (length,) as an `.npy` file, which WebDataset decodes."""
    return _header(len(values)) + values.astype("<f4").tobytes()


def decode_npy(data: NDArray[np.uint8], length: int) -> NDArray[np.float32]:
    """Return the `length` values of an encoded signal; raises `ValueError` for anything else.

    Comparing the header instead of parsing it takes a tenth of the time of `numpy.load`.
    """
    header = _header(length)
    if len(data) != len(header) + 4 * length or data[: len(header)].tobytes() != header:
        raise ValueError(f"isn't {length} float32 values in an .npy file")
    values = np.frombuffer(data, dtype="<f4", offset=len(header))
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite")
    return values


@cache
def _header(length: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(length, dtype="<f4"), allow_pickle=False)
    return file.getvalue()[: -4 * length]
