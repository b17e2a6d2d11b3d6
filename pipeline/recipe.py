"""What to train: every choice that changes the result, and nothing else.

A recipe has no path, no worker count and no thread count; those belong to the cluster
(`pipeline.cluster`). Two recipes with the same `digest` train the same network.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.documents import Section, find_document, override, read_yaml, validate
from pipeline.errors import UserError
from pipeline.protocol import Protocol, smallest_side

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Network(Section):
    """Which network of the zoo (`pipeline.models.zoo`), and its number of classes.

    `recompute` has the backward pass compute activations again in place of keeping them (DenseNet).
    """

    name: str
    num_classes: Annotated[int, Field(ge=2)]
    initialization: Literal["published", "glorot"] = "published"
    recompute: bool = False


class Stop(Section):
    """An image that can't be decoded stops the training, which names it."""

    kind: Literal["stop"] = "stop"


class LeaveOut(Section):
    """A view that can't be decoded is left out of its batch and listed with the run.

    Its loss counts as 0. More than `max_share` of the split's images stop the training.
    """

    kind: Literal["quarantine"] = "quarantine"
    max_share: Fraction = 1e-4


class Data(Section):
    """Which packed data set, and which of its splits train and test.

    `bad_images` is about the training split; a test split is evaluated whole or not at all.
    """

    name: str
    train_split: str = "train"
    test_split: str = "val"
    bad_images: Annotated[Stop | LeaveOut, Field(discriminator="kind")] = Stop()

    @model_validator(mode="after")
    def _never_tested_on_what_it_saw(self) -> Self:
        if self.train_split == self.test_split:
            raise ValueError("train_split and test_split must differ")
        return self


class Input(Section):
    """What the network sees: `(pixel - mean) / std`, pixels in 0–255, square of `size` pixels.

    With one dimension it sees signals of `size` values, as they were packed: (1, size).
    """

    size: PositiveInt
    dimensions: Literal[1, 2] = 2
    color: Literal["rgb", "gray"] = "rgb"
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]

    @property
    def num_channels(self) -> int:
        return 1 if self.color == "gray" else 3

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.num_channels:
            raise ValueError(f"mean and std need {self.num_channels} values each for {self.color}")
        if self.dimensions == 1 and self.color != "gray":
            raise ValueError("dimensions: 1 needs color: gray, the one channel of a signal")
        return self


class NoAugmentation(Section):
    """Train on the very view that the evaluation protocol shows; it must show a single one."""

    kind: Literal["none"] = "none"


class ShiftScale(Section):
    """The whole image, zoomed and shifted a little; outside it is `fill` (0–255).

    `max_shift` is a fraction of the image's side; a scale of 1.1 draws the image 10 % larger.
    """

    kind: Literal["shift-scale"] = "shift-scale"
    max_shift: Fraction
    min_scale: PositiveFloat
    max_scale: PositiveFloat
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError("min_scale must not be above max_scale")
        return self


class AlexNetCrop(Section):
    """Shorter side to `resize`, its centre square, a random crop and flip, RGB noise (§4.1)."""

    kind: Literal["alexnet"] = "alexnet"
    resize: PositiveInt = 256
    flip: bool = True
    color_noise: Annotated[float, Field(ge=0.0)] = 0.1


class ScaleJitter(Section):
    """Shorter side drawn from `[min_side, max_side]`, then a random crop and flip, RGB noise.

    VGG §3.1 and ResNet §3.4.
    """

    kind: Literal["scale-jitter"] = "scale-jitter"
    min_side: PositiveInt
    max_side: PositiveInt
    flip: bool = True
    color_noise: Annotated[float, Field(ge=0.0)] = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError("min_side must not be above max_side")
        return self


class ColorJitter(Section):
    """Brightness, contrast and saturation by factors uniform in 1 ± strength, in random order.

    fb.resnet.torch has 0.4 for each; Howard 2013, which GoogLeNet §6 follows, has 0.5.
    """

    brightness: Fraction
    contrast: Fraction
    saturation: Fraction


