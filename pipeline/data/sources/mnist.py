"""Digits in IDX files, the format of MNIST: 28×28 grey pixels, centred in 32×32 fields at packing.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998),
§III-A, uses fields of 32×32, so that strokes' ends can be in the middle of a receptive field.
"""

import gzip
import hashlib
import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.holdout import holdout
from pipeline.data.sources.png import encode_png
from pipeline.data.store.packing import ProgressCallback, Sample
from pipeline.runtime.errors import UserError

SIDE = 28
FIELD = 32
_NUM_CLASSES = 10
_MAX_COUNT = 1 << 20  # the most that a header may claim, so that no file can fill the memory

# The first four bytes: two zeros, 8 for unsigned bytes, the number of dimensions.
_DIMENSIONS = {0x801: 1, 0x803: 3}
_CONTENTS = {1: "labels", 3: "images"}
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class IdxDigits:
    """Checked images, uint8 (n, 28, 28), and labels 0–9, uint8 (n,), of a pair of IDX files."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def md5(self) -> tuple[str, str]:
        """The MD5 sums of the two files, unpacked."""
        return _md5(self.images), _md5(self.labels)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class KnownDigits:
    """The MD5 sums of known files of images and labels, unpacked."""

    train: tuple[str, str]
    test: tuple[str, str]


# The files that LeCun, Cortes and Burges gave out.
MNIST = KnownDigits(
    train=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    test=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
)


def _md5(array: NDArray[np.uint8]) -> str:
    magic = next(magic for magic, count in _DIMENSIONS.items() if count == array.ndim)
    header = np.array([magic, *array.shape], dtype=">u4").tobytes()
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def read_digits(images: Path, labels: Path) -> IdxDigits:
    """Read a pair of IDX files, gzipped or not; raises `UserError` that names what is wrong."""
    pixels, digits = read_idx(images, 3), read_idx(labels, 1)
    if pixels.shape[1:] != (SIDE, SIDE):
        height, width = pixels.shape[1:]
        raise UserError(f"{images}: images of {height}×{width}; MNIST's are {SIDE}×{SIDE}")
    if len(pixels) != len(digits):
        raise UserError(
            f"{labels}: {len(digits):,} labels for {len(pixels):,} images in {images}; "
            "give two files that belong together"
        )
    wrong = np.flatnonzero(digits >= _NUM_CLASSES)
    if len(wrong):
        raise UserError(
            f"{labels}: label {digits[wrong[0]]} of image {wrong[0]}; MNIST's are 0 to 9"
        )
    return IdxDigits(pixels, digits)


def read_idx(path: Path, num_dimensions: int) -> NDArray[np.uint8]:
    """Read an array of bytes with `num_dimensions`: 3 for images, 1 for labels."""
    wanted = _CONTENTS[num_dimensions]
    try:
        with path.open("rb") as plain:
            is_gzipped = plain.read(2) == _GZIP
            plain.seek(0)
            file = gzip.GzipFile(fileobj=plain) if is_gzipped else plain
            shape = _read_shape(path, file, num_dimensions)
            size = math.prod(shape)
            data = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check the file") from None
    if len(data) != size:
        amount = f"only {len(data):,}" if len(data) < size else "more"
        raise UserError(
            f"{path}: {amount} bytes of {wanted} where its header says {size:,}; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read_shape(
    path: Path, file: IO[bytes] | gzip.GzipFile, num_dimensions: int
) -> tuple[int, ...]:
    wanted = _CONTENTS[num_dimensions]
    magic = int.from_bytes(file.read(4), "big")
    if magic not in _DIMENSIONS:
        raise UserError(
            f"{path}: not an IDX file of {wanted} (begins with 0x{magic:08x}); give MNIST's own"
        )
    if _DIMENSIONS[magic] != num_dimensions:
        found = _CONTENTS[_DIMENSIONS[magic]]
        raise UserError(f"{path}: an IDX file of {found}, not of {wanted}; give the other file")
    header = file.read(4 * num_dimensions)
    if len(header) < 4 * num_dimensions:
        raise UserError(f"{path}: ends within its header; fetch it again")
    shape = tuple(np.frombuffer(header, dtype=">u4").tolist())
    if not 0 < shape[0] <= _MAX_COUNT or max(shape[1:], default=1) > FIELD:
        sizes = "×".join(map(str, shape))
        raise UserError(f"{path}: its header promises {sizes} bytes, which is not MNIST")
    return shape


def mnist_samples(
    train: IdxDigits, test: IdxDigits | None, val_share: float, progress: ProgressCallback
) -> dict[str, Iterator[Sample]]:
    """Return the splits `train` and `test`, or `train` and `val` of each class's `val_share`.

    `progress` counts the images of both, read one split after the other.
    """
    images = _numbered("train", train)
    if test:
        splits = {"train": images, "test": _numbered("test", test)}
    else:
        val: set[str] = set()
        for digit in range(_NUM_CLASSES):
            val |= holdout([key for key, _, i in images if train.labels[i] == digit], val_share)
        splits = {
            "train": [image for image in images if image[0] not in val],
            "val": [image for image in images if image[0] in val],
        }
    total, counter = sum(map(len, splits.values())), itertools.count(1)

    def samples(images: list[tuple[str, IdxDigits, int]]) -> Iterator[Sample]:
        field = np.zeros((FIELD, FIELD), dtype=np.uint8)
        margin = (FIELD - SIDE) // 2
        for key, digits, i in images:
            field[margin:-margin, margin:-margin] = digits.images[i]
            yield Sample(key, encode_png(field), int(digits.labels[i]), FIELD, FIELD)
            progress(next(counter), total)

    return {name: samples(images) for name, images in splits.items()}


def _numbered(name: str, digits: IdxDigits) -> list[tuple[str, IdxDigits, int]]:
    """Return (key, digits, i) of each image."""
    return [(f"{name}-{i:05d}", digits, i) for i in range(len(digits.labels))]
