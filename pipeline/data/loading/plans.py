"""Plans: the views of each batch of a worker, in order, for a training or an evaluation."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from pipeline.config.boxes import Interpolation, resized
from pipeline.config.protocol import BoxProtocol
from pipeline.config.recipe import Recipe
from pipeline.data.loading.philox import image_keys
from pipeline.data.loading.sampler import BatchSampler, TrainingPass, epoch_order
from pipeline.data.loading.views import (
    Views,
    evaluation_views,
    training_size,
    training_views,
    whole_views,
)
from pipeline.data.store.store import Split

# To compute the views of so many images takes little longer than those of a few.
_IMAGES_AT_ONCE = 512


def training_plan(
    recipe: Recipe,
    split: Split,
    sampler: BatchSampler,
    rank: int,
    start_epoch: int,
    start_step: int,
) -> Iterator[Views]:
    """Yield the views of each pass of worker `rank`, from (epoch, step) to the last epoch.

    Before the first step of an epoch come those that the optimizer looks at. Epochs follow one
    another without a break, so that loading ahead never stops between them.
    """
    samples = sampler.sample_batches(recipe.optimizer.num_samples, rank)
    passes_at_once = max(1, _IMAGES_AT_ONCE // sampler.max_pass_size)
    for epoch in range(start_epoch, recipe.epochs):
        order = epoch_order(recipe.seed, epoch, sampler.num_images)
        first_step = start_step if epoch == start_epoch else 0
        looked_at = (
            TrainingPass(order[places], np.zeros_like(places))
            for places in samples
            if first_step == 0
        )
        steps = (sampler.passes(order, step, rank) for step in range(first_step, sampler.num_steps))
        passes = chain(looked_at, chain.from_iterable(steps))
        while several := list(islice(passes, passes_at_once)):
            images = np.concatenate([each.images for each in several])
            views = training_views(
                recipe.augmentation,
                recipe.evaluation,
                recipe.input.size,
                images,
                split.sizes[images],
                recipe.seed,
                epoch,
                training_size(recipe.input.size, recipe.resizing, epoch),
                recipe.input.interpolation,
            )
            views = replace(
                views,
                keys=image_keys(recipe.seed, epoch, images),
                micro_batches=np.concatenate([each.micro_batches for each in several]),
            )
            yield from views.cut([len(each.images) for each in several])


def evaluation_plan(
    protocol: BoxProtocol,
    size: int,
    split: Split,
    rank: int,
    world_size: int,
    batch_size: int,
    interpolation: Interpolation = "bilinear",
) -> Iterator[Views]:
    """Yield the views of worker `rank`'s share of `split`, about `batch_size` at a time.

    The workers' shares hold every image exactly once; a share may be empty. Views of one image
    stay together, however many.
    """
    share = share_of(len(split), rank, world_size)
    num_images = images_per_batch(protocol, batch_size)
    for start in range(0, len(share), num_images):
        images = share[start : start + num_images]
        yield evaluation_views(
            protocol, size, images, split.sizes[images], interpolation=interpolation
        )


def dense_plan(
    side: int, size: int, split: Split, rank: int, world_size: int, batch_size: int
) -> Iterator[Views]:
    """Yield worker `rank`'s share as whole images of shorter side `side`, batched by shape.

    A batch has no more pixels than `batch_size` images of `size`, unless one image has.
    """
    share = share_of(len(split), rank, world_size)
    shapes = resized(split.sizes[share].astype(np.int64), side)
    for shape in np.unique(shapes, axis=0):
        same_shape = share[(shapes == shape).all(axis=1)]
        num_images = dense_images_per_batch(int(shape.prod()), size, batch_size)
        height, width = shape.tolist()
        for start in range(0, len(same_shape), num_images):
            images = same_shape[start : start + num_images]
            yield whole_views((height, width), images, split.sizes[images])


def share_of(num_images: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the images that worker `rank` evaluates, int64 in rising order."""
    return np.array_split(np.arange(num_images), world_size)[rank]


def images_per_batch(protocol: BoxProtocol, batch_size: int) -> int:
    """Return how many images give about `batch_size` views at once, mirrored ones not counted."""
    return max(1, batch_size // protocol.num_boxes)


def dense_images_per_batch(num_pixels: int, size: int, batch_size: int) -> int:
    """Return how many images of `num_pixels` have those of `batch_size` images of `size`."""
    return max(1, batch_size * size * size // num_pixels)
