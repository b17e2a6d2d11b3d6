"""Section D: a GPU shows the pictures that a CPU shows; how much of its memory loading takes."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.loading import loading_bench
from benchmarks.gpu_check.pictures import open_pictures, write_encodings, write_truncated
from benchmarks.gpu_check.sections import Case, Figures, Measured, Setting
from pipeline.benchmark.train_steps import open_loader
from pipeline.config.augmentation import (
    AlexNetCrop,
    Augmentation,
    ColorJitter,
    NoAugmentation,
    RandomAffine,
    RandomResizedCrop,
    ScaleJitter,
)
from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import BoxProtocol, CenterCrop, WholeImage, grid, ten_crop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loader import build_loader
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.views import Views, evaluation_views, training_views, whole_views
from pipeline.data.store.store import Split

# In grey levels, the largest of the images' mean differences. Decoders differ in their inverse DCT;
# nearest-neighbour chroma alone would be more than this.
_TOLERANCE = 2.0

_INPUT = InputConfig(size=224, mean=(0, 0, 0), std=(1, 1, 1))
_CENTER = CenterCrop(resize=256)
_AUGMENTATIONS: dict[str, Augmentation] = {
    "none": NoAugmentation(),
    "shift-scale": RandomAffine(max_shift=0.2, min_scale=0.7, max_scale=1.4, fill=90),
    "alexnet": AlexNetCrop(color_noise=0.1),
    "scale-jitter": ScaleJitter(min_side=256, max_side=512, color_noise=0.1),
    "area": RandomResizedCrop(
        color_jitter=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        color_noise=0.1,
        color_components="fb",
    ),
}
_PROTOCOLS: dict[str, BoxProtocol] = {
    "whole": WholeImage(),
    "center": _CENTER,
    "ten-crop": ten_crop(256),
    "grid": grid(256, 384),
}


def decoding_cases(setting: Setting) -> Iterator[Case]:
    """Compare DALI on the device with DALI on the CPU and with Pillow; measure its memory."""
    pictures = open_pictures(setting.folder / "pictures")
    if setting.on_gpu:
        for batch_size in (32, 256):  # before other loaders: DALI keeps what it has once taken
            yield Case(f"memory at {batch_size} a batch", partial(_memory, setting, batch_size))
    images = np.arange(min(4 if setting.small else 32, len(pictures)))
    for name, augmentation in _AUGMENTATIONS.items():
        views = training_views(augmentation, _CENTER, 224, images, pictures.sizes[images], 0, 0)
        fill = augmentation.appearance.fill
        yield Case(f"augmentation {name}", partial(_compare, setting, pictures, views, fill))
    few = images[: len(images) // 4]
    for name, protocol in _PROTOCOLS.items():
        views = evaluation_views(protocol, 224, few, pictures.sizes[few])
        yield Case(f"protocol {name}", partial(_compare, setting, pictures, views, None))
    dense = whole_views((256, 341), few, pictures.sizes[few])
    yield Case("protocol dense", partial(_compare, setting, pictures, dense, None))
    encodings = write_encodings(setting.folder / "encodings")
    for row, key in enumerate(encodings.keys):
        views = evaluation_views(_CENTER, 224, np.array([row]), encodings.sizes[[row]])
        yield Case(f"encoding {key}", partial(_compare, setting, encodings, views, None))
    yield Case("truncated", partial(_truncated, setting))


def _compare(setting: Setting, split: Split, views: Views, fill: int | None) -> Measured:
    cpu = torch.device("cpu")
    ours = _images(split, views, LoadingConfig(threads=2), setting.device, fill).cpu()
    others = {
        "from DALI on a CPU": _images(split, views, LoadingConfig(threads=2), cpu, fill),
        "from Pillow": _images(split, views, LoadingConfig(backend="reference"), cpu, fill),
    }
    worst: Figures = {
        name: float((ours - theirs).abs().mean(dim=(1, 2, 3)).max())
        for name, theirs in others.items()
    }
    return Measured(worst, holds=all(float(value) < _TOLERANCE for value in worst.values()))


def _images(
    split: Split, views: Views, loading: LoadingConfig, device: torch.device, fill: int | None
) -> Tensor:
    loader = build_loader(
        split,
        [views],
        _INPUT,
        loading,
        device,
        max_batch_size=len(views.images) // views.boxes_per_image,
        fill=fill,
        channels_last=True,
        boxes_per_image=views.boxes_per_image,
    )
    with closing(loader):
        return next(loader).images.clone()


def _truncated(setting: Setting) -> Measured:
    """A truncated image is left out alone, as on a CPU."""
    split = write_truncated(setting.folder / "truncated")
    kept = [_kept(setting, split, device) for device in (setting.device, torch.device("cpu"))]
    return Measured({"kept": str(kept[0]), "on a CPU": str(kept[1])}, kept[0] == kept[1])


def _kept(setting: Setting, split: Split, device: torch.device) -> list[int]:
    images = np.arange(len(split))
    quarantine = Quarantine(setting.folder / device.type, split, 1.0, lambda line: None)
    loader = build_loader(
        split,
        [evaluation_views(_CENTER, 224, images, split.sizes)],
        _INPUT,
        LoadingConfig(),
        device,
        max_batch_size=len(images),
        fill=None,
        channels_last=True,
        quarantine=quarantine,
    )
    with closing(loader):
        kept: list[int] = next(loader).indices.tolist()
    return kept


def _memory(setting: Setting, batch_size: int) -> Measured:
    """How much of the GPU's memory is taken by loaders so far, each batch of one size."""
    torch.zeros(1, device=setting.device)  # so that CUDA's own share is there before
    before, _ = torch.cuda.mem_get_info(setting.device)
    bench = loading_bench(setting, batch_size, LoadingConfig(threads=4))
    with closing(open_loader(bench)) as batches:
        for _ in islice(batches, 8):
            torch.cuda.synchronize()
        after, _ = torch.cuda.mem_get_info(setting.device)
    return Measured({"GB more": (before - after) / 1e9})
