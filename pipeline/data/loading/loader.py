"""The loader: a plan of views goes in, batches come out in the same order, by any backend."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol as Interface

import torch
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.color_jitter import jitter_colors
from pipeline.data.loading.inputs_1d import Inputs1D
from pipeline.data.loading.pil import PilImages
from pipeline.data.loading.quarantine import Quarantine, damage_of
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What a worker computes on at once, in the order of its views.

    images: float32 (n, c, h, w), or 1-D inputs (n, 1, length), normalized. labels: int64 (n,).
    indices: int64 (n,), into the split. keys, micro_batches: int64 (n,), as in `Views`. Images,
    labels and keys are on the worker's device, the others stay on the CPU.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    keys: Tensor
    micro_batches: Tensor

    @staticmethod
    def of(images: Tensor, labels: Tensor, indices: Tensor) -> "Batch":
        """Return images that are one micro-batch, with no random numbers."""
        return Batch(images, labels, indices, torch.zeros_like(labels), torch.zeros_like(indices))


class _Backend(Interface):
    """Executes views: tensors of images or 1-D inputs, in the order of the views.

    Colour jitter is left to the `Loader`.
    """

    def __next__(self) -> Tensor: ...

    def close(self) -> None: ...


class Loader:
    """Yields one `Batch` for each `Views`, in order; ends by `StopIteration`.

    With a quarantine, views that can't be decoded are left out of their batches. Without one, and
    where nothing of a batch is left, raises `UserError` naming the first image, of all batches
    begun, that can't be decoded.
    """

    def __init__(
        self,
        split: Split,
        views: Iterable[Views],
        input: InputConfig,
        execute: Callable[[Iterator[Views]], _Backend],
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
        self._backend = execute(self._begin(self._views))

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        try:
            images = next(self._backend)
        except (StopIteration, UserError):
            raise
        except Exception as error:
            if not self._leave_out_damaged(error):
                raise
            return next(self)
        views = self._in_flight.popleft()
        labels = torch.from_numpy(self._split.labels[views.images])
        return Batch(
            images=jitter_colors(images, views, self._input),
            labels=labels.to(self._device),
            indices=torch.from_numpy(views.images),
            keys=torch.from_numpy(views.keys).to(self._device),
            micro_batches=torch.from_numpy(views.micro_batches),
        )

    def close(self) -> None:
        """Release threads and memory; nothing can be loaded afterwards."""
        self._backend.close()

    def _begin(self, views: Iterable[Views]) -> Iterator[Views]:
        for batch in views:
            self._in_flight.append(batch)
            yield batch

    def _leave_out_damaged(self, error: Exception) -> bool:
        """Begin the batches in flight again without what can't be decoded, if there is such.

        A backend does not say which image it was, and can't be used after an error.
        """
        begun = list(self._in_flight)
        kept = [views.take(self._rows_to_show(views, error)) for views in begun]
        if [len(views.images) for views in kept] == [len(views.images) for views in begun]:
            return False
        self._backend.close()
        self._in_flight.clear()
        self._backend = self._execute(self._begin(chain(kept, self._views)))
        return True

    def _rows_to_show(self, views: Views, error: Exception) -> list[int]:
        rows = []
        for row, image in enumerate(views.images.tolist()):
            damage = damage_of(self._split, image)
            if damage is None:
                rows.append(row)
            elif self._quarantine is None:
                raise UserError(
                    f"{self._split.location(image)}: {damage}; run `ilsvrc prepare` again"
                ) from error
            # A part of a damaged image may well be decoded, which must not depend on what else is
            # in flight: its view is tried alone.
            elif self._can_be_shown(views.take([row])):
                rows.append(row)
            else:
                self._quarantine.add(image, damage)
        if not rows:
            raise UserError(
                f"{self._split.location(int(views.images[0]))}: no image of its batch can be "
                "decoded; run `ilsvrc prepare` again"
            ) from error
        return rows

    def _can_be_shown(self, view: Views) -> bool:
        backend = self._execute(iter([view]))
        try:
            next(backend)
        except Exception:  # backends have errors of their own
            return False
        finally:
            backend.close()
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
    """Build the loader that `loading.backend` names; every backend shows the same images.

    No `Views` may hold more than `max_batch_size` images, and all hold `boxes_per_image` views of
    each. `fill` is the grey level outside the images, or None if no box leaves its image
    (`pipeline.config.augmentation.Appearance`). 1-D inputs have one backend. `quarantine` lists
    what can't be decoded. Raises `UserError` where `input` doesn't fit what `split` holds.
    """
    check_contents(split, input)

    def execute(begun: Iterator[Views]) -> _Backend:
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

    Signals (1-D inputs) are shown as they are, so that their length must be `input.size`.
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
