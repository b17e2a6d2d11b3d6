"""A moving average of the weights, which is what gets evaluated and kept."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config import optimization


def build_ema(settings: optimization.EMAConfig | None, model: nn.Module) -> AveragedModel | None:
    """Follow `model`; `average.update_parameters(model)` after each step adds its state.

    Batch-norm statistics are averaged along. The average of the first step is that step's weights.
    """
    if settings is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.decay), use_buffers=True)
