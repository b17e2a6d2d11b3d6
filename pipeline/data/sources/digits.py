"""The 1,797 handwritten digits that scikit-learn ships: 8×8 pixels, values 0–16, no download.

They are the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
1998). The first 898 are train and the last 899 val, in the order of scikit-learn.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.data.sources.png import encode_png
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import ProgressCallback, Sample

NUM_TRAIN = 898
NUM_IMAGES = 1797
DIGIT_CLASSES = tuple(ImageClass(digit, str(digit)) for digit in range(10))
_GREY_LEVELS = 15  # per unit of a digit's 0–16, so that black is 0 and white 240, exactly


def digits_samples(progress: ProgressCallback) -> dict[str, Iterator[Sample]]:
    """Return the splits `train` and `val` as 8-bit grey PNGs of 8×8 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = (data.images * _GREY_LEVELS).astype(np.uint8)

    def samples(numbers: range) -> Iterator[Sample]:
        for i in numbers:
            yield Sample(f"digits-{i:04d}", encode_png(pixels[i]), int(data.target[i]), 8, 8)
            progress(i + 1, NUM_IMAGES)

    return {"train": samples(range(NUM_TRAIN)), "val": samples(range(NUM_TRAIN, NUM_IMAGES))}
