"""Which parameters learn how fast and decay how much."""

from collections.abc import Iterator

from torch import nn
from torch.optim import SGD, Optimizer, RMSprop

from pipeline.config import optimization
from pipeline.training.caffe_sgd import CaffeSGD
from pipeline.training.levenberg_marquardt import LevenbergMarquardt

_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)


def build_optimizer(settings: optimization.Optimizer, model: nn.Module) -> Optimizer:
    """Make the optimizer, its groups those that learn and decay alike.

    They are weights, biases and normalization parameters; with a rate for every weight, all are one
    group. A group's `learning_rate_factor` multiplies what the schedule says (AlexNet's original
    code gives biases twice the rate of weights).
    """
    if isinstance(settings, optimization.LevenbergMarquardtConfig):
        every = [{"params": list(model.parameters()), "learning_rate_factor": 1.0}]
        return LevenbergMarquardt(every, settings.learning_rate, settings.damping, model)
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "normalization": []}
    for kind, parameter in _kinds(model):
        groups[kind].append(parameter)
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    decays_all = settings.decay == "all"
    parts = [
        {
            "params": parameters,
            "kind": kind,
            "learning_rate_factor": (
                settings.bias_learning_rate_factor if kind == "biases" else 1.0
            ),
            "weight_decay": settings.weight_decay if kind == "weights" or decays_all else 0.0,
        }
        for kind, parameters in groups.items()
        if parameters
    ]
    if isinstance(settings, optimization.RMSProp):
        return RMSprop(
            parts,
            lr=settings.learning_rate,
            alpha=settings.smoothing,
            eps=settings.epsilon,
            momentum=settings.momentum,
        )
    rate, momentum = settings.learning_rate, settings.momentum
    if settings.momentum_form == "rate-inside":
        return CaffeSGD(parts, rate, momentum)
    return SGD(parts, rate, momentum, nesterov=settings.nesterov)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every group its share of `learning_rate`, the rate of plain weights."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["learning_rate_factor"]


def _kinds(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    # By the module's type and the parameter's shape: names differ between networks.
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, _NORMALIZATIONS):
                yield "normalization", parameter
            else:
                yield "biases" if parameter.ndim <= 1 else "weights", parameter
