"""The moving average of weights, against values computed by hand."""

import pytest
import torch
from torch import nn

from pipeline.config.optimization import EMAConfig
from pipeline.training.ema import build_ema


def test_the_average_starts_at_the_first_step_and_then_decays() -> None:
    model = nn.BatchNorm1d(1)
    average = build_ema(EMAConfig(decay=0.9), model)
    assert average is not None
    for weight in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, weight)
        model.running_mean.fill_(10 * weight)
        average.update_parameters(model)
    expected = 0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * 3.0
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(10 * expected)
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
