"""A whole split, every image once by a test protocol, counted in integers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import TestProtocol
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loader import Batch, build_loader
from pipeline.data.loading.plans import share_of
from pipeline.data.loading.views import shifted
from pipeline.data.store.store import Split
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.passes import Pass, passes
from pipeline.evaluation.topk import topk_hits
from pipeline.models.classifier import modes_restored
from pipeline.models.fully_convolutional import fully_convolutional
from pipeline.runtime.distributed import Worker, sum_over_workers


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated on, and how: a split as a network's `input` takes it, by a protocol.

    `takes_bgr` gives the network blue first. `shift` displaces every box of crops to the right and
    down, in pixels of the input: a fault on purpose, for those who look for one.
    """

    split: Split
    protocol: TestProtocol
    input: InputConfig
    precision: str
    loading: LoadingConfig
    channels_last: bool
    takes_bgr: bool = False
    shift: float = 0.0

    @property
    def protocol_name(self) -> str:
        return self.protocol.name(self.input.size)


@dataclass(frozen=True)
class Scored:
    """What a network says of some images, on its device; as the average of passes, on the CPU.

    scores: float32 (n, c), by whose order classes are guessed. probabilities: float32 (n, c).
    labels: int64 (n,), −1 where nobody knows. indices: int64 (n,), into the split, always on the
    CPU.
    """

    scores: Tensor
    probabilities: Tensor
    labels: Tensor
    indices: Tensor


# Sees the batches pass, to know that a worker is alive.
Watch = Callable[[Iterable[Batch]], Iterable[Batch]]


class PredictionSink:
    """Keeps what a worker scores; this one keeps nothing."""

    def add(self, scored: Scored) -> None:
        """Take what was scored; every image of the worker's share comes once."""

    def hand_over(self) -> None:
        """All is there; the workers meet after this."""


NOTHING_KEPT = PredictionSink()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bfloat16 needs no loss scaling, so that this context is all there is to mixed precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def evaluate(
    model: nn.Module,
    setting: EvaluationConfig,
    worker: Worker,
    watch: Watch = lambda batches: batches,
    keeper: PredictionSink = NOTHING_KEPT,
) -> Counts:
    """Count the hits of `model` over a whole split; `keeper` keeps what this worker scores.

    Workers may hold different numbers of batches, or none: they meet once, at the end, to add
    integers. Images of unknown label are no hit. Raises `RuntimeError` if the workers together did
    not see every image. The model is left in the mode it came in. A collective call.
    """
    with modes_restored(model):
        scored = scored_images(model.eval(), setting, worker, watch)
        return count(scored, len(setting.split), worker, keeper)


def count(
    scored: Iterable[Scored],
    num_images: int,
    worker: Worker,
    keeper: PredictionSink = NOTHING_KEPT,
) -> Counts:
    """Add up the hits and cross-entropies of all workers; see `evaluate`."""
    sums = torch.zeros(4, dtype=torch.int64, device=worker.device)
    for images in scored:
        sums[:2] += topk_hits(images.scores, images.labels).to(worker.device)
        sums[2] += len(images.labels)
        sums[3] += micronats(images.probabilities, images.labels).to(worker.device)
        keeper.add(images)
    keeper.hand_over()
    top1_hits, top5_hits, counted, nats = sum_over_workers(sums, worker).tolist()
    if counted != num_images:
        raise RuntimeError(f"evaluated {counted} images of a split of {num_images}")
    return Counts(top1_hits, top5_hits, counted, nats)


def micronats(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of −ln p of the labels, int64 (), in millionths, as no order can change it.

    `probabilities` float32 (n, c), `labels` int64 (n,). A probability below float32's smallest
    normal number (−ln p of 87.3), or that is no number, counts as that one, a label of −1, which
    nobody knows, as 0.
    """
    own = probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    own = own.nan_to_num(nan=0).clamp(min=torch.finfo(torch.float32).tiny)
    nats = torch.where(labels < 0, 0.0, -own.double().log())
    return (nats * 1e6).round().long().sum()


@torch.inference_mode()
def scored_images(
    model: nn.Module, setting: EvaluationConfig, worker: Worker, watch: Watch
) -> Iterator[Scored]:
    """Yield what `model` says of every image of this worker's share, once.

    One pass is scored batch by batch; the averages of several are there at the end, on the CPU,
    which has room for all of a share.
    """
    averages_logits = setting.protocol.num_views == 1 or setting.protocol.average == "logits"
    todo = passes(
        setting.protocol,
        setting.input.size,
        setting.split,
        worker.rank,
        worker.world_size,
        setting.loading.evaluation_batch_size,
    )
    if setting.shift:
        todo = [
            replace(one, views=map(partial(shifted, by=setting.shift), one.views)) for one in todo
        ]
    if len(todo) == 1:
        for batch, means in _means(model, setting, todo[0], averages_logits, worker, watch):
            yield _scored(means, averages_logits, batch.labels, batch.indices)
        return
    share = torch.from_numpy(share_of(len(setting.split), worker.rank, worker.world_size))
    if not len(share):
        return
    total = None
    for one in todo:
        for batch, means in _means(model, setting, one, averages_logits, worker, watch):
            if total is None:
                total = torch.zeros(len(share), means.shape[1])
            total[batch.indices - share[0]] += one.weight * means.cpu()
    assert total is not None  # each pass sees every image
    labels = torch.from_numpy(setting.split.labels)[share]
    yield _scored(total, averages_logits, labels, share)


def _scored(means: Tensor, averages_logits: bool, labels: Tensor, indices: Tensor) -> Scored:
    return Scored(means, means.softmax(1) if averages_logits else means, labels, indices)


def _means(
    model: nn.Module,
    setting: EvaluationConfig,
    one: Pass,
    averages_logits: bool,
    worker: Worker,
    watch: Watch,
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches of one view an image, and what the model says on average over all views."""
    network = fully_convolutional(model, setting.input.size) if one.is_dense else model
    loader = build_loader(
        setting.split,
        one.views,
        setting.input,
        setting.loading,
        worker.device,
        max_batch_size=one.max_images,
        fill=None,
        channels_last=setting.channels_last,
        boxes_per_image=one.boxes_per_image,
    )
    with closing(loader):
        for batch in watch(loader):
            if setting.takes_bgr:
                batch = replace(batch, images=batch.images.flip(1))
            means = view_means(network, batch, one, averages_logits, setting.precision)
            first = slice(None, None, one.boxes_per_image)
            yield Batch(batch.images[first], batch.labels[first], batch.indices[first]), means


def view_means(
    network: nn.Module, batch: Batch, one: Pass, averages_logits: bool, precision: str
) -> Tensor:
    """Return the mean over each image's views of their softmax, or of the logits: float32 (n, c).

    Each is at first the mean of the logits over the positions of a map, where there is one.
    """
    total: Tensor | None = None
    for mirrored in (False, True)[: 1 + one.flip]:
        images = batch.images.flip(-1) if mirrored else batch.images
        with autocast(precision, images.device):
            logits = network(images)
        logits = logits.float().flatten(2).mean(2) if logits.dim() > 2 else logits.float()
        values = logits if averages_logits else logits.softmax(1)
        total = values if total is None else total + values
    assert total is not None
    return total.unflatten(0, (-1, one.boxes_per_image)).mean(1) / (1 + one.flip)
