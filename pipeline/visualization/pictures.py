"""What a trained network has learned: filters, activations, deconvnet, occlusion."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop, SingleView, WholeImage
from pipeline.config.recipe import InputConfig, Recipe
from pipeline.data.loading.loader import Batch, build_loader
from pipeline.data.loading.views import evaluation_views
from pipeline.data.store.store import Split
from pipeline.models.classifier import ImageClassifier
from pipeline.models.profile import LayerProfile, profile_model
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.visualization.activations import Activation, strongest_activations
from pipeline.visualization.deconvnet import deconvnet_of, project
from pipeline.visualization.filters import first_layer_filters
from pipeline.visualization.image_grid import Pixels, enlarged, grid, signed_to_pixels, to_pixels
from pipeline.visualization.occlusion import Occlusion, occlude

_PATCH, _NUM_UNITS, _BATCH = 72, 9, 64


@dataclass(frozen=True)
class FirstFilters:
    """The weights of the first convolution, float32 (filters, channels, h, w)."""

    weights: Tensor


@dataclass(frozen=True)
class UnitPatches:
    """A unit's strongest activations, strongest first: their values, and the patches of the images.

    The patches, in rows of three, show the unit's receptive field; below them, if asked for and in
    the same places, stands what of each the activation comes from.
    """

    unit: int
    values: Sequence[float]
    picture: Image.Image


@dataclass(frozen=True)
class LayerUnits:
    """What excites units of one layer most; whether their pictures have projections below."""

    layer: LayerProfile
    units: Sequence[UnitPatches]
    is_projected: bool


@dataclass(frozen=True)
class CoveredImage:
    """An image (h, w, 3), its class, and the class's probability with parts covered."""

    class_name: str
    pixels: Pixels
    occlusion: Occlusion


@dataclass(frozen=True)
class CoveredImages:
    images: Sequence[CoveredImage]


Findings = FirstFilters | LayerUnits | CoveredImages


