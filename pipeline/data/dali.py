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

from pipeline.cluster import Loading
from pipeline.data.store import Split
from pipeline.data.views import Views
from pipeline.recipe import Input

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
class Instructions:
    """What DALI is told about one batch of n views, in the order of the graph's inputs.

    encoded: n arrays of bytes. start, shape: int32 (n, 2), the part of each image to decode.
    box_start, box_end: float32 (n, 2), relative to the region. mean: float32 (n, channels).
    size: float32 (n, 2), of the result. mirror: int32 (n,). region_start, region_shape: int32
    (n, 2), relative to the decoded part; only a graph with a fill takes them, the others decode the
    region and no more.
    """

    encoded: list[NDArray[np.uint8]]
    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    box_start: NDArray[np.float32]
    box_end: NDArray[np.float32]
    size: NDArray[np.float32]
    mean: NDArray[np.float32]
    mirror: NDArray[np.int32]
    region_start: NDArray[np.int32]
    region_shape: NDArray[np.int32]


_INPUT_TYPES = (
    _BYTE, _INTEGER, _INTEGER, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _INTEGER, _INTEGER, _INTEGER
)  # fmt: skip
_INPUT_DIMENSIONS = (1, 1, 1, 1, 1, 1, 1, 0, 1, 1)
_NUM_REGION_INPUTS = 2


def _num_inputs(fill: int | None) -> int:
    return len(_INPUT_TYPES) - (_NUM_REGION_INPUTS if fill is None else 0)


def instruct(split: Split, views: Views, input: Input) -> Instructions:
    """Translate views into what the graph takes.

    Only pixels inside the image can be decoded; the rest of a region is filled afterwards.
    """
    sizes = split.sizes[views.images].astype(np.int64)
    low, high = views.regions[:, :2], views.regions[:, :2] + views.regions[:, 2:]
    start = np.clip(low, 0, sizes - 1)
    end = np.clip(high, start + 1, sizes)
    box_start = views.boxes[:, :2] - low
    mean = np.array(input.mean, dtype=np.float32) - views.color_shifts[:, : input.num_channels]
    return Instructions(
        encoded=split.encoded_batch(views.images.tolist()),
        start=start.astype(np.int32),
        shape=(end - start).astype(np.int32),
        box_start=box_start.astype(np.float32),
        box_end=(box_start + views.boxes[:, 2:]).astype(np.float32),
        size=np.full((len(views.images), 2), views.size, dtype=np.float32),
        mean=mean,
        mirror=views.flips.astype(np.int32),
        region_start=(low - start).astype(np.int32),
        region_shape=(high - low).astype(np.int32),
    )


@pipeline_def
def view_graph(
    source: Any, device: Literal["cpu", "gpu"], input: Input, fill: int | None, channels_last: bool
) -> DataNode:
    """Decode each region, stretch each box to its size, mirror, tint and normalize.

    `source` gives the fields of `Instructions`. The output is float32, HWC or CHW.
    """
    num_inputs = _num_inputs(fill)
    encoded, start, shape, box_start, box_end, size, mean, mirror, *region = fn.external_source(
        source=source,
        num_outputs=num_inputs,
        batch=True,
        no_copy=True,
        dtype=list(_INPUT_TYPES[:num_inputs]),
        ndim=list(_INPUT_DIMENSIONS[:num_inputs]),
    )
    images: Any = fn.decoders.image_slice(
        encoded,
        device="mixed" if device == "gpu" else "cpu",
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.DALIImageType.RGB if input.color == "rgb" else types.DALIImageType.GRAY,
        adjust_orientation=False,  # the index holds the sizes as stored
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
    images = fn.resize(
        images,
        device=device,
        size=size,
        roi_start=box_start,
        roi_end=box_end,
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    return fn.crop_mirror_normalize(
        images,
        device=device,
        dtype=_FLOAT,
        output_layout="HWC" if channels_last else "CHW",
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
        input: Input,
        loading: Loading,
        device: torch.device,
        *,
        max_batch_size: int,
        fill: int | None,
        channels_last: bool,
    ) -> None:
        self._channels_last = channels_last
        # DALI reads the arrays in place and keeps no reference to them.
        in_use: deque[Instructions] = deque(maxlen=loading.prefetch + _BATCHES_IN_USE)

        def next_instructions() -> tuple[Any, ...]:
            in_use.append(instruct(split, next(views), input))
            return tuple(vars(in_use[-1]).values())[: _num_inputs(fill)]

        graph: Pipeline = view_graph(
            next_instructions,
            device="gpu" if device.type == "cuda" else "cpu",
            input=input,
            fill=fill,
            channels_last=channels_last,
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
