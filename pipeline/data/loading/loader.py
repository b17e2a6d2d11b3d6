"""The loader: a plan of views goes in, batches come out in the same order, by any backend."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.color_jitter import jitter_colors
from pipeline.data.loading.device_memory import (
    DeviceEvent,
    HeldImages,
    event_recorder,
    to_device,
)
from pipeline.data.loading.inputs_1d import Inputs1D
from pipeline.data.loading.pil import PilImages
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.thread_ahead import Source, ThreadAhead
from pipeline.data.loading.views import Views
from pipeline.data.loading.windows import Backend, LoadedBatch, WindowLoader
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What a worker computes on at once, in the order of its views.

    images: float32 (n, c, h, w), or 1-D inputs (n, 1, length), normalized. labels: int64 (n,).
    indices: int64 (n,), into the split. keys, micro_batches: int64 (n,), as in `Views`. Images,
    labels and keys are on the worker's device, the others stay on the CPU. seconds_waiting: how
    long the host waited for it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    keys: Tensor
    micro_batches: Tensor
    seconds_waiting: float = 0.0

    @staticmethod
    def of(images: Tensor, labels: Tensor, indices: Tensor) -> "Batch":
        """Return images that are one micro-batch, with no random numbers."""
        return Batch(images, labels, indices, torch.zeros_like(labels), torch.zeros_like(indices))


class Loader:
    """Yields one `Batch` for each `Views`, in order; ends by `StopIteration`.

    `source` loads in a thread ahead, and its errors are raised here. A batch's images are valid
    until the next one is asked for, and afterwards for what was queued on the device by then, on
    the stream of the calling thread. `record`: see `HeldImages`.
    """

    def __init__(
        self,
        source: Source[list[LoadedBatch]],
        split: Split,
        input: InputConfig,
        device: torch.device,
        record: Callable[[], DeviceEvent],
    ) -> None:
        self._split = split
        self._input = input
        self._device = device
        self._held = HeldImages(record)
        self._ready: deque[LoadedBatch] = deque()
        self._windows = ThreadAhead(source)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        self._held.release()
        started = time.perf_counter()
        if not self._ready:
            self._ready.extend(next(self._windows))
        seconds_waiting = time.perf_counter() - started
        loaded = self._ready.popleft()
        self._held.hold(loaded.images)
        views = loaded.views
        images = to_device(loaded.images, self._device)
        labels = torch.from_numpy(self._split.labels[views.images])
        return Batch(
            images=jitter_colors(images, views, self._input),
            labels=to_device(labels, self._device),
            indices=torch.from_numpy(views.images),
            keys=to_device(torch.from_numpy(views.keys), self._device),
            micro_batches=torch.from_numpy(views.micro_batches),
            seconds_waiting=seconds_waiting,
        )

    def close(self) -> None:
        """Release threads and memory; nothing can be loaded afterwards."""
        self._ready.clear()
        self._windows.close()
        self._held.close()


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
    what can't be decoded (`WindowLoader`). Raises `UserError` where `input` doesn't fit what
    `split` holds.
    """
    check_contents(split, input)

    def execute(begun: Iterator[Views]) -> Backend:
        if split.contents == "signals":
            return Inputs1D(split, begun, input)
        if loading.backend == "reference":
            return PilImages(split, begun, input, fill=fill, channels_last=channels_last)
        # Imported late: DALI exists for Linux only, and loads slowly.
        from pipeline.data.loading.dali import DaliImages

        return DaliImages(
            split,
            begun,
            input,
            loading,
            device,
            max_batch_size=max(max_batch_size, loading.window),
            fill=fill,
            channels_last=channels_last,
            boxes_per_image=boxes_per_image,
        )

    source = WindowLoader(split, views, execute, quarantine, loading.window)
    return Loader(source, split, input, device, event_recorder(device))


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
