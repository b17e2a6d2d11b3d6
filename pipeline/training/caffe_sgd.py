"""Stochastic gradient descent with momentum as cuda-convnet and Caffe write it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.sgd import sgd


class CaffeSGD(Optimizer):
    """v ← momentum · v − lr · (gradient + weight_decay · weight), weight ← weight + v.

    Krizhevsky et al. 2012, §5. With the rate inside v, a velocity keeps its size when the rate
    changes; `torch.optim.SGD` would multiply it by the new rate. While the rate is the same the two
    agree. The velocities, 0 at first, are its state.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient by its velocity."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            # torch's form is v ← momentum · v + (1 − dampening) · g, weight ← weight − lr · v: its
            # dampening carries our rate, its rate our sign.
            sgd(
                parameters,
                [p.grad for p in parameters],
                [self._velocity(p) for p in parameters],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=-1.0,
                dampening=1.0 + group["lr"],
                nesterov=False,
                maximize=False,
                fused=True,
            )

    def _velocity(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        return state["velocity"]
