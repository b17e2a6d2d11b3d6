"""A plan is the same for any number of workers together, and after any stop and resume."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import Pack, photo_samples

from pipeline.config.augmentation import RandomResizedCrop
from pipeline.config.optimization import SGD, Constant, LevenbergMarquardtConfig
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import BatchConfig, DataConfig, InputConfig, NetworkConfig, Recipe
from pipeline.data.loading.plans import dense_plan, evaluation_plan, share_of, training_plan
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
    optimizer=SGD(learning_rate=0.1),
    schedule=Constant(),
    epochs=3,
)


@pytest.fixture(scope="module")
def small(pack: Pack) -> Split:
    return pack(list(photo_samples([(20 + i % 30, 50 - i % 30) for i in range(60)]))).split("train")


def plan(split: Split, rank: int, world_size: int, epoch: int = 0, step: int = 0) -> list[Views]:
    sampler = BatchSampler(len(split), 16, 8, world_size)
    return list(training_plan(RECIPE, split, sampler, rank, epoch, step))


def rows(views: Iterable[Views]) -> list[tuple[bytes, ...]]:
    return [tuple(np.asarray(values).tobytes() for values in vars(v).values()) for v in views]


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_samples_of_the_optimizer_come_first_once(world_size: int, small: Split) -> None:
    sampling = RECIPE.model_copy(
        update={"optimizer": LevenbergMarquardtConfig(learning_rate=0.1, num_samples=7)}
    )
    sampler = BatchSampler(len(small), 16, 8, world_size)
    sampled = []
    for rank in range(world_size):
        plans = [
            list(training_plan(recipe, small, sampler, rank, 0, step))
            for recipe, step in ((sampling, 0), (RECIPE, 0), (sampling, 2), (RECIPE, 2))
        ]
        samples = plans[0][: len(sampler.sample_batches(7, rank))]
        assert all(len(views.images) <= sampler.max_micro_batch_size for views in samples)
        sampled += [image for views in samples for image in views.images.tolist()]
        first = rows(plans[0])[len(samples) :]
        per_epoch = len(rows(plans[1])) // RECIPE.epochs
        assert first[:per_epoch] == rows(plans[1])[:per_epoch]
        # A run resumed within an epoch keeps the statistics of the epoch's first samples.
        left = per_epoch // 2
        assert rows(plans[2])[:left] == rows(plans[3])[:left]
    assert sampled == epoch_order(RECIPE.seed, 0, len(small))[:7].tolist()
    assert len(sampler.sample_batches(10**6, 0)[-1])  # no more than there are


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_any_number_of_workers_trains_on_the_same_views(world_size: int, small: Split) -> None:
    alone = rows(plan(small, 0, 1))
    shares = [rows(plan(small, rank, world_size)) for rank in range(world_size)]
    views = [iter(share) for share in shares]
    num_micro_batches = [
        len(BatchSampler(len(small), 16, 8, world_size).share(rank)) for rank in range(world_size)
    ]
    assert max(num_micro_batches) - min(num_micro_batches) <= 1
    together = [
        next(views[rank])
        for _ in range(len(alone) // 8)
        for rank in range(world_size)
        for _ in range(num_micro_batches[rank])
    ]
    assert together == alone


def test_every_image_comes_once_an_epoch(small: Split) -> None:
    images = np.concatenate([views.images for views in plan(small, 0, 1)]).reshape(3, -1)
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(np.sort(images), np.tile(np.arange(60), (3, 1)))


def test_an_image_has_another_view_each_epoch(small: Split) -> None:
    boxes = [
        tuple(box) for views in plan(small, 0, 1) for box in views.boxes[views.images == 5].tolist()
    ]
    assert len(set(boxes)) == 3


@settings(max_examples=20)
@given(epoch=st.integers(0, 2), step=st.integers(0, 3), rank=st.integers(0, 1))
def test_a_resumed_plan_is_the_rest_of_the_whole_plan(
    small: Split, epoch: int, step: int, rank: int
) -> None:
    num_steps, num_micro_batches = 4, 4
    whole = rows(plan(small, rank, 2))
    steps_done = epoch * num_steps + step
    assert rows(plan(small, rank, 2, epoch, step)) == whole[steps_done * num_micro_batches :]


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("world_size", range(1, 9))
def test_an_evaluation_plan_holds_every_image_once(
    small: Split, count: int, world_size: int
) -> None:
    split = first_of(small, count)
    shares = [
        list(evaluation_plan(CENTER, 32, split, rank, world_size, 3)) for rank in range(world_size)
    ]
    images = [image for share in shares for views in share for image in views.images.tolist()]
    assert sorted(images) == list(range(count))
    assert all(0 < len(views.images) <= 3 for share in shares for views in share)


@settings(max_examples=20)
@given(world_size=st.integers(1, 8), batch_size=st.integers(1, 30), num_images=st.integers(1, 12))
def test_a_dense_plan_has_batches_of_one_shape_and_every_image_once(
    photos: Split, world_size: int, batch_size: int, num_images: int
) -> None:
    split = first_of(photos, num_images)
    planned: list[int] = []
    for rank in range(world_size):
        for views in dense_plan(256, 224, split, rank, world_size, batch_size):
            sizes = split.sizes[views.images].astype(int)
            assert min(views.shape) == 256
            rescaled = 256 * sizes // sizes.min(axis=1, keepdims=True)
            assert (rescaled == views.shape).all()
            pixels = len(views.images) * views.shape[0] * views.shape[1]
            assert len(views.images) == 1 or pixels <= batch_size * 224**2
            planned += views.images.tolist()
        assert set(share_of(num_images, rank, world_size)) <= set(planned)
    assert sorted(planned) == list(range(num_images))


def first_of(split: Split, num_images: int) -> Split:
    """Return what plans read of a split of the first images."""

    class First:
        sizes = split.sizes[:num_images]

        def __len__(self) -> int:
            return num_images

    return First()  # type: ignore[return-value]
