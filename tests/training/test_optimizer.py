"""Parameter groups, and the steps of each optimizer against its formula."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from pipeline.config import optimization
from pipeline.data.loading.loader import Batch
from pipeline.models.freezing import freeze_until
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.distributed import Worker
from pipeline.training.optimizer import SampledOptimizer, build_optimizer, set_learning_rate
from pipeline.training.schedule import PlateauState, Schedule
from pipeline.training.train_state import Progress, TrainState


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_parameter_is_in_one_group(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name](num_classes=10)
    optimizer = build_optimizer(optimization.SGDConfig(learning_rate=0.1), model)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))


def test_decay_and_rate_depend_on_the_kind_of_parameter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    settings = optimization.SGDConfig(
        learning_rate=0.1, weight_decay=5e-4, decay="weights", bias_learning_rate_factor=2
    )
    optimizer = build_optimizer(settings, model)
    set_learning_rate(optimizer, 0.01)
    by_kind = {group["kind"]: group for group in optimizer.param_groups}
    assert set(by_kind["weights"]["params"]) == {model[0].weight, model[3].weight}
    assert set(by_kind["biases"]["params"]) == {model[0].bias, model[3].bias}
    assert set(by_kind["normalization"]["params"]) == {model[1].weight, model[1].bias}
    decays = {kind: group["weight_decay"] for kind, group in by_kind.items()}
    assert decays == {"weights": 5e-4, "biases": 0, "normalization": 0}
    assert {kind: group["lr"] for kind, group in by_kind.items()} == {
        "weights": 0.01, "biases": 0.02, "normalization": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize("momentum_form", ["rate-outside", "rate-inside"])
def test_the_head_learns_at_its_own_rate_and_frozen_layers_not_at_all(momentum_form: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS["googlenet_bn"](num_classes=2)
    frozen = freeze_until(model, "inception_4a")
    settings = optimization.SGDConfig(
        learning_rate=0.1,
        momentum_form=momentum_form,
        weight_decay=1e-4,
        decay="weights",
        bias_learning_rate_factor=2,
        head_rate=10,
    )
    optimizer = build_optimizer(settings, model)
    set_learning_rate(optimizer, 0.01)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert groups["fc.weight"] == groups["auxiliary2.fc2.weight"] == (pytest.approx(0.1), 1e-4)
    assert groups["fc.bias"] == (pytest.approx(0.2), 0)
    assert groups["auxiliary1.fc1.weight"] == groups["inception_5b.conv3x3.conv.weight"]
    assert groups["inception_5b.conv3x3.conv.weight"] == (0.01, 1e-4)
    assert not any(name.startswith(frozen) for name in groups)
    assert len(groups) == sum(parameter.requires_grad for parameter in model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for name, value in model.named_parameters():
        if name in groups:
            rate, decay = groups[name]
            torch.testing.assert_close(value, before[name] - rate * (1 + decay * before[name]))
        else:
            assert torch.equal(value, before[name])


def test_decay_all_decays_everything() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = build_optimizer(optimization.SGDConfig(learning_rate=0.1, weight_decay=1e-4), model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}


def test_both_forms_of_momentum_follow_their_formula_when_the_rate_drops() -> None:
    # AlexNet §5: v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v. And PyTorch's, with the rate outside.
    def inside(w: float, v: float, rate: float, gradient: float) -> tuple[float, float]:
        v = 0.9 * v - 5e-4 * rate * w - rate * gradient
        return w + v, v

    def outside(w: float, v: float, rate: float, gradient: float) -> tuple[float, float]:
        v = 0.9 * v + gradient + 5e-4 * w
        return w - rate * v, v

    steps = [(0.01, 3.0), (0.01, -1.0), (0.001, 2.0), (0.0, 5.0), (0.001, 1.0)]
    ends = set()
    for form, by_hand in (("rate-inside", inside), ("rate-outside", outside)):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, 2.0)
        settings = optimization.SGDConfig(learning_rate=0.01, weight_decay=5e-4, momentum_form=form)
        optimizer = build_optimizer(settings, layer)
        w, v = 2.0, 0.0
        for rate, gradient in steps:
            set_learning_rate(optimizer, rate)
            layer.weight.grad = torch.full((1, 1), gradient)
            optimizer.step()
            w, v = by_hand(w, v, rate, gradient)
            assert layer.weight.item() == pytest.approx(w, rel=1e-6)
        ends.add(round(w, 3))
    assert len(ends) == 2


def test_the_rate_inside_follows_its_formula_over_a_whole_schedule() -> None:
    torch.manual_seed(0)
    schedule = Schedule(
        optimization.PiecewiseSchedule(epochs=(2, 3, 5), factors=(0.1, 1e-6, 3.0), warmup_epochs=1),
        epochs=6,
    )
    layer = nn.Conv2d(3, 4, 3).double().to(memory_format=torch.channels_last)
    settings = optimization.SGDConfig(
        learning_rate=0.3, weight_decay=0.01, momentum_form="rate-inside"
    )
    optimizer = build_optimizer(settings, layer)
    w, v = layer.weight.detach().clone(), torch.zeros_like(layer.weight)
    for step in range(60):  # from a rate of 0
        rate = 0.3 * schedule.factor(step / 10, PlateauState())
        set_learning_rate(optimizer, rate)
        layer.weight.grad = torch.randn_like(layer.weight)
        optimizer.step()
        v = 0.9 * v - rate * (layer.weight.grad + 0.01 * w)
        w = w + v
        torch.testing.assert_close(layer.weight.detach(), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["rate-inside", "rate-outside"])
def test_a_state_saved_in_the_other_memory_layout_goes_on_the_same(form: str) -> None:
    settings = optimization.SGDConfig(learning_rate=0.1, momentum_form=form)

    def states() -> Iterator[TrainState]:
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            layer = nn.Conv2d(3, 4, 3).to(memory_format=layout)
            yield TrainState(layer, build_optimizer(settings, layer), None)

    def step(state: TrainState) -> None:
        state.optimizer.zero_grad()
        state.model(torch.ones(1, 3, 8, 8)).square().sum().mul(1e-3).backward()
        state.optimizer.step()

    before, after = states()
    step(before)
    after.load(before.to_checkpoint(Progress(0, 1)))
    for state in (before, after):
        step(state)
    torch.testing.assert_close(after.model.weight, before.model.weight, rtol=0, atol=1e-7)


def test_velocities_with_the_rate_inside_are_restored() -> None:
    layer = nn.Linear(2, 1)
    settings = optimization.SGDConfig(learning_rate=0.1, momentum_form="rate-inside")
    optimizer = build_optimizer(settings, layer)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    restored = build_optimizer(settings, layer)
    restored.load_state_dict(optimizer.state_dict())
    before = layer.weight.detach().clone()
    set_learning_rate(restored, 0.0)
    restored.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.9 * 0.1)


def test_rmsprop_follows_its_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    settings = optimization.RMSPropConfig(learning_rate=0.1, weight_decay=0.01)
    optimizer = build_optimizer(settings, layer)
    w, square, v = 2.0, 0.0, 0.0
    for gradient in (3.0, -1.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        g = gradient + 0.01 * w
        square = 0.9 * square + 0.1 * g * g
        v = 0.9 * v + g / (square**0.5 + 1.0)
        w -= 0.1 * v
        assert layer.weight.item() == pytest.approx(w, rel=1e-6)


def test_levenberg_marquardt_follows_its_formula() -> None:
    """LeCun et al. 1998, eq. 21, for one weight: E = -log p of two classes, logits w x and 0."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    settings = optimization.LevenbergMarquardtConfig(learning_rate=0.5, damping=0.1)
    optimizer = build_optimizer(settings, model)
    images, labels = torch.tensor([[1.0], [4.0], [4.0]]), torch.tensor([0, 0, 1])
    batches = (Batch.of(images[rows], labels[rows], torch.tensor(rows)) for rows in ([0], [1, 2]))
    assert isinstance(optimizer, SampledOptimizer)
    optimizer.observe_samples(optimization.LossConfig(), batches, Worker(0, 1, torch.device("cpu")))
    curvature = 0.25 * (1 + 16 + 16) / 3  # p (1 - p) x²
    found = optimizer.state[model[0].weight]["curvature"]
    torch.testing.assert_close(found, torch.full((2, 1), curvature))

    set_learning_rate(optimizer, 0.02)
    model[0].weight.grad = torch.tensor([[3.0], [-1.0]])
    optimizer.step()
    expected = -0.02 / (0.1 + curvature) * torch.tensor([[3.0], [-1.0]])
    torch.testing.assert_close(model[0].weight.detach(), expected)

    restored = build_optimizer(settings, model)
    restored.load_state_dict(optimizer.state_dict())
    assert torch.equal(restored.state[model[0].weight]["curvature"], found)
