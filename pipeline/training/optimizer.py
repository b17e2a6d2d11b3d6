"""The optimizer of a recipe: which parameters learn how fast and decay how much."""

from collections.abc import Iterator
from typing import Protocol, assert_never, runtime_checkable

from torch import nn
from torch.optim import SGD, Optimizer, RMSprop

from pipeline.config import optimization
from pipeline.data.loading.loader import Batch
from pipeline.models.classifier import ImageClassifier
from pipeline.runtime.distributed import Worker
from pipeline.training.caffe_sgd import CaffeSGD
from pipeline.training.levenberg_marquardt import LevenbergMarquardt

_NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@runtime_checkable
class SampledOptimizer(Protocol):
    """An optimizer that looks at images before each epoch, as many as `num_samples` of its config.

    They come first in the epoch's batches (`pipeline.data.loading.loader.training_plan`).
    """

    def observe_samples(
        self, loss: optimization.LossConfig, batches: Iterator[Batch], worker: Worker
    ) -> None:
        """Look at this worker's `batches` of the images. A collective call."""


def build_optimizer(settings: optimization.OptimizerConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer, its parameters in groups that learn and decay alike.

    These are weights, biases and normalization parameters, and once more those of the head where
    it has a rate of its own; frozen ones are in none. With a rate for every weight, all are one
    group. A group's `learning_rate_factor` multiplies the rate of the schedule (AlexNet's original
    code gives biases twice the rate of weights).
    """
    if isinstance(settings, optimization.LevenbergMarquardtConfig):
        group = {"params": list(model.parameters()), "learning_rate_factor": 1.0}
        return LevenbergMarquardt([group], settings.learning_rate, settings.damping, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = _head(model) if settings.head_rate != 1 else set()
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (kind, is_head): []
        for is_head in (False, True)
        for kind in ("weights", "biases", "normalization")
    }
    for kind, parameter in _kinds(model):
        if parameter.requires_grad:
            groups[kind, parameter in head].append(parameter)
    assert sum(map(len, groups.values())) == len(trained)
    decays_all = settings.decay == "all"
    parts = [
        {
            "params": parameters,
            "kind": kind,
            "learning_rate_factor": (
                (settings.bias_learning_rate_factor if kind == "biases" else 1.0)
                * (settings.head_rate if is_head else 1.0)
            ),
            "weight_decay": settings.weight_decay if kind == "weights" or decays_all else 0.0,
        }
        for (kind, is_head), parameters in groups.items()
        if parameters
    ]
    rate, momentum = settings.learning_rate, settings.momentum
    match settings:
        case optimization.RMSPropConfig(smoothing=smoothing, epsilon=epsilon):
            return RMSprop(parts, rate, alpha=smoothing, eps=epsilon, momentum=momentum)
        case optimization.SGDConfig(momentum_form="rate-inside"):
            return CaffeSGD(parts, rate, momentum)
        case optimization.SGDConfig(nesterov=nesterov):
            return SGD(parts, rate, momentum, nesterov=nesterov, fused=True)
        case _:
            assert_never(settings)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the rate of every group; `learning_rate` is that of weights."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["learning_rate_factor"]


def _head(model: nn.Module) -> set[nn.Parameter]:
    assert isinstance(model, ImageClassifier)
    return {value for layer in model.head for value in model.get_submodule(layer).parameters()}


def _kinds(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    # By the module's type and the parameter's shape: names differ between networks.
    visited: set[nn.Parameter] = set()  # parameters may be shared
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter in visited:
                continue
            visited.add(parameter)
            if isinstance(module, _NORMALIZATIONS):
                yield "normalization", parameter
            else:
                yield "biases" if parameter.ndim <= 1 else "weights", parameter
