"""What to train: every choice that changes the result, and nothing else.

A recipe has no path, no worker count and no thread count; those belong to the cluster
(`pipeline.config.cluster`). Two recipes with the same `digest` train the same network.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.augmentation import Augmentation, MixupConfig, ProgressiveResizing
from pipeline.config.boxes import Interpolation
from pipeline.config.optimization import EMAConfig, LossConfig, OptimizerConfig, ScheduleConfig
from pipeline.config.protocol import TestProtocol
from pipeline.config.yaml import (
    Fraction,
    Section,
    digest,
    find_config_file,
    override,
    read_yaml,
    validate,
)
from pipeline.runtime.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class NetworkConfig(Section):
    """Which network of the zoo (`pipeline.models.zoo`), and its number of classes.

    `initialization` is that of its weights (`pipeline.models.initialization`). With `recompute` the
    backward pass computes activations again in place of keeping them (DenseNet).
    """

    name: str
    num_classes: Annotated[int, Field(ge=2)]
    initialization: Literal["published", "glorot", "lecun"] = "published"
    recompute: bool = False


class StopOnBadImage(Section):
    """An image that can't be decoded stops the training, which names it."""

    kind: Literal["stop"] = "stop"


class QuarantineBadImages(Section):
    """A view that can't be decoded is left out of its batch and listed with the run.

    Its loss counts as 0. More than `max_share` of the split's images stop the training.
    """

    kind: Literal["quarantine"] = "quarantine"
    max_share: Fraction = 1e-4


class DataConfig(Section):
    """Which packed data set, and which of its splits train and test.

    `bad_images` is about the training split; a test split is evaluated whole or not at all.
    """

    name: str
    train_split: str = "train"
    test_split: str = "val"
    bad_images: Annotated[StopOnBadImage | QuarantineBadImages, Field(discriminator="kind")] = (
        StopOnBadImage()
    )

    @model_validator(mode="after")
    def _splits_differ(self) -> Self:
        if self.train_split == self.test_split:
            raise ValueError("train_split and test_split must differ")
        return self


class InputConfig(Section):
    """The network's input: `(pixel - mean) / std`, pixels in 0–255, square of `size` pixels.

    With one dimension it is a signal of `size` values, as it was packed: (1, size). `interpolation`
    is how images are resized to it; every kind is antialiased.
    """

    size: PositiveInt
    dimensions: Literal[1, 2] = 2
    color: Literal["rgb", "gray"] = "rgb"
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    # Not written out where it is bilinear, so that recipes without it keep their digest.
    interpolation: Annotated[Interpolation, Field(exclude_if=lambda name: name == "bilinear")] = (
        "bilinear"
    )

    @property
    def num_channels(self) -> int:
        return 1 if self.color == "gray" else 3

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.num_channels:
            raise ValueError(f"mean and std need {self.num_channels} values each for {self.color}")
        if self.dimensions == 1 and self.color != "gray":
            raise ValueError("dimensions: 1 needs color: gray, the one channel of a signal")
        return self


class BatchConfig(Section):
    """An optimizer step takes `global_batch_size` images, in micro-batches of `micro_batch_size`.

    Batch normalization is over one micro-batch, whatever the number of workers.
    """

    global_batch_size: PositiveInt
    micro_batch_size: PositiveInt

    @property
    def num_micro_batches(self) -> int:
        return self.global_batch_size // self.micro_batch_size

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError("global_batch_size must be a multiple of micro_batch_size")
        return self


class Expectation(Section):
    """What a run of this recipe should reach, and the source of that. Errors in percent."""

    top1_error: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    top5_error: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    protocol: str
    source: str


