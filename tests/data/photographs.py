"""Real photographs for the tests of loading: crops of the two that scikit-learn ships."""

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.data.store.packing import Sample
from pipeline.data.store.store import Store

# Height and width: both ways up, a square, the whole photograph, one that must be enlarged, one
# that no area crop fits.
PHOTO_SIZES = [(375, 500), (400, 300), (256, 256), (427, 640), (150, 190), (40, 600)] * 2

Pack = Callable[[Sequence[Sample]], Store]


def photo_samples(sizes: Sequence[tuple[int, int]]) -> Iterator[Sample]:
    """Yield a JPEG of quality 90 of each size, from a random place of one of the photographs."""
    photos = load_sample_images().images
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes):
        photo = photos[number % 2]
        y = random.integers(0, photo.shape[0] - height + 1)
        x = random.integers(0, photo.shape[1] - width + 1)
        buffer = io.BytesIO()
        Image.fromarray(photo[y : y + height, x : x + width]).save(buffer, "JPEG", quality=90)
        yield Sample(f"photo/{number:02d}", buffer.getvalue(), number % 2, height, width)
