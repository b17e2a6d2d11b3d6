"""The digits as packed: exact pixels, the published split, the same bytes everywhere."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.data.sources.digits import DIGIT_CLASSES, digits_samples
from pipeline.data.store.packing import write_store
from pipeline.data.store.store import Store


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(
        tmp_path_factory.mktemp("data") / "digits",
        name="digits",
        classes=DIGIT_CLASSES,
        splits=digits_samples(lambda done, total: None),
        source={},
    )


def test_the_first_898_are_train_and_the_last_899_val(digits: Store) -> None:
    train, val = digits.split("train"), digits.split("val")
    assert (len(train), len(val)) == (898, 899)
    assert train.keys == tuple(f"digits-{i:04d}" for i in range(898))
    assert val.keys == tuple(f"digits-{i:04d}" for i in range(898, 1797))
    labels = np.concatenate([train.labels, val.labels])
    assert labels.tolist() == load_digits().target.tolist()
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert [c.name for c in digits.classes] == list("0123456789")


def test_pixels_are_fifteen_times_the_values(digits: Store) -> None:
    for name, expected in zip(("train", "val"), np.split(load_digits().images, [898]), strict=True):
        split = digits.split(name)
        assert (split.sizes == 8).all()
        for i, values in enumerate(expected):
            with Image.open(io.BytesIO(split.encoded(i))) as image:
                assert (image.format, image.mode) == ("PNG", "L")
                assert np.array_equal(np.asarray(image), values * 15)


def test_digest_is_the_same_on_every_machine(digits: Store) -> None:
    assert digits.digest == "099d007cc9e7049ed07e75ec89f6bf077595aefabb991c730e3ae4b29875b22b"


def test_progress_counts_every_image() -> None:
    calls: list[tuple[int, int]] = []
    splits = digits_samples(lambda done, total: calls.append((done, total)))
    assert sum(len(list(samples)) for samples in splits.values()) == 1797
    assert calls == [(i, 1797) for i in range(1, 1798)]
