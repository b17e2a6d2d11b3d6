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
from nvidia.dali.tensors import TensorCPU, TensorListCPU
from torch import Tensor

from pipeline.config.boxes import Interpolation
from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loading_memory import size_to_preallocate
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split

# Decoded images differ in size and fragment the C library's heap: about a fifth more memory after
# 20 epochs. With DALI's own pool it stays constant. DALI reads this when it first allocates.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "4M")

# Batches that DALI may still read, besides those ahead: the one that runs, the one handed over,
# and two that a GPU may not have copied yet.
_BATCHES_IN_USE = 4

_BYTE, _INTEGER, _FLOAT = (
    types.DALIDataType.UINT8,
    types.DALIDataType.INT32,
    types.DALIDataType.FLOAT,
)


_INTERPOLATIONS: dict[Interpolation, types.DALIInterpType] = {
    "bilinear": types.DALIInterpType.INTERP_LINEAR,
    "bicubic": types.DALIInterpType.INTERP_CUBIC,
    "lanczos": types.DALIInterpType.INTERP_LANCZOS3,
}


@dataclass(frozen=True)
class DaliInputs:
    """The inputs of DALI's graph for one batch of n images.

    encoded: n arrays of bytes. start, shape: int32 (n, 2), the part of each image to decode.
    size: float32 (n, 2), of the result. mean: float32 (n, channels). mirror: int32 (n,).
    support_start, support_shape: int32 (n, 2), what the filter may read, relative to the decoded
    part; only a graph with a fill takes them, the others decode the support and no more. boxes: for
    each box of an image, where it starts and ends, float32 (n, 2) each, relative to the support.
    """

    encoded: list[NDArray[np.uint8]]
    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    size: NDArray[np.float32]
    mean: NDArray[np.float32]
    mirror: NDArray[np.int32]
    support_start: NDArray[np.int32]
    support_shape: NDArray[np.int32]
    boxes: tuple[NDArray[np.float32], ...]

    def in_order(self, fill: int | None) -> tuple[TensorListCPU, ...]:
        """Return the inputs of a graph with this `fill`, in its order."""
        arrays = (self.start, self.shape, self.size, self.mean, self.mirror)
        support = () if fill is None else (self.support_start, self.support_shape)
        # DALI would make the same of arrays, after many checks in Python.
        encoded = TensorListCPU(
            [TensorCPU(image) for image in self.encoded],
            contiguous=False,  # type: ignore[call-overload]  # not in its stub
        )
        return (encoded, *map(TensorListCPU, (*arrays, *support, *self.boxes)))


_TYPES = (_BYTE, _INTEGER, _INTEGER, _FLOAT, _FLOAT, _INTEGER)
_DIMENSIONS = (1, 1, 1, 1, 1, 0)


def dali_inputs(split: Split, views: Views, input: InputConfig) -> DaliInputs:
    """Translate views into inputs of the graph.

    Only pixels inside the image can be decoded; the rest of a support is filled afterwards.
    """
    num_boxes = views.boxes_per_image
    images = views.images[::num_boxes]
    sizes = split.sizes[images].astype(np.int64)
    lows, sides = views.support[:, :2], views.support[:, 2:]
    low = lows.reshape(-1, num_boxes, 2).min(axis=1)
    high = (lows + sides).reshape(-1, num_boxes, 2).max(axis=1)
    start = np.clip(low, 0, sizes - 1)
    end = np.clip(high, start + 1, sizes)
    boxes = views.boxes.reshape(-1, num_boxes, 4)
    box_starts = (boxes[..., :2] - low[:, None]).astype(np.float32)
    box_ends = (boxes[..., :2] - low[:, None] + boxes[..., 2:]).astype(np.float32)
    lighting = views.lighting[::num_boxes, : input.num_channels]
    return DaliInputs(
        encoded=split.verified_batch(images.tolist()),
        start=start.astype(np.int32),
        shape=(end - start).astype(np.int32),
        size=np.full((len(images), 2), views.shape, dtype=np.float32),
        mean=np.array(input.mean, dtype=np.float32) - lighting,
        mirror=views.flips[::num_boxes].astype(np.int32),
        support_start=(low - start).astype(np.int32),
        support_shape=(high - low).astype(np.int32),
        boxes=tuple(
            np.ascontiguousarray(edges[:, box])
            for box in range(num_boxes)
            for edges in (box_starts, box_ends)
        ),
    )


