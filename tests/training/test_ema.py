"""The moving average of weights, against values computed by hand."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config.optimization import EMAConfig
from pipeline.training.ema import build_ema


def test_the_average_starts_at_the_first_step_and_then_decays() -> None:
    model = nn.BatchNorm1d(1)
    model.num_batches_tracked += 7
    average = build_ema(EMAConfig(decay=0.9), model)
    assert average is not None
    for weight in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, weight)
        model.running_mean.fill_(10 * weight)
        average.update_parameters(model)
    expected = 0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * 3.0
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(10 * expected)
    assert average.module.num_batches_tracked == 7
    assert model.weight.item() == 3.0


def test_without_settings_there_is_no_average() -> None:
    assert build_ema(None, nn.Linear(1, 1)) is None


def test_a_loaded_average_continues_as_the_saved_one() -> None:
    model = nn.Linear(2, 2)
    first, second = (build_ema(EMAConfig(decay=0.5), nn.Linear(2, 2)) for _ in range(2))
    assert first is not None
    assert second is not None
    first.update_parameters(model)
    second.load_state_dict(first.state_dict())
    nn.init.zeros_(model.weight)
    for average in (first, second):
        average.update_parameters(model)
    assert torch.equal(first.module.weight, second.module.weight)
    assert first.module.weight.any()


def test_the_state_is_that_of_torchs_average() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ours = build_ema(EMAConfig(decay=0.9), model)
    assert ours is not None
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        nn.init.normal_(model[0].weight)
        for average in (ours, theirs):
            average.update_parameters(model)
    ours.load_state_dict(theirs.state_dict())  # what earlier checkpoints hold
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    nn.init.zeros_(model[0].weight)
    for average in (ours, theirs):
        average.update_parameters(model)
    torch.testing.assert_close(ours.module[0].weight, theirs.module[0].weight)
