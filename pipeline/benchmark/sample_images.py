"""JPEGs to measure with: crops of the two photographs that scikit-learn ships, so that no data is
needed.

Their sizes are like ImageNet's, where the usual image has 500×375 pixels: the shorter side is about
375, the longer about 500, and one in four is upright.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.store import Split

_SHORTER_SIDES = (350, 400)
_LONGER_SIDES = (480, 520)
_UPRIGHT_SHARE = 0.25
_QUALITY = 90


def write_sample_images(folder: Path, num_images: int, num_classes: int) -> Split:
    """Pack `num_images` different JPEGs into `folder`, with random labels."""
    store = write_store(
        folder,
        name="pictures",
        classes=[ImageClass(index, str(index)) for index in range(num_classes)],
        splits={"train": _samples(num_images, num_classes)},
        source={"kind": "pictures", "from": "sklearn.datasets.load_sample_images"},
    )
    return store.split("train")


def _samples(num_images: int, num_classes: int) -> Iterator[Sample]:
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    random = np.random.default_rng(0)
    for number in range(num_images):
        photo = photos[number % len(photos)]
        height, width = random.integers(*_SHORTER_SIDES), random.integers(*_LONGER_SIDES)
        top = random.integers(photo.shape[0] - height + 1)
        left = random.integers(photo.shape[1] - width + 1)
        crop = photo[top : top + height, left : left + width]
        if random.random() < _UPRIGHT_SHARE:
            crop = crop.transpose(1, 0, 2)
        buffer = BytesIO()
        Image.fromarray(crop).save(buffer, format="JPEG", quality=_QUALITY)
        label = int(random.integers(num_classes))
        yield Sample(f"{number:06d}", buffer.getvalue(), label, crop.shape[0], crop.shape[1])