@dataclass(frozen=True)
class GpuDecoder:
    """How a GPU decodes.

    hardware_load: the share of the images that its JPEG engine takes, if it has one. height, width:
    in pixels, of the images for which that allocates memory at first.
    """

    hardware_load: float
    height: int
    width: int

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of DALI's operator that only a GPU takes."""
        return {
            "hw_decoder_load": self.hardware_load,
            "preallocate_height_hint": self.height,
            "preallocate_width_hint": self.width,
            # As libjpeg does on the CPU. Its default repeats the nearest chroma.
            "jpeg_fancy_upsampling": True,
        }


@pipeline_def
def view_graph(
    source: Any,
    device: Literal["cpu", "gpu"],
    input: InputConfig,
    fill: int | None,
    channels_last: bool,
    boxes_per_image: int = 1,
    gpu_decoder: GpuDecoder | None = None,
) -> DataNode:
    """Decode each support once, stretch its boxes to their size, mirror, light and normalize.

    `source` returns `DaliInputs.in_order`. The output is float32, HWC or CHW, with an axis of an
    image's boxes before these where there are several. Without `gpu_decoder`, the CPU decodes.
    """
    num_edges = 2 * boxes_per_image
    support_types = [] if fill is None else [_INTEGER, _INTEGER]
    data_types = [*_TYPES, *support_types, *[_FLOAT] * num_edges]
    encoded, start, shape, size, mean, mirror, *others = fn.external_source(
        source=source,
        num_outputs=len(data_types),
        batch=True,
        no_copy=True,
        dtype=data_types,
        ndim=[*_DIMENSIONS, *[1] * (len(data_types) - len(_DIMENSIONS))],
    )
    support, edges = others[:-num_edges], others[-num_edges:]
    images: Any = fn.decoders.image_slice(
        encoded,
        device="mixed" if gpu_decoder else "cpu",
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.DALIImageType.RGB if input.color == "rgb" else types.DALIImageType.GRAY,
        adjust_orientation=False,  # the index holds the sizes as stored
        **(gpu_decoder.arguments() if gpu_decoder else {}),
    )
    if device == "gpu" and not gpu_decoder:
        images = images.gpu()
    if fill is not None:
        support_start, support_shape = support
        images = fn.slice(
            images,
            device=device,
            start=support_start,
            shape=support_shape,
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
            interp_type=_INTERPOLATIONS[input.interpolation],
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
        mean=mean,  # per image: it includes the lighting
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

        def next_inputs() -> tuple[Any, ...]:
            in_use.append(dali_inputs(split, next(views), input))
            return in_use[-1].in_order(fill)

        on_gpu = device.type == "cuda"
        gpu_decoder = None
        if on_gpu and loading.decoder == "gpu":
            shape = size_to_preallocate(split.sizes, max_batch_size)
            gpu_decoder = GpuDecoder(loading.hw_decoder_load, *shape)
        self._graph: Pipeline = view_graph(
            next_inputs,
            device="gpu" if on_gpu else "cpu",
            input=input,
            fill=fill,
            channels_last=channels_last,
            boxes_per_image=boxes_per_image,
            gpu_decoder=gpu_decoder,
            batch_size=max_batch_size,
            num_threads=loading.threads,
            prefetch_queue_depth=loading.prefetch,
            device_id=_device_id(device),
        )

    def __next__(self) -> Tensor:
        self._graph.schedule_run()  # at first, as many as it prefetches
        (outputs,) = self._graph.outputs()  # waits for them
        # Without a copy: with DALI's dynamic executor they are valid as long as they are used.
        images = torch.from_dlpack(outputs.as_tensor())
        images = images.reshape(-1, *images.shape[-3:])  # an image's boxes one after another
        return images.permute(0, 3, 1, 2) if self._channels_last else images

    def close(self) -> None:
        """Release threads and memory."""
        del self._graph


def dali_versions() -> tuple[str, int]:
    """Return DALI's version, and that of the CUDA it was built for: 1000 × major + …, as CUDA's."""
    return nvidia.dali.__version__, nvidia.dali.backend.__cuda_version__  # type: ignore[attr-defined]


def _device_id(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
