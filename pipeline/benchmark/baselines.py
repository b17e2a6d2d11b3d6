"""torchvision's loading of the same images, as its own training references do it."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from pipeline.benchmark.train_steps import Bench
from pipeline.config.augmentation import (
    AlexNetCrop,
    NoAugmentation,
    RandomAffine,
    RandomResizedCrop,
    ScaleJitter,
)
from pipeline.config.protocol import CenterCrop, TestProtocol
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.sampler import epoch_order
from pipeline.data.store.store import Split


@dataclass(frozen=True)
class BaselineImage:
    """An image, uint8 (c, h, w), and its index in the split."""

    pixels: Tensor
    index: int


class BaselineDataset(Dataset[BaselineImage]):
    """The images of a packed split, decoded and augmented in uint8."""

    def __init__(self, split: Split, input: InputConfig, augmentation: v2.Compose) -> None:
        self._split = split
        self._mode = ImageReadMode.RGB if input.color == "rgb" else ImageReadMode.GRAY
        self._augmentation = augmentation

    def __getitem__(self, index: int) -> BaselineImage:
        encoded = torch.from_numpy(self._split.encoded(index).copy())
        return BaselineImage(self._augmentation(decode_image(encoded, self._mode)), index)


def torchvision_batches(bench: Bench, num_workers: int) -> Iterator[Batch]:
    """Yield the batches that our loader yields, loaded by torchvision, without end.

    Its workers send uint8, a quarter of the bytes; batches are normalized on the device.
    """
    recipe, device = bench.recipe, bench.device
    loader = DataLoader(
        BaselineDataset(bench.split, recipe.input, augmentation_of(bench)),
        batch_sampler=_batch_indices(bench),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    layout = torch.channels_last if bench.channels_last else torch.contiguous_format
    mean = torch.tensor(recipe.input.mean, device=device).reshape(1, -1, 1, 1)
    std = torch.tensor(recipe.input.std, device=device).reshape(1, -1, 1, 1)
    for pixels, indices in loader:
        images = pixels.to(device, non_blocking=True).to(torch.float32, memory_format=layout)
        labels = torch.from_numpy(bench.split.labels[indices.numpy()])
        yield Batch.of(images.sub_(mean).div_(std), labels.to(device), indices)


def augmentation_of(bench: Bench) -> v2.Compose:
    """Return the nearest thing that torchvision has to the recipe's augmentation, in uint8.

    PCA lighting has no counterpart there and is left out; ours costs nothing.
    """
    recipe, size = bench.recipe, bench.recipe.input.size
    match recipe.augmentation:
        case RandomResizedCrop(min_area=least, max_area=most, max_aspect_ratio=ratio):
            steps = [v2.RandomResizedCrop(size, (least, most), (1 / ratio, ratio))]
        case ScaleJitter(min_side=least, max_side=most):
            steps = [v2.RandomShortestSize(list(range(least, most + 1))), v2.RandomCrop(size)]
        case AlexNetCrop(resize=side):
            steps = [v2.Resize(side), v2.CenterCrop(side), v2.RandomCrop(size)]
        case RandomAffine(max_shift=shift, min_scale=least, max_scale=most, fill=fill):
            affine = v2.RandomAffine(0, (shift, shift), (least, most), fill=fill)
            steps = [v2.Resize((size, size)), affine]
        case NoAugmentation():
            steps = _evaluation_transforms(recipe.evaluation, size)
        case _:
            assert_never(recipe.augmentation)
    flips = [v2.RandomHorizontalFlip()] if recipe.augmentation.appearance.flip else []
    return v2.Compose([*steps, *flips])


def worker_counts(num_threads: int) -> list[int]:
    """Return the numbers of workers to try against a loader of `num_threads`: 0, half, as many.

    More could use cores that our loader may not.
    """
    return sorted({0, -(-num_threads // 2), num_threads})


def _evaluation_transforms(protocol: TestProtocol, size: int) -> list[v2.Transform]:
    if isinstance(protocol, CenterCrop):
        return [v2.Resize(protocol.resize), v2.CenterCrop(size)]
    return [v2.Resize((size, size))]


def _batch_indices(bench: Bench) -> Iterator[list[int]]:
    sampler = bench.sampler
    for epoch in itertools.count():
        order = epoch_order(bench.recipe.seed, epoch, sampler.num_images)
        for step in range(sampler.num_steps):
            (images,) = sampler.micro_batches(order, step, rank=0)
            yield images.tolist()


def _collate(images: list[BaselineImage]) -> tuple[Tensor, Tensor]:
    pixels = torch.stack([image.pixels for image in images])
    return pixels, torch.tensor([image.index for image in images])