@dataclass(frozen=True)
class VisualizedModel:
    """A trained network in `eval` mode, the split whose images it is run on, its classes' names.

    `run` is its run's name, `date` the day of its last training step, empty where it is unknown.
    """

    run: str
    date: str
    model: ImageClassifier
    recipe: Recipe
    split: Split
    class_names: Sequence[str]
    loading: LoadingConfig
    device: torch.device

    @property
    def protocol(self) -> SingleView:
        """The recipe's test protocol; of one with several views the centre crop, smallest side."""
        protocol, size = self.recipe.evaluation, self.recipe.input.size
        match protocol:
            case WholeImage():
                return protocol
            case CenterCrop():
                return protocol.model_copy(update={"flip": False})
            case _:
                return CenterCrop(resize=protocol.smallest_side(size))

    def batches(self, images: NDArray[np.int64]) -> Iterator[Batch]:
        """Load one view of each of `images`, in this order, by `protocol`."""
        recipe, split = self.recipe, self.split
        views = (
            evaluation_views(
                self.protocol,
                recipe.input.size,
                chosen,
                split.sizes[chosen],
                interpolation=recipe.input.interpolation,
            )
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
        batches = self.batches(np.array(indices, dtype=np.int64))
        return torch.cat([batch.images for batch in batches])


def look(
    visualized: VisualizedModel,
    what: str,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    num_images: int = 6,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Look at one thing: filters, activations, deconvnet or occlusion.

    `layer` and `units` are for activations and deconvnet: by default the last convolution, and
    nine evenly spaced units of those that are active in at least nine images. `num_images` is for
    occlusion: so many evenly spaced images of the split. Raises `UserError` for a network over
    signals, and for a layer or unit that doesn't exist.
    """
    if visualized.recipe.input.dimensions != 2:
        raise UserError("signals have no pictures to show; choose a run on images")
    match what:
        case "filters":
            return FirstFilters(first_layer_filters(visualized.model))
        case "occlusion":
            return _occlusions(visualized, num_images, progress)
        case "activations" | "deconvnet":
            profile = _layer(visualized, layer)
            return _units(visualized, profile, units, progress, projected=what == "deconvnet")
        case _:
            raise UserError(f"--what {what}: choose filters, activations, deconvnet or occlusion")


def _units(
    visualized: VisualizedModel,
    layer: LayerProfile,
    units: Sequence[int] | None,
    progress: Callable[[int, int], None],
    projected: bool,
) -> LayerUnits:
    everything = np.arange(len(visualized.split))
    deconvnet = deconvnet_of(visualized.model) if projected else None
    batches = _with_progress(visualized.batches(everything), len(everything), progress)
    found = strongest_activations(visualized.model, layer.name, batches)
    chosen = _chosen(found, units, layer.name)
    loaded = visualized.images([best.image for unit in chosen for best in found[unit]])
    results = []
    for unit, images in zip(chosen, loaded.split(len(found[chosen[0]])), strict=True):
        best = found[unit]
        pixels = [_pixels(image, visualized.recipe.input) for image in images]
        pictures = [_patches(pixels, best, layer)]
        if deconvnet is not None:
            signed = map(signed_to_pixels, project(deconvnet, layer.name, images, unit, best))
            pictures.append(_patches(list(signed), best, layer))
        values = [activation.value for activation in best]
        results.append(UnitPatches(unit, values, grid(pictures, 1, gap=8)))
    return LayerUnits(layer, results, projected)


def _occlusions(
    visualized: VisualizedModel, num_images: int, progress: Callable[[int, int], None]
) -> CoveredImages:
    chosen = np.linspace(0, len(visualized.split) - 1, min(num_images, len(visualized.split)))
    indices = np.unique(chosen.astype(np.int64))
    covered = []
    for done, image in enumerate(visualized.images(indices.tolist())):
        label = int(visualized.split.labels[indices[done]])
        if label < 0:
            raise UserError(f"split '{visualized.split.name}' has no labels")
        pixels = _pixels(image, visualized.recipe.input)
        found = occlude(visualized.model, image, label)
        covered.append(CoveredImage(visualized.class_names[label], pixels, found))
        progress(done + 1, len(indices))
    return CoveredImages(covered)


def _chosen(
    found: Sequence[Sequence[Activation]], units: Sequence[int] | None, layer: str
) -> list[int]:
    if units is None:
        active = [unit for unit, best in enumerate(found) if best[-1].value > 0]
        if not active:
            raise UserError(f"no unit of '{layer}' is active in nine images; choose --units")
        indices = np.linspace(0, len(active) - 1, min(_NUM_UNITS, len(active)))
        return [active[int(index)] for index in indices]
    for unit in units:
        if not 0 <= unit < len(found):
            raise UserError(f"layer '{layer}' has no unit {unit}; it has 0 to {len(found) - 1}")
    return list(units)


def _layer(visualized: VisualizedModel, name: str | None) -> LayerProfile:
    """Return the profile of a layer by its name, by default of the last convolution."""
    shape = (visualized.recipe.input.num_channels, *(visualized.recipe.input.size,) * 2)
    layers = {layer.name: layer for layer in profile_model(visualized.model, shape).layers}
    if name is None:
        return [layer for layer in layers.values() if layer.kind == "Conv2d"][-1]
    if name not in layers:
        raise UserError(f"no layer '{name}'; {suggest(name, layers)}")
    return layers[name]


def _patches(
    images: Sequence[Pixels], activations: Sequence[Activation], layer: LayerProfile
) -> Image.Image:
    """Cut the unit's receptive field at its activation out of each image; padding is white."""
    tiles = []
    for pixels, activation in zip(images, activations, strict=True):
        position = activation.position or (0, 0)
        top, left = (
            first + index * jump
            for first, index, jump in zip(layer.first_pixel, position, layer.jump, strict=True)
        )
        height, width = layer.receptive_field
        patch = np.full((height, width, 3), 255, np.uint8)
        y, x = max(top, 0), max(left, 0)
        inside = pixels[y : top + height, x : left + width]
        patch[y - top : y - top + inside.shape[0], x - left : x - left + inside.shape[1]] = inside
        tiles.append(enlarged(patch, _PATCH, smooth=min(height, width) > 16))
    return grid(tiles, 3)


def _pixels(image: Tensor, input: InputConfig) -> Pixels:
    mean, std = (torch.tensor(values)[:, None, None] for values in (input.mean, input.std))
    return to_pixels((image.cpu() * std + mean) / 255)


def _with_progress(
    batches: Iterator[Batch], total: int, progress: Callable[[int, int], None]
) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.labels)
        progress(done, total)
