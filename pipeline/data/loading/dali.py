"""Executes views by DALI: one graph, which decodes and resizes on the GPU or on the CPU."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import nvidia.dali.backend
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split

# Decoded images differ in size, and the C library's heap frays under them: about a fifth more
# memory after 20 epochs. DALI's own pool keeps it flat. DALI reads this when it first allocates.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "4M")

# Batches that DALI may still read, besides those ahead: the one that runs, the one handed over,
# and two that a GPU may not have copied yet.
_BATCHES_IN_USE = 4

_BYTE, _INTEGER, _FLOAT = (
    types.DALIDataType.UINT8,
    types.DALIDataType.INT32,
    types.DALIDataType.FLOAT,
)


@dataclass(frozen=True)
class DaliInputs:
    """What DALI is told about one batch of n images, in the order of the graph's inputs.

    encoded: n arrays of bytes. start, shape: int32 (n, 2), the part of each image to decode.
    mean: float32 (n, channels). size: float32 (n, 2), of the result. mirror: int32 (n,).
    region_start, region_shape: int32 (n, 2), relative to the decoded part; only a graph with a fill
    takes them, the others decode the region and no more. boxes: for each box of an image, where it
    starts and ends, float32 (n, 2) each, relative to the region.
    """

    encoded: list[NDArray[np.uint8]]
    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    size: NDArray[np.float32]
    mean: NDArray[np.float32]
    mirror: NDArray[np.int32]
    region_start: NDArray[np.int32]
    region_shape: NDArray[np.int32]
    boxes: tuple[NDArray[np.float32], ...]

    def inputs(self, fill: int | None) -> tuple[Any, ...]:
        """Return what a graph with this `fill` takes."""
        *fields, boxes = vars(self).values()
        return (*fields[: len(_input_types(fill))], *boxes)


_TYPES = (_BYTE, _INTEGER, _INTEGER, _FLOAT, _FLOAT, _INTEGER)
_DIMENSIONS = (1, 1, 1, 1, 1, 0)
_REGION_TYPES = (_INTEGER, _INTEGER)


def _input_types(fill: int | None) -> tuple[types.DALIDataType, ...]:
    return _TYPES if fill is None else _TYPES + _REGION_TYPES


def dali_inputs(split: Split, views: Views, input: InputConfig) -> DaliInputs:
    """Translate views into what the graph takes.

    Only pixels inside the image can be decoded; the rest of a region is filled afterwards.
    """
    each = views.boxes_per_image
    images = views.images[::each]
    sizes = split.sizes[images].astype(np.int64)
    lows, sides = views.regions[:, :2], views.regions[:, 2:]
    low = lows.reshape(-1, each, 2).min(axis=1)
    high = (lows + sides).reshape(-1, each, 2).max(axis=1)
    start = np.clip(low, 0, sizes - 1)
    end = np.clip(high, start + 1, sizes)
    boxes = views.boxes.reshape(-1, each, 4)
    box_starts = (boxes[..., :2] - low[:, None]).astype(np.float32)
    box_ends = (boxes[..., :2] - low[:, None] + boxes[..., 2:]).astype(np.float32)
    shifts = views.color_shifts[::each, : input.num_channels]
    return DaliInputs(
        encoded=split.encoded_batch(images.tolist()),
        start=start.astype(np.int32),
        shape=(end - start).astype(np.int32),
        size=np.full((len(images), 2), views.shape, dtype=np.float32),
        mean=np.array(input.mean, dtype=np.float32) - shifts,
        mirror=views.flips[::each].astype(np.int32),
        region_start=(low - start).astype(np.int32),
        region_shape=(high - low).astype(np.int32),
        boxes=tuple(
            np.ascontiguousarray(edges[:, box])
            for box in range(each)
            for edges in (box_starts, box_ends)
        ),
    )


@pipeline_def
def view_graph(
    source: Any,
    device: Literal["cpu", "gpu"],
    input: InputConfig,
    fill: int | None,
    channels_last: bool,
    boxes_per_image: int = 1,
    largest: tuple[int, int] = (0, 0),
) -> DataNode:
    """Decode each region once, stretch its boxes to their size, mirror, tint and normalize.

    `source` gives the `inputs` of `DaliInputs`. The output is float32, HWC or CHW, with an axis
    of an image's boxes before these where there are several. `largest`, the height and width that
    no image exceeds, has the GPU's decoder take its memory once.
    """
    num_edges = 2 * boxes_per_image
    data_types = [*_input_types(fill), *[_FLOAT] * num_edges]
    encoded, start, shape, size, mean, mirror, *others = fn.external_source(
        source=source,
        num_outputs=len(data_types),
        batch=True,
        no_copy=True,
        dtype=data_types,
        ndim=[*_DIMENSIONS, *[1] * (len(data_types) - len(_DIMENSIONS))],
    )
    region, edges = others[:-num_edges], others[-num_edges:]
    height, width = largest
    memory: Any = {"preallocate_height_hint": height, "preallocate_width_hint": width}
    memory = memory if device == "gpu" else {}
    images: Any = fn.decoders.image_slice(
        encoded,
        device="mixed" if device == "gpu" else "cpu",
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.DALIImageType.RGB if input.color == "rgb" else types.DALIImageType.GRAY,
        adjust_orientation=False,  # the index holds the sizes as stored
        **memory,
    )
    if fill is not None:
        region_start, region_shape = region
        images = fn.slice(
            images,
            device=device,
            start=region_start,
            shape=region_shape,
            axis_names="HW",
            out_of_bounds_policy="pad",
            fill_values=[fill],
        )
    views: list[Any] = [
        fn.resize(
            images,
            device=device,
            size=size,
            roi_start=box_start,
            roi_end=box_end,
            interp_type=types.DALIInterpType.INTERP_LINEAR,
            antialias=True,
        )
        for box_start, box_end in zip(edges[::2], edges[1::2], strict=True)
    ]
    several = boxes_per_image > 1
    images = fn.stack(*views, device=device, axis_name="F") if several else views[0]
    return fn.crop_mirror_normalize(
        images,
        device=device,
        dtype=_FLOAT,
        output_layout="F" * several + ("HWC" if channels_last else "CHW"),
        mirror=mirror,
        mean=mean,  # per image: the colour shift is in it
        std=list(input.std),
    )


class DaliImages:
    """Yields the images of each `Views`, float32 (n, c, h, w) on `device`, in order.

    Raises `RuntimeError` when DALI can't decode an image; it may be one of a batch ahead.
    """

    def __init__(
        self,
        split: Split,
        views: Iterator[Views],
        input: InputConfig,
        loading: LoadingConfig,
        device: torch.device,
        *,
        max_batch_size: int,
        fill: int | None,
        channels_last: bool,
        boxes_per_image: int = 1,
    ) -> None:
        self._channels_last = channels_last
        # DALI reads the arrays in place and keeps no reference to them.
        in_use: deque[DaliInputs] = deque(maxlen=loading.prefetch + _BATCHES_IN_USE)

        def next_instructions() -> tuple[Any, ...]:
            in_use.append(dali_inputs(split, next(views), input))
            return in_use[-1].inputs(fill)

        graph: Pipeline = view_graph(
            next_instructions,
            device="gpu" if device.type == "cuda" else "cpu",
            input=input,
            fill=fill,
            channels_last=channels_last,
            boxes_per_image=boxes_per_image,
            largest=tuple(split.sizes.max(axis=0).tolist()),
            batch_size=max_batch_size,
            num_threads=loading.threads,
            prefetch_queue_depth=loading.prefetch,
            device_id=_device_id(device),
        )
        self._iterator = DALIGenericIterator(
            [graph],
            ["images"],
            size=-1,
            last_batch_policy=LastBatchPolicy.PARTIAL,
            prepare_first_batch=False,
        )

    def __iter__(self) -> "DaliImages":
        return self

    def __next__(self) -> Tensor:
        images: Tensor = next(self._iterator)[0]["images"]
        images = images.reshape(-1, *images.shape[-3:])  # an image's boxes one after another
        return images.permute(0, 3, 1, 2) if self._channels_last else images

    def close(self) -> None:
        """Give threads and memory back."""
        del self._iterator


def dali_versions() -> tuple[str, int]:
    """Return DALI's version, and that of the CUDA it was built for: 1000 × major + …, as CUDA's."""
    return nvidia.dali.__version__, nvidia.dali.backend.__cuda_version__  # type: ignore[attr-defined]


def _device_id(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
