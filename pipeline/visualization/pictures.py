"""Pictures of what a trained network has learned, each as a sheet with a file's name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop, SingleView, TestProtocol, WholeImage
from pipeline.config.recipe import InputConfig, Recipe
from pipeline.data.loading.loader import Batch, build_loader
from pipeline.data.loading.views import evaluation_views
from pipeline.data.store.store import Split
from pipeline.models.classifier import ImageClassifier
from pipeline.models.profile import LayerProfile, profile_model
from pipeline.runtime.errors import UserError
from pipeline.visualization.activations import Activation, strongest
from pipeline.visualization.deconvnet import project, reversible
from pipeline.visualization.filters import filter_pictures, first_layer_filters
from pipeline.visualization.image_grid import (
    captioned,
    enlarged,
    grid,
    heat,
    side_by_side,
    signed_to_pixels,
    to_pixels,
)
from pipeline.visualization.occlusion import occlude

_PATCH, _IMAGE, _NUM_UNITS, _BATCH = 72, 224, 9, 64


@dataclass(frozen=True)
class NamedImage:
    """A picture, and the name of its file without a suffix."""

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class VisualizedModel:
    """A trained network in `eval` mode, the split that it looks at, its classes' names."""

    model: ImageClassifier
    recipe: Recipe
    split: Split
    class_names: Sequence[str]
    loading: LoadingConfig
    device: torch.device

    def batches(self, images: NDArray[np.int64]) -> Iterator[Batch]:
        """Load one view of each of `images`, in this order: that of the recipe's test."""
        recipe, split = self.recipe, self.split
        protocol = _one_view(recipe.evaluation, recipe.input.size)
        views = (
            evaluation_views(protocol, recipe.input.size, chosen, split.sizes[chosen])
            for chosen in np.array_split(images, max(1, -(-len(images) // _BATCH)))
        )
        loader = build_loader(
            split, views, recipe.input, self.loading, self.device,
            max_batch_size=_BATCH, fill=None, channels_last=False,
        )  # fmt: skip
        with closing(loader):
            yield from loader

    def images(self, indices: Sequence[int]) -> Tensor:
        """Load images by their index, (n, c, h, w), normalized."""
        found = self.batches(np.array(indices, dtype=np.int64))
        return torch.cat([batch.images for batch in found])


def draw(
    specimen: VisualizedModel,
    what: str,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    num_images: int = 6,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NamedImage:
    """Draw one sheet.

    `layer` and `units` are for activations and deconvnet: by default the last convolution, and
    nine units at even distances among those that answer to nine images. `num_images` is for
    occlusion: so many images at even distances in the split. Raises `UserError` for a network over
    signals, and for a layer or unit that there is not.
    """
    if specimen.recipe.input.dimensions != 2:
        raise UserError("signals have no pictures to show; choose a run on images")
    match what:
        case "filters":
            return _filters(specimen)
        case "occlusion":
            return _occlusions(specimen, num_images, progress)
        case "activations" | "deconvnet":
            seen = _layer(specimen, layer)
            return _activations(specimen, seen, units, progress, projected=what == "deconvnet")
        case _:
            raise UserError(f"--what {what}: choose filters, activations, deconvnet or occlusion")


def filters_picture(filters: Tensor) -> Image.Image:
    """Lay the filters of a first layer out on a grid; the 96 of AlexNet in eight rows of twelve."""
    side = max(2, round(44 / filters.shape[-1])) * filters.shape[-1]
    columns = 12 if len(filters) == 96 else None
    pictures = filter_pictures(filters)
    return grid([enlarged(to_pixels(p), side, smooth=False) for p in pictures], columns)


def _one_view(protocol: TestProtocol, size: int) -> SingleView:
    """Return the protocol itself, or the centre at its smallest side where it has more views."""
    match protocol:
        case WholeImage():
            return protocol
        case CenterCrop():
            return protocol.model_copy(update={"flip": False})
        case _:
            return CenterCrop(resize=protocol.smallest_side(size))


def _filters(specimen: VisualizedModel) -> NamedImage:
    return NamedImage("filters", filters_picture(first_layer_filters(specimen.model)))


def _activations(
    specimen: VisualizedModel,
    layer: LayerProfile,
    units: Sequence[int] | None,
    progress: Callable[[int, int], None],
    projected: bool,
) -> NamedImage:
    everything = np.arange(len(specimen.split))
    backwards = reversible(specimen.model) if projected else None
    counted = _counted(specimen.batches(everything), len(everything), progress)
    found = strongest(specimen.model, layer.name, counted)
    blocks = []
    for unit in _chosen(found, units, layer.name):
        images = specimen.images([activation.image for activation in found[unit]])
        pictures = [_pixels(image, specimen.recipe.input) for image in images]
        nine = [_patches(pictures, found[unit], layer)]
        if backwards is not None:
            back = project(backwards, layer.name, images, unit, found[unit])
            nine.append(_patches([signed_to_pixels(p) for p in back], found[unit], layer))
        strength = f"{found[unit][0].value:.3g} to {found[unit][-1].value:.3g}"
        blocks.append(captioned(side_by_side(nine), f"{layer.name}, unit {unit}: {strength}"))
    name = "deconvnet" if projected else "activations"
    columns = 2 if projected else 3
    return NamedImage(f"{name}-{layer.name}", grid(_same_size(blocks), min(columns, len(blocks))))


def _occlusions(
    specimen: VisualizedModel, num_images: int, progress: Callable[[int, int], None]
) -> NamedImage:
    chosen = np.linspace(0, len(specimen.split) - 1, min(num_images, len(specimen.split)))
    indices = np.unique(chosen.astype(np.int64))
    rows = []
    for done, image in enumerate(specimen.images(indices.tolist())):
        label = int(specimen.split.labels[indices[done]])
        if label < 0:
            raise UserError(f"split '{specimen.split.name}' has no labels to look for")
        found = occlude(specimen.model, image, label)
        tiles = [
            enlarged(_pixels(image, specimen.recipe.input), _IMAGE, smooth=True),
            enlarged(heat(found.probabilities), _IMAGE, smooth=False),
        ]
        low, high = found.probabilities.aminmax()
        name = specimen.class_names[label]
        caption = f"{name}: {found.without:.2f}, covered {low:.2f} to {high:.2f}"
        rows.append(captioned(side_by_side(tiles), caption))
        progress(done + 1, len(indices))
    return NamedImage("occlusion", grid(_same_size(rows), 2 if len(rows) > 1 else 1))


def _chosen(
    found: Sequence[Sequence[Activation]], units: Sequence[int] | None, layer: str
) -> list[int]:
    if units is None:
        answering = [unit for unit, best in enumerate(found) if best[-1].value > 0]
        if not answering:
            raise UserError(f"no unit of '{layer}' answers to nine images; choose --units")
        places = np.linspace(0, len(answering) - 1, min(_NUM_UNITS, len(answering)))
        return [answering[int(place)] for place in places]
    for unit in units:
        if not 0 <= unit < len(found):
            raise UserError(f"layer '{layer}' has no unit {unit}; it has 0 to {len(found) - 1}")
    return list(units)


def _layer(specimen: VisualizedModel, name: str | None) -> LayerProfile:
    """Find a layer by its name, or the last convolution; of those called when it is tested."""
    channels, size = specimen.recipe.input.num_channels, specimen.recipe.input.size
    layers = {
        found.name: found for found in profile_model(specimen.model, (channels, size, size)).layers
    }
    if name is None:
        return [found for found in layers.values() if found.kind == "Conv2d"][-1]
    if name not in layers:
        raise UserError(f"no layer '{name}'; there are: {', '.join(layers)}")
    return layers[name]


def _patches(
    pictures: Sequence[NDArray[np.uint8]], at: Sequence[Activation], field: LayerProfile
) -> Image.Image:
    """Cut out of each picture what the unit sees from where it answers; the padding is white."""
    tiles = []
    for pixels, activation in zip(pictures, at, strict=True):
        position = activation.position or (0, 0)
        top, left = (
            first + place * jump
            for first, place, jump in zip(field.first_pixel, position, field.jump, strict=True)
        )
        height, width = field.receptive_field
        patch = np.full((height, width, 3), 255, np.uint8)
        y, x = max(top, 0), max(left, 0)
        seen = pixels[y : top + height, x : left + width]
        patch[y - top : y - top + seen.shape[0], x - left : x - left + seen.shape[1]] = seen
        tiles.append(enlarged(patch, _PATCH, smooth=min(height, width) > 16))
    return grid(tiles, 3)


def _pixels(image: Tensor, input: InputConfig) -> NDArray[np.uint8]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (input.mean, input.std))
    return to_pixels((image.cpu() * std + mean) / 255)


def _same_size(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    sheets = [Image.new("RGB", (width, height), "white") for _ in pictures]
    for sheet, picture in zip(sheets, pictures, strict=True):
        sheet.paste(picture, (0, 0))
    return sheets


def _counted(
    batches: Iterator[Batch], total: int, progress: Callable[[int, int], None]
) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.labels)
        progress(done, total)
