"""Loading, whoever executes it: a plan of views goes in, batches come out in the same order."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop, Crops, WholeImage
from pipeline.config.recipe import InputConfig, Recipe
from pipeline.data.loading.boxes import rescaled
from pipeline.data.loading.color_jitter import jitter_colors
from pipeline.data.loading.inputs_1d import Inputs1D
from pipeline.data.loading.pil import PilImages
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.sampler import BatchSampler, epoch_order
from pipeline.data.loading.views import (
    Views,
    evaluation_views,
    training_size,
    training_views,
    whole_views,
)
from pipeline.data.store.npy import decode_npy
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What a worker computes on at once, in the order of its views.

    images: float32 (n, c, h, w), or signals (n, 1, length), normalized. labels: int64 (n,).
    indices: int64 (n,), into the split. Images and labels are on the worker's device, indices stay
    on the CPU.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


def training_plan(
    recipe: Recipe,
    split: Split,
    dealing: BatchSampler,
    rank: int,
    start_epoch: int,
    start_step: int,
) -> Iterator[Views]:
    """Yield the views of each micro-batch of worker `rank`, from (epoch, step) to the last epoch.

    Before the first step of an epoch come those that the optimizer looks at. Epochs follow one
    another without a seam, so that loading ahead never stops between them.
    """
    samples = dealing.sample_batches(recipe.optimizer.num_samples, rank)
    for epoch in range(start_epoch, recipe.epochs):
        order = epoch_order(recipe.seed, epoch, dealing.num_images)
        first_step = start_step if epoch == start_epoch else 0
        looked_at = (order[places] for places in samples if first_step == 0)
        steps = (
            dealing.micro_batches(order, step, rank)
            for step in range(first_step, dealing.num_steps)
        )
        for images in chain(looked_at, chain.from_iterable(steps)):
            yield training_views(
                recipe.augmentation,
                recipe.evaluation,
                recipe.input.size,
                images,
                split.sizes[images],
                recipe.seed,
                epoch,
                training_size(recipe.input.size, recipe.resizing, epoch),
            )


def evaluation_plan(
    protocol: WholeImage | CenterCrop | Crops,
    size: int,
    split: Split,
    rank: int,
    world_size: int,
    batch_size: int,
) -> Iterator[Views]:
    """Yield the views of worker `rank`'s share of `split`, about `batch_size` at a time.

    The workers' shares hold every image exactly once; a share may be empty. Views of one image
    stay together, however many.
    """
    share = share_of(len(split), rank, world_size)
    num_images = images_a_batch(protocol, batch_size)
    for start in range(0, len(share), num_images):
        images = share[start : start + num_images]
        yield evaluation_views(protocol, size, images, split.sizes[images])


def dense_plan(
    side: int, size: int, split: Split, rank: int, world_size: int, batch_size: int
) -> Iterator[Views]:
    """Yield worker `rank`'s share as whole images of shorter side `side`, batched by shape.

    A batch has no more pixels than `batch_size` images of `size`, unless one image has.
    """
    share = share_of(len(split), rank, world_size)
    shapes = rescaled(split.sizes[share].astype(np.int64), side)
    for shape in np.unique(shapes, axis=0):
        alike = share[(shapes == shape).all(axis=1)]
        num_images = dense_images_a_batch(int(shape.prod()), size, batch_size)
        height, width = shape.tolist()
        for start in range(0, len(alike), num_images):
            images = alike[start : start + num_images]
            yield whole_views((height, width), images, split.sizes[images])


def share_of(num_images: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the images that worker `rank` evaluates, int64 in rising order."""
    return np.array_split(np.arange(num_images), world_size)[rank]


