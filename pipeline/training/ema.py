"""An exponential moving average of the weights, which is then what is evaluated and kept."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.config import optimization


class MovingAverage(AveragedModel):
    """`AveragedModel` with decay, in a few operations, none of which waits for a GPU.

    `update_parameters(model)` after each step adds its state; batch-norm statistics are averaged
    along, counters copied. After the first step the average is that step's weights. The state is
    that of `AveragedModel`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay
        self._is_empty = True

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the state of `model`."""
        ours, theirs = _state(self.module), _state(model)
        averaged = [value.is_floating_point() and not self._is_empty for value in ours]
        moved = _pairs(ours, theirs, averaged)
        copied = _pairs(ours, theirs, [not each for each in averaged])
        if moved[0]:
            torch._foreach_lerp_(*moved, 1 - self._decay)
        if copied[0]:
            torch._foreach_copy_(*copied)
        self.n_averaged += 1
        self._is_empty = False

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load as any module does."""
        result = super().load_state_dict(state_dict, strict, assign)
        self._is_empty = not self.n_averaged
        return result


def build_ema(settings: optimization.EMAConfig | None, model: nn.Module) -> MovingAverage | None:
    """Return the average of `model`, or None without settings."""
    return None if settings is None else MovingAverage(model, settings.decay)


def _state(model: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]


def _pairs(
    ours: list[Tensor], theirs: list[Tensor], chosen: list[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    rows = [row for row, is_chosen in enumerate(chosen) if is_chosen]
    return [ours[row] for row in rows], [theirs[row] for row in rows]