class AreaCrop(Section):
    """A crop of a random share of the area and aspect ratio, a flip, and colours (GoogLeNet §6).

    `color_components` says whose principal components `color_noise` steps along: those of AlexNet's
    code, or those of fb.resnet.torch, whose noise is less than half as strong.
    """

    kind: Literal["area"] = "area"
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    max_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] = 4 / 3
    flip: bool = True
    color_jitter: ColorJitter | None = None
    color_noise: Annotated[float, Field(ge=0.0)] = 0.0
    color_components: Literal["cuda-convnet", "fb"] = "cuda-convnet"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError("min_area must not be above max_area")
        return self


Augmentation = Annotated[
    NoAugmentation | ShiftScale | AlexNetCrop | ScaleJitter | AreaCrop,
    Field(discriminator="kind"),
]


class Resizing(Section):
    """Train on smaller images first, as their boxes stretched to fewer pixels; test at full size.

    From `start_size` in the first epoch, evenly up to `input.size` in epoch `full_size_from`
    (counted from 0) and later; rounded down to multiples of `multiple_of`.
    """

    start_size: PositiveInt
    full_size_from: PositiveInt
    multiple_of: PositiveInt = 32


class Batch(Section):
    """One optimizer step sees `global_batch_size` images in micro-batches of `micro_batch_size`.

    Batch normalization sees one micro-batch, whatever the number of workers.
    """

    global_batch_size: PositiveInt
    micro_batch_size: PositiveInt

    @property
    def num_micro_batches(self) -> int:
        return self.global_batch_size // self.micro_batch_size

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError("global_batch_size must be a multiple of micro_batch_size")
        return self


class SGD(Section):
    """Stochastic gradient descent with momentum m, as in every paper of the zoo.

    As PyTorch and fb.resnet.torch: v ← m · v + gradient, weights ← weights − rate · v. In AlexNet's
    code and Caffe the rate is inside v, so that there a drop takes some steps to arrive in full.
    `decay: weights` leaves biases and normalization parameters undecayed, `all` decays everything.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay: Literal["all", "weights"] = "all"
    bias_learning_rate_factor: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RMSProp(Section):
    """RMSProp with momentum, as Inception-v3 was trained (Szegedy et al. 2016, §8).

    `epsilon` is added outside the root, as PyTorch does; TensorFlow adds it inside.
    """

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveFloat
    smoothing: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    epsilon: PositiveFloat = 1.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay: Literal["all", "weights"] = "all"
    bias_learning_rate_factor: PositiveFloat = 1.0


Optimizer = Annotated[SGD | RMSProp, Field(discriminator="kind")]


class _Schedule(Section):
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0


class Constant(_Schedule):
    """The base learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Step(_Schedule):
    """Multiply by `factor` at the start of each epoch named in `epochs`."""

    kind: Literal["step"] = "step"
    epochs: tuple[PositiveInt, ...]
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError("epochs must rise")
        return self


class Exponential(_Schedule):
    """Multiply by `factor` every `every_epochs` epochs; GoogLeNet §6, Inception-v3 §8."""

    kind: Literal["exponential"] = "exponential"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)]
    every_epochs: PositiveInt


class Plateau(_Schedule):
    """Multiply by `factor` after `patience` epochs without a better top-1 error on the test split.

    At most `max_drops` times; AlexNet §5 ("three times prior to termination"), VGG §3.1.
    """

    kind: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    patience: PositiveInt = 5
    max_drops: PositiveInt = 3


class Poly(_Schedule):
    """`(1 - progress) ** power` of the base learning rate, as Caffe's `poly`."""

    kind: Literal["poly"] = "poly"
    power: PositiveFloat = 0.5


class Cosine(_Schedule):
    """Half a cosine from the base learning rate to `final_factor` of it."""

    kind: Literal["cosine"] = "cosine"
    final_factor: Fraction = 0.0


Schedule = Annotated[
    Constant | Step | Exponential | Plateau | Poly | Cosine,
    Field(discriminator="kind"),
]


class Loss(Section):
    """Cross-entropy; `label_smoothing` spreads that share of the target over all classes.

    `map` is LeNet-5's (LeCun et al. 1998, eq. 9): cross-entropy with one more class, junk, at the
    distance `junk_distance` from every image. `auxiliary_weight` is the share of each auxiliary
    classifier's loss, where the network has some (GoogLeNet §5).
    """

    kind: Literal["cross-entropy", "map"] = "cross-entropy"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 0.3
    junk_distance: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _smooths_what_can_be_smoothed(self) -> Self:
        if self.kind == "map" and self.label_smoothing:
            raise ValueError("label_smoothing needs kind: cross-entropy")
        return self


