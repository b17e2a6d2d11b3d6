"""Evaluation of a whole split, every image once by a test protocol, counted in integers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.data.loading.loader import Batch, build_loader
from pipeline.data.loading.plans import share_of
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.passes import Pass, passes
from pipeline.models.classifier import modes_restored
from pipeline.models.fully_convolutional import fully_convolutional
from pipeline.runtime.determinism import fastest_by_trial
from pipeline.runtime.distributed import Worker
from pipeline.runtime.precision import autocast


@dataclass(frozen=True)
class ScoredImages:
    """A network's scores of some images, on its device; those averaged over passes on the CPU.

    scores: float32 (n, c), by which classes are ranked. probabilities: float32 (n, c). labels:
    int64 (n,), −1 where unknown. indices: int64 (n,), into the split, always on the CPU.
    """

    scores: Tensor
    probabilities: Tensor
    labels: Tensor
    indices: Tensor


_ROWS_AT_ONCE = 4096  # of averages, so that nothing else takes as much memory as they do

# Yields the batches it is given; by them a watchdog knows that a worker is alive.
Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
# Is given what a worker scores; every image of its share comes once, before the workers meet.
OnScored = Callable[[ScoredImages], None]


def evaluate(
    model: nn.Module,
    config: EvaluationConfig,
    worker: Worker,
    watch: Watch = lambda batches: batches,
    on_scored: OnScored | None = None,
) -> Counts:
    """Count the hits of `model` over a whole split. A collective call.

    Workers may hold different numbers of batches, or none: they meet once, at the end, to add
    integers. Images of unknown label are no hit. Raises `RuntimeError` if the workers together did
    not evaluate every image. The model is left in the mode it came in.
    """
    with modes_restored(model):
        scored = scored_images(model.eval(), config, worker, watch)
        return count(scored, len(config.split), worker, on_scored)


def count(
    scored: Iterable[ScoredImages],
    num_images: int,
    worker: Worker,
    on_scored: OnScored | None = None,
) -> Counts:
    """Add up the hits and cross-entropies of all workers; see `evaluate`."""
    sums = MetricSums.zeros(torch.int64, worker.device)
    for images in scored:
        loss = micronats(images.probabilities, images.labels)
        sums += MetricSums.of(loss, images.scores, images.labels, worker.device)
        if on_scored:
            on_scored(images)
    total = sums.over_workers(worker)
    if total.images != num_images:
        raise RuntimeError(f"evaluated {int(total.images)} images of a split of {num_images}")
    return Counts(int(total.top1_hits), int(total.top5_hits), num_images, int(total.loss))


def micronats(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of −ln p of the labels, int64 (), in millionths, as no order can change it.

    `probabilities` float32 (n, c), `labels` int64 (n,). A probability below float32's smallest
    normal number (−ln p of 87.3), or NaN, counts as that number; an unknown label, −1, counts 0.
    """
    own = probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    own = own.nan_to_num(nan=0).clamp(min=torch.finfo(torch.float32).tiny)
    nats = torch.where(labels < 0, 0.0, -own.double().log())
    return (nats * 1e6).round().long().sum()


@torch.inference_mode()
def scored_images(
    model: nn.Module, config: EvaluationConfig, worker: Worker, watch: Watch
) -> Iterator[ScoredImages]:
    """Yield the scores of every image of this worker's share, once.

    Those of one pass come batch by batch; the averages of several come at the end, on the CPU,
    which has room for a whole share.
    """
    todo = passes(config, worker)
    if len(todo) == 1:
        for batch, means in _means(model, config, todo[0], worker, watch):
            yield _scored(means, config.averages_logits, batch.labels, batch.indices)
        return
    share = torch.from_numpy(share_of(len(config.split), worker.rank, worker.world_size))
    if not len(share):
        return
    total = None
    for one in todo:
        for batch, means in _means(model, config, one, worker, watch):
            if total is None:
                total = torch.zeros(len(share), means.shape[1])
            total[batch.indices - share[0]] += one.weight * means.cpu()
    assert total is not None  # each pass covers every image
    labels = torch.from_numpy(config.split.labels)[share]
    for start in range(0, len(share), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield _scored(total[rows], config.averages_logits, labels[rows], share[rows])


def _scored(means: Tensor, are_logits: bool, labels: Tensor, indices: Tensor) -> ScoredImages:
    return ScoredImages(means, means.softmax(1) if are_logits else means, labels, indices)


def _means(
    model: nn.Module, config: EvaluationConfig, one: Pass, worker: Worker, watch: Watch
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches of one view per image, and the mean of the scores over all its views."""
    network = fully_convolutional(model, config.input.size) if one.is_dense else model
    outputs = None if config.outputs is None else torch.tensor(config.outputs, device=worker.device)
    loader = build_loader(
        config.split,
        one.views,
        config.input,
        config.loading,
        worker.device,
        max_batch_size=one.max_images,
        fill=None,
        channels_last=config.channels_last,
        boxes_per_image=one.boxes_per_image,
    )
    # Whole images are of many shapes, on each of which cuDNN would try its algorithms.
    by_trial = torch.backends.cudnn.benchmark and not one.is_dense
    with closing(loader), fastest_by_trial(by_trial):
        for batch in watch(loader):
            if config.takes_bgr:
                batch = replace(batch, images=batch.images.flip(1))
            means = view_means(
                network, batch, one, config.averages_logits, config.precision, outputs
            )
            first = slice(None, None, one.boxes_per_image)
            yield Batch.of(batch.images[first], batch.labels[first], batch.indices[first]), means


def view_means(
    network: nn.Module,
    batch: Batch,
    one: Pass,
    averages_logits: bool,
    precision: str,
    outputs: Tensor | None = None,
) -> Tensor:
    """Return the mean over each image's views of their softmax, or of the logits: float32 (n, c).

    Each is at first the mean of the logits over the positions of a map, where there is one. Of the
    logits only those of `outputs`, int64 (c,), count, in that order.
    """
    total: Tensor | None = None
    for mirrored in (False, True)[: 1 + one.flip]:
        images = batch.images.flip(-1) if mirrored else batch.images
        with autocast(precision, images.device):
            logits = network(images)
        logits = logits.float().flatten(2).mean(2) if logits.dim() > 2 else logits.float()
        logits = logits if outputs is None else logits[:, outputs]
        values = logits if averages_logits else logits.softmax(1)
        total = values if total is None else total + values
    assert total is not None
    return total.unflatten(0, (-1, one.boxes_per_image)).mean(1) / (1 + one.flip)
