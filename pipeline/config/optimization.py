"""The sections of a recipe on optimization: optimizer, schedule, loss, average of the weights."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.yaml import Fraction, Section

# Not written out where it is 1, so that recipes without it keep their digest.
HeadRate = Annotated[PositiveFloat, Field(exclude_if=lambda factor: factor == 1)]


class SGDConfig(Section):
    """Stochastic gradient descent with momentum m, as in most papers of the zoo.

    `momentum_form: rate-outside` is PyTorch's and fb.resnet.torch's: v ← m · v + gradient,
    weights ← weights − rate · v. `rate-inside` is that of AlexNet's paper and code, and Caffe's:
    v ← m · v − rate · gradient, weights ← weights + v. They differ where the rate changes: inside,
    a drop takes some steps to act in full. `decay: weights` leaves biases and normalization
    parameters undecayed, `all` decays everything. `head_rate` multiplies the rate of the head, the
    layers that give logits.
    """

    num_samples: ClassVar[int] = 0

    kind: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    momentum_form: Literal["rate-outside", "rate-inside"] = "rate-outside"
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay: Literal["all", "weights"] = "all"
    bias_learning_rate_factor: PositiveFloat = 1.0
    head_rate: HeadRate = 1.0

    @model_validator(mode="after")
    def _nesterov_has_its_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.nesterov and self.momentum_form == "rate-inside":
            raise ValueError("nesterov needs momentum_form: rate-outside")
        return self


class RMSPropConfig(Section):
    """RMSProp with momentum, as Inception-v3 was trained (Szegedy et al. 2016, §8).

    As PyTorch: `epsilon` is added outside the root, and the rate multiplies the velocity. In
    TensorFlow, which that network was trained with, both are inside. `head_rate` is as in `sgd`.
    """

    num_samples: ClassVar[int] = 0

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveFloat
    smoothing: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    epsilon: PositiveFloat = 1.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay: Literal["all", "weights"] = "all"
    bias_learning_rate_factor: PositiveFloat = 1.0
    head_rate: HeadRate = 1.0


class LevenbergMarquardtConfig(Section):
    """Each weight at its own rate, learning rate / (damping + curvature), without momentum.

    Curvatures are second derivatives of the loss, averaged before each epoch over `num_samples` of
    its images (LeCun et al. 1998, Appendix C). For networks that are a chain of convolutions,
    linear layers, squashing, ReLU and maximum pooling.
    """

    kind: Literal["diagonal-levenberg-marquardt"] = "diagonal-levenberg-marquardt"
    learning_rate: PositiveFloat
    damping: PositiveFloat = 0.02
    num_samples: PositiveInt = 500


# `num_samples` is how many images the optimizer is to see before each epoch.
OptimizerConfig = Annotated[
    SGDConfig | RMSPropConfig | LevenbergMarquardtConfig, Field(discriminator="kind")
]


def _rising(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError("epochs must rise")
    return epochs


RisingEpochs = Annotated[tuple[PositiveInt, ...], AfterValidator(_rising)]


class _Schedule(Section):
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0


class ConstantSchedule(_Schedule):
    """The base learning rate throughout."""

    kind: Literal["constant"] = "constant"


class StepSchedule(_Schedule):
    """Multiply by `factor` at the start of each epoch named in `epochs`."""

    kind: Literal["step"] = "step"
    epochs: RisingEpochs
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1


class PiecewiseSchedule(_Schedule):
    """Multiply by one of `factors` from the start of the epoch of `epochs` in the same place."""

    kind: Literal["piecewise"] = "piecewise"
    epochs: RisingEpochs
    factors: tuple[PositiveFloat, ...]

    @model_validator(mode="after")
    def _one_factor_per_epoch(self) -> Self:
        if len(self.epochs) != len(self.factors):
            raise ValueError(
                f"{len(self.epochs)} epochs need as many factors, not {len(self.factors)}"
            )
        return self


class ExponentialSchedule(_Schedule):
    """Multiply by `factor` every `every_epochs` epochs; GoogLeNet §6, Inception-v3 §8."""

    kind: Literal["exponential"] = "exponential"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)]
    every_epochs: PositiveInt


class PlateauSchedule(_Schedule):
    """Multiply by `factor` after `patience` epochs without a better top-1 error on the test split.

    At most `max_drops` times; AlexNet §5 ("three times prior to termination"), VGG §3.1.
    """

    kind: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    patience: PositiveInt = 5
    max_drops: PositiveInt = 3


class PolySchedule(_Schedule):
    """`(1 - progress) ** power` of the base learning rate, as Caffe's `poly`."""

    kind: Literal["poly"] = "poly"
    power: PositiveFloat = 0.5


class CosineSchedule(_Schedule):
    """Half a cosine from the base learning rate to `final_factor` of it."""

    kind: Literal["cosine"] = "cosine"
    final_factor: Fraction = 0.0


ScheduleConfig = Annotated[
    ConstantSchedule
    | StepSchedule
    | PiecewiseSchedule
    | ExponentialSchedule
    | PlateauSchedule
    | PolySchedule
    | CosineSchedule,
    Field(discriminator="kind"),
]


class LossConfig(Section):
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
    def _map_is_not_smoothed(self) -> Self:
        if self.kind == "map" and self.label_smoothing:
            raise ValueError("label_smoothing needs kind: cross-entropy")
        return self


class EMAConfig(Section):
    """Evaluate and keep a moving average of the weights, `decay` of it kept at each step."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)]
