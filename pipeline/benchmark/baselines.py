"""torchvision's loading of the same pictures, in the way its own training references go."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from pipeline.benchmark.train_steps import Bench
from pipeline.config.augmentation import AlexNetCrop, RandomAffine, RandomResizedCrop, ScaleJitter
from pipeline.config.protocol import CenterCrop, TestProtocol
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.sampler import epoch_order
from pipeline.data.store.store import Split


@dataclass(frozen=True)
class BaselineImage:
    """uint8 (c, h, w), and where it came from."""

    pixels: Tensor
    index: int


class BaselineDataset(Dataset[BaselineImage]):
    """Decodes the bytes of a packed split and augments, all in uint8."""

    def __init__(self, split: Split, input: InputConfig, augmentation: v2.Compose) -> None:
        self._split = split
        self._mode = ImageReadMode.RGB if input.color == "rgb" else ImageReadMode.GRAY
        self._augmentation = augmentation

    def __getitem__(self, index: int) -> BaselineImage:
        encoded = torch.from_numpy(self._split.encoded(index).copy())
        return BaselineImage(self._augmentation(decode_image(encoded, self._mode)), index)


def torchvision_batches(bench: Bench, num_workers: int) -> Iterator[Batch]:
    """Load with torchvision what our loader loads: the same batches in the same order, for ever.

    Workers send uint8, a quarter of the bytes; the batch is normalized on the device.
    """
    recipe, device = bench.recipe, bench.device
    loaded = DataLoader(
        BaselineDataset(bench.split, recipe.input, augmentation_of(bench)),
        batch_sampler=_indices(bench),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    layout = torch.channels_last if bench.channels_last else torch.contiguous_format
    mean = torch.tensor(recipe.input.mean, device=device).reshape(1, -1, 1, 1)
    std = torch.tensor(recipe.input.std, device=device).reshape(1, -1, 1, 1)
    for pixels, indices in loaded:
        images = pixels.to(device, non_blocking=True).to(torch.float32, memory_format=layout)
        labels = torch.from_numpy(bench.split.labels[indices.numpy()])
        yield Batch(images.sub_(mean).div_(std), labels.to(device), indices)


def augmentation_of(bench: Bench) -> v2.Compose:
    """Return the nearest thing that torchvision has to the recipe's augmentation, in uint8.

    Colour noise has no counterpart there and is left out; ours costs nothing.
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
            moved = v2.RandomAffine(0, (shift, shift), (least, most), fill=fill)
            steps = [v2.Resize((size, size)), moved]
        case _:
            steps = _as_in_the_test(recipe.evaluation, size)
    if recipe.augmentation.appearance.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)


def numbers_of_workers(num_threads: int) -> list[int]:
    """Return how many workers to try against a loader of `num_threads`: none, half, as many.

    More could take cores that our loader is denied.
    """
    return sorted({0, -(-num_threads // 2), num_threads})


def _as_in_the_test(protocol: TestProtocol, size: int) -> list[v2.Transform]:
    if isinstance(protocol, CenterCrop):
        return [v2.Resize(protocol.resize), v2.CenterCrop(size)]
    return [v2.Resize((size, size))]


def _indices(bench: Bench) -> Iterator[list[int]]:
    dealing = bench.dealing
    for epoch in itertools.count():
        order = epoch_order(bench.recipe.seed, epoch, dealing.num_images)
        for step in range(dealing.num_steps):
            (images,) = dealing.micro_batches(order, step, rank=0)
            yield images.tolist()


def _collate(pictures: list[BaselineImage]) -> tuple[Tensor, Tensor]:
    pixels = torch.stack([picture.pixels for picture in pictures])
    return pixels, torch.tensor([picture.index for picture in pictures])