def images_a_batch(protocol: WholeImage | CenterCrop | Crops, batch_size: int) -> int:
    """Return how many images give about `batch_size` views at once, mirrored ones not counted."""
    return max(1, batch_size // (protocol.num_boxes if isinstance(protocol, Crops) else 1))


def dense_images_a_batch(num_pixels: int, size: int, batch_size: int) -> int:
    """Return how many images of `num_pixels` have those of `batch_size` images of `size`."""
    return max(1, batch_size * size * size // num_pixels)


class _Images(Interface):
    """What executes views: tensors of images or signals, in the order of the views.

    Colour factors are left to the `Loader`.
    """

    def __next__(self) -> Tensor: ...

    def close(self) -> None: ...


class Loader:
    """Yields one `Batch` for each `Views`, in order; ends by `StopIteration`.

    With a quarantine, views that can't be shown are left out of their batches. Without one, and
    where nothing of a batch is left, raises `UserError` naming the first image, of all batches
    begun, that can't be decoded.
    """

    def __init__(
        self,
        split: Split,
        views: Iterable[Views],
        input: InputConfig,
        execute: Callable[[Iterator[Views]], _Images],
        device: torch.device,
        quarantine: Quarantine | None,
    ) -> None:
        self._split = split
        self._input = input
        self._execute = execute
        self._device = device
        self._quarantine = quarantine
        self._views = iter(views)
        self._in_flight: deque[Views] = deque()
        self._images = execute(self._begin(self._views))

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        try:
            images = next(self._images)
        except (StopIteration, UserError):
            raise
        except Exception as error:
            if not self._leave_out(error):
                raise
            return next(self)
        views = self._in_flight.popleft()
        images, indices = jitter_colors(images, views, self._input), views.images
        labels = torch.from_numpy(self._split.labels[indices])
        return Batch(images, labels.to(self._device), torch.from_numpy(indices))

    def close(self) -> None:
        """Give threads and memory back; nothing can be loaded afterwards."""
        self._images.close()

    def _begin(self, views: Iterable[Views]) -> Iterator[Views]:
        for batch in views:
            self._in_flight.append(batch)
            yield batch

    def _leave_out(self, error: Exception) -> bool:
        """Begin the batches in flight again without what can't be shown, if there is such.

        An executor does not say which image it was, and is of no use afterwards.
        """
        begun = list(self._in_flight)
        kept = [views.take(self._rows_to_show(views, error)) for views in begun]
        if [len(views.images) for views in kept] == [len(views.images) for views in begun]:
            return False
        self._images.close()
        self._in_flight.clear()
        self._images = self._execute(self._begin(chain(kept, self._views)))
        return True

    def _rows_to_show(self, views: Views, error: Exception) -> list[int]:
        rows = []
        for row, image in enumerate(views.images.tolist()):
            damage = _damage(self._split, image)
            if damage is None:
                rows.append(row)
            elif self._quarantine is None:
                raise UserError(
                    f"{self._split.location(image)}: {damage}; run `ilsvrc prepare` again"
                ) from error
            # A part of a damaged image may well be shown: asked alone, whatever else is in flight.
            elif self._is_shown(views.take([row])):
                rows.append(row)
            else:
                self._quarantine.add(image, damage)
        if not rows:
            raise UserError(
                f"{self._split.location(int(views.images[0]))}: no image of its batch can be "
                "decoded; run `ilsvrc prepare` again"
            ) from error
        return rows

    def _is_shown(self, view: Views) -> bool:
        images = self._execute(iter([view]))
        try:
            next(images)
        except Exception:  # executors have errors of their own
            return False
        finally:
            images.close()
        return True


def build_loader(
    split: Split,
    views: Iterable[Views],
    input: InputConfig,
    loading: LoadingConfig,
    device: torch.device,
    *,
    max_batch_size: int,
    fill: int | None,
    channels_last: bool,
    quarantine: Quarantine | None = None,
    boxes_per_image: int = 1,
) -> Loader:
    """Build the loader that `loading.backend` names; every backend shows the same pictures.

    No `Views` may hold more than `max_batch_size` images, and all hold `boxes_per_image` views of
    each. `fill` is the grey level outside the images, or None if no box leaves its image
    (`views.fill_of`). Signals have one executor. `quarantine` takes what can't be decoded.
    Raises `UserError` where `input` can't see what `split` holds.
    """
    check_contents(split, input)

    def execute(begun: Iterator[Views]) -> _Images:
        if split.contents == "signals":
            return Inputs1D(split, begun, input, device)
        if loading.backend == "reference":
            return PilImages(split, begun, input, device, fill=fill, channels_last=channels_last)
        # Imported late: DALI exists for Linux only, and loads slowly.
        from pipeline.data.loading.dali import DaliImages

        return DaliImages(
            split,
            begun,
            input,
            loading,
            device,
            max_batch_size=max_batch_size,
            fill=fill,
            channels_last=channels_last,
            boxes_per_image=boxes_per_image,
        )

    return Loader(split, views, input, execute, device, quarantine)


def check_contents(split: Split, input: InputConfig) -> None:
    """Raise `UserError` where `input` means images and `split` holds signals, or the other way.

    Signals are shown as they are, so that their length must be `input.size`.
    """
    dimensions = 1 if split.contents == "signals" else 2
    if input.dimensions != dimensions:
        raise UserError(
            f"the data set holds {split.contents}, but the recipe has input.dimensions: "
            f"{input.dimensions}; change data.name, or input.dimensions to {dimensions}"
        )
    if dimensions == 1:
        others = split.sizes[:, 1][split.sizes[:, 1] != input.size]
        if len(others):
            raise UserError(
                f"the data set holds signals of {others[0]} values, but the recipe has "
                f"input.size: {input.size}; change data.name, or input.size to {others[0]}"
            )


def _damage(split: Split, image: int) -> str | None:
    examine = _damage_of_signal if split.contents == "signals" else _damage_of_image
    return examine(split, image)


def _damage_of_image(split: Split, image: int) -> str | None:
    height, width = split.sizes[image].tolist()
    try:
        with Image.open(io.BytesIO(split.encoded(image).tobytes())) as file:
            file.load()
            found = file.size
    except UnidentifiedImageError:
        return "the image is in no known format"
    except (OSError, SyntaxError, ValueError) as damage:
        return f"the image can't be decoded ({damage})"
    if found == (width, height):
        return None
    return f"the image is {found[0]}×{found[1]}, but its index says {width}×{height}"


def _damage_of_signal(split: Split, signal: int) -> str | None:
    try:
        decode_npy(split.encoded(signal), int(split.sizes[signal, 1]))
    except ValueError as damage:
        return f"the signal {damage}"
    return None
