"""How many batches are loaded at once changes none of them."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import Pack, photo_samples

from pipeline.config.augmentation import ColorJitter, RandomResizedCrop
from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loader import Batch, build_loader
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.views import Views, training_views
from pipeline.data.loading.windows import in_windows
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError

NUM_IMAGES, DAMAGED = 20, (5, 6, 17)
INPUT = InputConfig(size=16, mean=(120, 110, 100), std=(60, 50, 40))
AUGMENTATION = RandomResizedCrop(
    color_noise=0.1, color_jitter=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
)

# For each batch: its images, the side it is shown at, and the epoch that its boxes are of.
Plan = list[tuple[list[int], int, int]]
plans = st.lists(
    st.tuples(
        st.lists(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=6),
        st.sampled_from([16, 16, 16, 24]),
        st.integers(0, 9),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def split(pack: Pack) -> Split:
    """Photographs, of which `DAMAGED` are cut off by a disk after a half."""
    samples = list(photo_samples([(60, 80)] * NUM_IMAGES))
    store = pack(samples)
    shard = store.folder / "train-000000.tar"
    assert isinstance(shard, Path)
    content = shard.read_bytes()
    for number in DAMAGED:
        data = samples[number].data
        content = content.replace(data, data[: len(data) // 2].ljust(len(data), b"\0"))
    shard.write_bytes(content)
    return store.split("train")


def views_of(plan: Plan, split: Split) -> list[Views]:
    return [
        training_views(
            AUGMENTATION, CenterCrop(), 16, np.array(images), split.sizes[images], 0, epoch, side
        )
        for images, side, epoch in plan
    ]


@dataclass(frozen=True)
class Outcome:
    """What a loader gave: its batches, the error that ended it, and what it left out."""

    batches: list[Batch]
    error: str
    left_out: list[str]


def outcome_of(plan: Plan, split: Split, quarantined: bool, **loading: object) -> Outcome:
    left_out: list[str] = []
    with TemporaryDirectory() as folder:
        quarantine = Quarantine(Path(folder) / "bad.txt", split, 1.0, left_out.append)
        loader = build_loader(
            split,
            iter(views_of(plan, split)),
            INPUT,
            LoadingConfig.model_validate(loading),
            torch.device("cpu"),
            max_batch_size=6,
            fill=None,
            channels_last=True,
            quarantine=quarantine if quarantined else None,
        )
        batches: list[Batch] = []
        error = ""
        try:
            batches += loader
        except UserError as failure:
            error = str(failure)
        finally:
            loader.close()
    return Outcome(batches, error, left_out)


@pytest.mark.parametrize("quarantined", [True, False])
@given(
    plan=plans,
    window=st.integers(2, 80),
    prefetch=st.integers(1, 4),
    backend=st.sampled_from(["dali", "dali", "reference"]),
)
@settings(max_examples=12)
def test_batches_are_the_same_in_every_window(
    quarantined: bool, split: Split, plan: Plan, window: int, prefetch: int, backend: str
) -> None:
    one = outcome_of(plan, split, quarantined, backend=backend, window=1, prefetch=1)
    other = outcome_of(plan, split, quarantined, backend=backend, window=window, prefetch=prefetch)
    assert (other.error, other.left_out) == (one.error, one.left_out)
    assert one.error or len(one.batches) == len(plan)
    for first, second in zip(one.batches, other.batches, strict=True):
        for name, value in vars(first).items():
            if name != "seconds_waiting":
                assert torch.equal(value, getattr(second, name)), name


@given(plan=plans, window=st.integers(1, 20))
def test_windows_are_of_one_shape_and_as_long_as_may_be(
    split: Split, plan: Plan, window: int
) -> None:
    views = views_of(plan, split)
    windows = list(in_windows(views, window))
    assert [id(batch) for each in windows for batch in each] == [id(batch) for batch in views]
    for each in windows:
        assert len({batch.shape for batch in each}) == 1
        assert len(each) == 1 or sum(len(batch.images) for batch in each) <= window
    for each, following in itertools.pairwise(windows):
        together = sum(len(batch.images) for batch in [*each, following[0]])
        assert together > window or following[0].shape != each[0].shape


def test_joined_views_are_those_of_all_in_order(split: Split) -> None:
    plan = [([3, 1], 16, 0), ([5], 16, 1), ([0, 2, 4, 11], 16, 2)]
    batches = views_of(plan, split)
    joined = Views.joined(batches)
    start = 0
    for batch in batches:
        rows = range(start, start := start + len(batch.images))
        part = joined.take(rows)
        assert vars(part).keys() == vars(batch).keys()
        for name, value in vars(batch).items():
            np.testing.assert_array_equal(getattr(part, name), value, err_msg=name)
    assert start == len(joined.images)
