"""An exponential moving average of the weights, which is then what is evaluated and kept."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config import optimization


def build_ema(settings: optimization.EMAConfig | None, model: nn.Module) -> AveragedModel | None:
    """Return the average of `model`, or None without settings.

    `update_parameters(model)` after each step adds its state; batch-norm statistics are averaged
    along. After the first step the average is that step's weights.
    """
    if settings is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.decay), use_buffers=True)
