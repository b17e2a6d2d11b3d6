"""A plan says who sees what, when: the same on any number of workers, and after any stop."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import Pack, photo_samples

from pipeline.config.augmentation import RandomResizedCrop
from pipeline.config.optimization import ConstantSchedule, LevenbergMarquardtConfig, SGDConfig
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import BatchConfig, DataConfig, InputConfig, NetworkConfig, Recipe
from pipeline.data.loading.loader import evaluation_plan, training_plan
from pipeline.data.loading.sampler import BatchSampler, epoch_order
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split

CENTER = CenterCrop(resize=256)
RECIPE = Recipe(
    network=NetworkConfig(name="resnet18", num_classes=2),
    data=DataConfig(name="photos"),
    input=InputConfig(size=32, mean=(0, 0, 0), std=(1, 1, 1)),
    augmentation=RandomResizedCrop(),
    evaluation=CENTER,
    batch=BatchConfig(global_batch_size=16, micro_batch_size=2),
    optimizer=SGDConfig(learning_rate=0.1),
    schedule=ConstantSchedule(),
    epochs=3,
)


@pytest.fixture(scope="module")
def small(pack: Pack) -> Split:
    return pack(list(photo_samples([(20 + i % 30, 50 - i % 30) for i in range(60)]))).split("train")


def plan(split: Split, rank: int, world_size: int, epoch: int = 0, step: int = 0) -> list[Views]:
    dealing = BatchSampler(len(split), 16, 8, world_size)
    return list(training_plan(RECIPE, split, dealing, rank, epoch, step))


def rows(views: Iterable[Views]) -> list[tuple[bytes, ...]]:
    return [tuple(np.asarray(values).tobytes() for values in vars(v).values()) for v in views]


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_what_the_optimizer_looks_at_comes_first_once(world_size: int, small: Split) -> None:
    curious = RECIPE.model_copy(
        update={"optimizer": LevenbergMarquardtConfig(learning_rate=0.1, num_samples=7)}
    )
    dealing = BatchSampler(len(small), 16, 8, world_size)
    seen = []
    for rank in range(world_size):
        ours = [
            list(training_plan(recipe, small, dealing, rank, 0, step))
            for recipe, step in ((curious, 0), (RECIPE, 0), (curious, 2), (RECIPE, 2))
        ]
        samples = ours[0][: len(dealing.sample_batches(7, rank))]
        assert all(len(views.images) <= dealing.max_micro_batch_size for views in samples)
        seen += [image for views in samples for image in views.images.tolist()]
        first = rows(ours[0])[len(samples) :]
        per_epoch = len(rows(ours[1])) // RECIPE.epochs
        assert first[:per_epoch] == rows(ours[1])[:per_epoch]
        # Whoever goes on within an epoch has what the first steps of it were taken with.
        left = per_epoch // 2
        assert rows(ours[2])[:left] == rows(ours[3])[:left]
    assert seen == epoch_order(RECIPE.seed, 0, len(small))[:7].tolist()
    assert len(dealing.sample_batches(10**6, 0)[-1])  # no more than there are


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_any_number_of_workers_sees_the_same_views(world_size: int, small: Split) -> None:
    alone = rows(plan(small, 0, 1))
    shares = [rows(plan(small, rank, world_size)) for rank in range(world_size)]
    views = [iter(share) for share in shares]
    each = [
        len(BatchSampler(len(small), 16, 8, world_size).share(rank)) for rank in range(world_size)
    ]
    assert max(each) - min(each) <= 1
    dealt = [
        next(views[rank])
        for _ in range(len(alone) // 8)
        for rank in range(world_size)
        for _ in range(each[rank])
    ]
    assert dealt == alone


def test_every_image_comes_once_an_epoch(small: Split) -> None:
    images = np.concatenate([views.images for views in plan(small, 0, 1)]).reshape(3, -1)
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(np.sort(images), np.tile(np.arange(60), (3, 1)))


def test_an_image_is_seen_differently_each_epoch(small: Split) -> None:
    seen = [
        tuple(box) for views in plan(small, 0, 1) for box in views.boxes[views.images == 5].tolist()
    ]
    assert len(set(seen)) == 3


@settings(max_examples=20)
@given(epoch=st.integers(0, 2), step=st.integers(0, 3), rank=st.integers(0, 1))
def test_a_resumed_plan_goes_on_as_if_never_stopped(
    small: Split, epoch: int, step: int, rank: int
) -> None:
    num_steps, each = 4, 4
    whole = rows(plan(small, rank, 2))
    assert rows(plan(small, rank, 2, epoch, step)) == whole[(epoch * num_steps + step) * each :]


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("world_size", range(1, 9))
def test_evaluation_sees_every_image_once(small: Split, count: int, world_size: int) -> None:
    class Part:
        sizes = small.sizes[:count]

        def __len__(self) -> int:
            return count

    shares: list[list[Views]] = [
        list(evaluation_plan(CENTER, 32, Part(), rank, world_size, 3))  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    images = [image for share in shares for views in share for image in views.images.tolist()]
    assert sorted(images) == list(range(count))
    assert all(0 < len(views.images) <= 3 for share in shares for views in share)