class Averaging(Section):
    """Evaluate and keep a moving average of the weights, `decay` of it kept at each step."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)]


class Mixing(Section):
    """Mixup (Zhang et al. 2018), cutmix (Yun et al. 2019), random erasing (Zhong et al. 2020).

    An alpha of 0 is without; with both, each micro-batch takes one of them, with equal chances.
    """

    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    erasing_probability: Fraction = 0.0


class Expectation(Section):
    """What a run of this recipe should reach, and who says so. Errors in percent."""

    top1_error: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    top5_error: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    protocol: str
    source: str


class Recipe(Section):
    """A whole training, as a typed and frozen document.

    `max_gradient_norm` shortens the gradient of a step to that length. A training whose loss is
    still that of guessing after `flat_loss_steps` steps is stopped (null: never).
    """

    network: Network
    data: Data
    input: Input
    augmentation: Augmentation
    mixing: Mixing | None = None
    resizing: Resizing | None = None
    evaluation: Protocol
    batch: Batch
    optimizer: Optimizer
    max_gradient_norm: PositiveFloat | None = None
    schedule: Schedule
    loss: Loss = Loss()
    averaging: Averaging | None = None
    epochs: PositiveInt
    flat_loss_steps: PositiveInt | None = 10_000
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    expect: Expectation | None = None

    def without_expectation(self) -> "Recipe":
        """Return what decides the result: the same recipe, expecting nothing."""
        return self.model_copy(update={"expect": None})

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
        for section, side in (
            ("evaluation.resize", smallest_side(self.evaluation, size)),
            ("augmentation.resize", getattr(self.augmentation, "resize", size)),
            ("augmentation.min_side", getattr(self.augmentation, "min_side", size)),
        ):
            if side < size:
                raise ValueError(f"{section} ({side}) is smaller than input.size ({size})")
        for key, mend in (("color_noise", "set it to 0"), ("color_jitter", "leave it out")):
            if self.input.color == "gray" and getattr(self.augmentation, key, None):
                raise ValueError(f"augmentation.{key} needs input.color: rgb; {mend}")
        return self

    @model_validator(mode="after")
    def _trains_on_one_view(self) -> Self:
        if self.augmentation.kind == "none" and self.evaluation.kind not in ("whole", "center"):
            raise ValueError("augmentation: {kind: none} needs evaluation of kind whole or center")
        return self

    @property
    def trained_sides(self) -> tuple[int, int] | None:
        """The smallest and the largest shorter side trained at, where there are such."""
        match self.augmentation:
            case ScaleJitter(min_side=small, max_side=large):
                return small, large
            case AlexNetCrop(resize=side):
                return side, side
        return None

    @model_validator(mode="after")
    def _targets_can_be_mixed(self) -> Self:
        if self.mixing is not None and self.loss.kind == "map":
            raise ValueError("mixing needs loss.kind: cross-entropy")
        return self

    @model_validator(mode="after")
    def _signals_are_seen_as_they_are(self) -> Self:
        if self.input.dimensions == 1:
            for key in ("mixing", "resizing"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for images; leave it out with input.dimensions: 1")
            for section, kind in (("augmentation", "none"), ("evaluation", "whole")):
                if getattr(self, section).kind != kind:
                    raise ValueError(f"input.dimensions: 1 needs {section}: {{kind: {kind}}}")
        return self


def load_recipe(name: str, assignments: list[str] | None = None) -> Recipe:
    """Read recipe `name` (of `configs/recipes`, or a path) with `section.key=value` overrides.

    Raises `UserError` that names the file and the key.
    """
    path = find_document(name, "recipes")
    return validate(Recipe, override(read_yaml(path), assignments or []), path)


def read_recipe(path: Path) -> Recipe:
    """Read a resolved recipe as a run stores it."""
    if not path.is_file():
        raise UserError(f"{path}: no recipe there; is this a run's folder?")
    return validate(Recipe, read_yaml(path), path)