class Recipe(Section):
    """A whole training, as a typed and frozen document.

    `max_gradient_norm` clips the gradient of a step to that norm. A training whose loss is still at
    chance after `flat_loss_steps` steps is stopped (null: never). The layers up to and with
    `freeze_until`, a layer or a stage by its name in the network, keep the weights that the
    training starts from; their batch norm keeps its statistics, and normalizes with them.
    """

    network: NetworkConfig
    data: DataConfig
    input: InputConfig
    augmentation: Augmentation
    mixing: MixupConfig | None = None
    resizing: ProgressiveResizing | None = None
    evaluation: TestProtocol
    batch: BatchConfig
    optimizer: OptimizerConfig
    max_gradient_norm: PositiveFloat | None = None
    schedule: ScheduleConfig
    loss: LossConfig = LossConfig()
    averaging: EMAConfig | None = None
    # Not written out where it is null, so that recipes without it keep their digest.
    freeze_until: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None
    epochs: PositiveInt
    flat_loss_steps: PositiveInt | None = 10_000
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    expect: Expectation | None = None

    def without_expectation(self) -> "Recipe":
        """Return what decides the result: the same recipe without `expect`."""
        return self.model_copy(update={"expect": None})

    @model_validator(mode="after")
    def _warmup_and_resizing_end_in_time(self) -> Self:
        for key, epochs in (
            ("schedule.warmup_epochs", self.schedule.warmup_epochs),
            ("resizing.full_size_from", self.resizing.full_size_from if self.resizing else 0),
        ):
            if epochs and epochs >= self.epochs:
                raise ValueError(f"{key} ({epochs:g}) must be less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _sizes_grow(self) -> Self:
        if self.resizing is not None and self.resizing.start_size > self.input.size:
            raise ValueError(
                f"resizing.start_size ({self.resizing.start_size}) is larger than input.size "
                f"({self.input.size})"
            )
        return self

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        size = self.input.size
        trained_side, _ = self.augmentation.trained_sides or (size, size)
        for section, side in (
            ("evaluation.resize", self.evaluation.smallest_side(size)),
            ("the smallest side of augmentation", trained_side),
        ):
            if side < size:
                raise ValueError(f"{section} ({side}) is smaller than input.size ({size})")
        return self

    @model_validator(mode="after")
    def _only_colors_vary_in_color(self) -> Self:
        if self.input.color == "gray":
            if self.augmentation.appearance.color_noise:
                raise ValueError("augmentation.color_noise needs input.color: rgb; set it to 0")
            if self.augmentation.appearance.color_jitter:
                raise ValueError("augmentation.color_jitter needs input.color: rgb; leave it out")
        return self

    @model_validator(mode="after")
    def _no_augmentation_is_one_view(self) -> Self:
        is_box = self.evaluation.kind in ("whole", "center")
        if self.augmentation.kind == "none" and not (is_box and self.evaluation.num_views == 1):
            raise ValueError(
                "augmentation: {kind: none} needs evaluation of kind whole or center, unmirrored"
            )
        return self

    @model_validator(mode="after")
    def _layers_are_frozen_by_group(self) -> Self:
        if self.freeze_until and self.optimizer.kind == "diagonal-levenberg-marquardt":
            raise ValueError("freeze_until needs optimizer.kind: sgd or rmsprop")
        return self

    @model_validator(mode="after")
    def _mixed_targets_need_cross_entropy(self) -> Self:
        if self.mixing is not None and self.loss.kind == "map":
            raise ValueError("mixing needs loss.kind: cross-entropy")
        return self

    @model_validator(mode="after")
    def _signals_are_left_as_they_are(self) -> Self:
        if self.input.dimensions == 1:
            for key, section in (("mixing", self.mixing), ("resizing", self.resizing)):
                if section is not None:
                    raise ValueError(f"{key} is for images; leave it out with input.dimensions: 1")
            for key, kind, needed in (
                ("augmentation", self.augmentation.kind, "none"),
                ("evaluation", self.evaluation.kind, "whole"),
            ):
                if kind != needed:
                    raise ValueError(f"input.dimensions: 1 needs {key}: {{kind: {needed}}}")
        return self


def default_run_name(stem: str, recipe: Recipe) -> str:
    """Return the name of a run that is given none: its recipe's file and digest."""
    return f"{stem}-{digest(recipe.without_expectation())[:8]}"


def load_recipe(name: str, assignments: list[str] | None = None) -> Recipe:
    """Read recipe `name` (of `configs/recipes`, or a path) with `section.key=value` overrides.

    Raises `UserError` that names the file and the key.
    """
    path = find_config_file(name, "recipes")
    return validate(Recipe, override(read_yaml(path), assignments or []), path)


def read_recipe(path: Path) -> Recipe:
    """Read a resolved recipe as a run stores it."""
    if not path.is_file():
        raise UserError(f"{path}: no recipe there; is this a run's folder?")
    return validate(Recipe, read_yaml(path), path)
