"""One epoch of the loop: its gradients, its sums, and what a seed determines."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.philox import image_keys
from pipeline.data.loading.sampler import BatchSampler
from pipeline.models.dropout import Dropout
from pipeline.runtime.distributed import Worker
from pipeline.training.grouped_forward import GroupedForward, WholePass
from pipeline.training.loop import StepResult, train_epoch
from pipeline.training.optimizer import build_optimizer
from pipeline.training.train_state import Progress

ALONE = Worker(0, 1, torch.device("cpu"))
IMAGES = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(50) % 10


def recipe_with(global_batch: int, micro_batch: int, *more: str) -> Recipe:
    return load_recipe(
        "smoke",
        [
            f"batch={{global_batch_size: {global_batch}, micro_batch_size: {micro_batch}}}",
            "schedule={kind: constant}",
            "optimizer={kind: sgd, learning_rate: 0.1, weight_decay: 1e-3}",
            *more,
        ],
    )


def small_network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), Dropout(dropout), nn.Linear(32, 10)
    )


def grouped(model: nn.Module, sampler: BatchSampler) -> GroupedForward:
    whole = WholePass((sampler.max_pass_size, *IMAGES.shape[1:]), sampler.micro_batches_at_once)
    return GroupedForward(model, whole)


def run_epoch(
    recipe: Recipe, model: nn.Module, *, epoch: int = 0, start_step: int = 0, at_once: int = 1
) -> list[StepResult]:
    sampler = BatchSampler.of(recipe.batch, len(IMAGES), 1, at_once)

    def batches() -> Iterator[Batch]:
        for step in range(start_step, sampler.num_steps):
            for each in sampler.passes(np.arange(len(IMAGES)), step, 0):
                chosen = torch.from_numpy(each.images)
                keys = torch.from_numpy(image_keys(recipe.seed, epoch, each.images))
                numbers = torch.from_numpy(each.micro_batches)
                yield Batch(IMAGES[chosen], LABELS[chosen], chosen, keys, numbers)

    optimizer, progress = build_optimizer(recipe.optimizer, model), Progress(epoch, start_step)
    forward = grouped(model, sampler)
    return list(train_epoch(recipe, forward, optimizer, batches(), sampler, ALONE, progress))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("micro_batch", [2, 3, 6])
def test_uneven_micro_batches_add_up_to_the_whole_batch(micro_batch: int) -> None:
    # 50 images in batches of at most 12 make 5 steps of 10; four micro-batches are 3, 3, 2, 2.
    whole, parts = small_network(), small_network()
    run_epoch(recipe_with(12, 12), whole)
    run_epoch(recipe_with(12, micro_batch), parts)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-6)


def test_the_gradient_is_the_mean_over_the_global_batch() -> None:
    model, twin = small_network(), small_network()
    recipe = recipe_with(50, 10)
    run_epoch(recipe, model)
    loss = nn.functional.cross_entropy(twin(IMAGES), LABELS)
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.1 * (parameter.grad + 1e-3 * parameter)
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=1e-6)


def test_each_step_counts_its_images_and_hits() -> None:
    model = small_network()
    results = run_epoch(recipe_with(12, 4), model)
    assert [result.step for result in results] == [0, 1, 2, 3, 4]
    assert [result.sums.images.item() for result in results] == [10] * 5
    sums = results[0].sums
    logits = small_network()(IMAGES[:10])
    expected = nn.functional.cross_entropy(logits, LABELS[:10], reduction="sum").item()
    assert sums.loss.item() == pytest.approx(expected, rel=1e-5)
    assert sums.top1_hits == (logits.argmax(1) == LABELS[:10]).sum()
    assert sums.top5_hits == (logits.topk(5).indices == LABELS[:10, None]).sum()


@pytest.mark.parametrize("limit", ["null", "0.1"])
def test_the_reported_gradient_norm_is_that_before_clipping(limit: str) -> None:
    model, twin = small_network(), small_network()
    before = weights(model)
    (result,) = run_epoch(recipe_with(50, 50, f"max_gradient_norm={limit}"), model)
    (nn.functional.cross_entropy(twin(IMAGES), LABELS)).backward()
    gradient = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    assert result.gradient_norm.item() == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert gradient.norm() > 0.1
    step = (before - weights(model) - 0.1 * 1e-3 * before).norm().item()
    expected = 0.1 * (gradient.norm().item() if limit == "null" else 0.1)
    assert step == pytest.approx(expected, rel=1e-3)


def test_dropout_is_a_function_of_the_position() -> None:
    recipe = recipe_with(10, 5, "optimizer.learning_rate=1e-9")
    first, second = small_network(0.5), small_network(0.5)
    losses = [result.sums.loss.item() for result in run_epoch(recipe, first)]
    torch.manual_seed(999)  # whatever the generator's state was before
    rest = [result.sums.loss.item() for result in run_epoch(recipe, second, start_step=3)]
    assert losses[3:] == pytest.approx(rest, rel=1e-6)
    other_epoch = [result.sums.loss.item() for result in run_epoch(recipe, second, epoch=1)]
    assert other_epoch != pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("at_once", [2, 5])
def test_passes_of_several_micro_batches_change_nothing(at_once: int) -> None:
    # 5 steps of 10 images, in five micro-batches of 2, with dropout and mixing.
    recipe = recipe_with(10, 2, "mixing={mixup_alpha: 1.0}")
    one, other = small_network(0.5), small_network(0.5)
    losses = [float(result.sums.loss) for result in run_epoch(recipe, one)]
    assert losses == pytest.approx(
        [float(result.sums.loss) for result in run_epoch(recipe, other, at_once=at_once)], rel=1e-6
    )
    torch.testing.assert_close(weights(other), weights(one), rtol=0, atol=1e-6)


def test_label_smoothing_reaches_the_loss() -> None:
    plain = run_epoch(recipe_with(50, 50), small_network())[0].sums.loss
    smooth = run_epoch(recipe_with(50, 50, "loss.label_smoothing=0.2"), small_network())[
        0
    ].sums.loss
    logits = small_network()(IMAGES)
    expected = nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.2, reduction="sum")
    assert smooth.item() == pytest.approx(expected.item(), rel=1e-5)
    assert smooth != plain


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    dtypes = []
    model = small_network()
    model[1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    exact = small_network()
    run_epoch(recipe_with(10, 10, "precision=bfloat16"), model)
    run_epoch(recipe_with(10, 10), exact)
    assert set(dtypes) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(weights(model), weights(exact), rtol=0, atol=5e-3)


def test_the_learning_rate_follows_the_schedule_within_the_epoch() -> None:
    recipe = recipe_with(10, 10, "schedule={kind: poly, power: 1.0}", "epochs=2")
    rates = [result.learning_rate for result in run_epoch(recipe, small_network(), epoch=1)]
    assert rates == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])


def test_the_mean_of_ddp_over_workers_is_undone() -> None:
    # DDP divides the sum of the workers' gradients by their number; the loop undoes it.
    alone, one_of_two = small_network(), small_network()
    recipe = recipe_with(50, 25)
    sampler, worker = BatchSampler(50, 50, 2, world_size=2), replace(ALONE, world_size=2)
    chosen = torch.arange(25)
    half = iter([Batch.of(IMAGES[chosen], LABELS[chosen], chosen)])
    optimizer = torch.optim.SGD(one_of_two.parameters(), lr=0.0)
    for group in optimizer.param_groups:
        group["learning_rate_factor"] = 1.0
    gradients: list[torch.Tensor] = []
    one_of_two[1].weight.register_hook(gradients.append)
    forward = grouped(one_of_two, sampler)
    next(train_epoch(recipe, forward, optimizer, half, sampler, worker, Progress()))
    nn.functional.cross_entropy(alone(IMAGES[:25]), LABELS[:25]).backward()
    torch.testing.assert_close(gradients[0], alone[1].weight.grad, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_to_the_given_norm() -> None:
    recipe = recipe_with(50, 50, "max_gradient_norm=0.01", "optimizer.weight_decay=0")
    model, before = small_network(), small_network()
    run_epoch(recipe, model)
    step = (weights(model) - weights(before)).norm().item()
    assert step == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_mixing_reaches_the_network_and_the_loss() -> None:
    recipe = recipe_with(50, 50, "mixing={mixup_alpha: 1.0}")
    images_seen = []
    model = small_network()
    model.register_forward_pre_hook(lambda module, inputs: images_seen.append(inputs[0]))
    (result,) = run_epoch(recipe, model)
    assert not torch.equal(images_seen[0], IMAGES)
    plain = run_epoch(recipe_with(50, 50), small_network())[0]
    assert result.sums.loss != plain.sums.loss
    assert result.sums.images == 50


@pytest.mark.parametrize(("start_step", "num_observed"), [(0, 26), (1, 0)])
def test_an_optimizer_sees_its_samples_before_an_epochs_first_step(
    start_step: int, num_observed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "optimizer={kind: diagonal-levenberg-marquardt, learning_rate: 0.1, num_samples: 26}"
    recipe, sampler = recipe_with(25, 25, kind), BatchSampler(50, 25, 1, 1)
    model = small_network()
    model[3] = nn.ReLU()  # curvatures of dropout are unknown
    optimizer = build_optimizer(recipe.optimizer, model)
    observed: list[int] = []

    def observe_samples(loss: object, batches: Iterator[Batch], worker: Worker) -> None:
        observed.extend(index for batch in batches for index in batch.indices.tolist())

    monkeypatch.setattr(optimizer, "observe_samples", observe_samples)
    samples = torch.arange(num_observed).split(25) if num_observed else ()
    step = torch.arange(25 * start_step, 25 * start_step + 25)
    batches = iter([Batch.of(IMAGES[some], LABELS[some], some) for some in (*samples, step)])
    progress = Progress(0, start_step)
    forward = grouped(model, sampler)
    next(train_epoch(recipe, forward, optimizer, batches, sampler, ALONE, progress))
    assert observed == list(range(num_observed))
    assert next(batches, None) is None
