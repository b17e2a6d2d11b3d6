"""A network that is asked about images of no data set, in the command's own process."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self

import torch

from pipeline.config.cluster import Cluster
from pipeline.config.protocol import TestProtocol
from pipeline.data.store.encoded_images import split_in_memory
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample
from pipeline.evaluation.class_mapping import read_classes
from pipeline.evaluation.guesses import Answer, guess, unnamed_classes
from pipeline.launch.events import Report
from pipeline.launch.ray_train import run_on_workers
from pipeline.models.classifier import is_within, to_device
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import constructor
from pipeline.pretrained.pretrained_weights import ANY_CLASSES
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class _PredictionJob:
    model: EvaluatedModel
    protocol: TestProtocol
    samples: Iterable[Sample]
    count: int
    classes: Path | None
    cluster: Cluster
    folder: RunFolder
    show: Callable[[Sample, Answer], None]
    remark: Callable[[str], None]

    @property
    def precision(self) -> str:
        return self.model.precision

    def in_precision(self, precision: str) -> Self:
        """Return the same predictions, computed in `precision`."""
        return replace(self, model=replace(self.model, precision=precision))


def run_prediction(
    model: EvaluatedModel,
    samples: Iterable[Sample],
    protocol: TestProtocol,
    count: int,
    cluster: Cluster,
    show: Callable[[Sample, Answer], None],
    remark: Callable[[str], None] = lambda text: None,
    classes: Path | None = None,
) -> None:
    """Call `show` with each of the samples and its `count` likeliest classes.

    They are loaded and seen as `evaluate` does it, as many at once. The file `classes` names the
    network's outputs (`read_classes`); without it they have the names that are known, or numbers.
    Raises `UserError` for a network over signals, and for a file of another number of classes.
    """
    if model.input.dimensions != 2:
        raise UserError(f"{model.name} takes signals, not images; choose a network of images")
    cluster = cluster.in_this_process()
    folder = RunFolder(cluster.runs_dir)
    job = _PredictionJob(model, protocol, samples, count, classes, cluster, folder, show, remark)
    run_on_workers(_predict, job, lambda event: None)


def _predict(job: _PredictionJob, worker: Worker, report: Report) -> None:
    cluster, model = job.cluster, job.model
    network = model.build(_num_classes(model)).eval()
    classes = _classes(job, model.num_outputs(lambda: network))
    network = to_device(network, worker.device, channels_last=cluster.channels_last)
    digest, samples = model.weights_digest(), iter(job.samples)
    while some := list(islice(samples, cluster.loading.evaluation_batch_size)):
        config = model.evaluation_config(split_in_memory(some), job.protocol, cluster)
        guesses = guess(network, config, classes, job.count, worker.device)
        for sample, found in zip(some, guesses, strict=True):
            job.show(sample, Answer(model.name, config.protocol_name, digest, found))


def _classes(job: _PredictionJob, num_outputs: int) -> tuple[ImageClass, ...]:
    """Return the classes of the network's outputs."""
    known = tuple(read_classes(job.classes)) if job.classes else job.model.classes
    if known and len(known) != num_outputs:
        where = f"--classes {job.classes}" if job.classes else "its record"
        raise UserError(
            f"{job.model.name} has {num_outputs:,} outputs, but {where} names {len(known):,} "
            "classes; give the file of its own classes with --classes"
        )
    if not known and job.model.weights_format and num_outputs == _IMAGENET_CLASSES:
        job.remark(
            "the 1,000 classes are taken for ImageNet's in the order of their WNIDs, and called as "
            "torchvision calls them; --classes FILE gives others"
        )
        return imagenet_classes()
    if not known:
        job.remark(
            f"how the {num_outputs:,} classes of {job.model.name} are called is not recorded with "
            "its weights; they are numbered, from 0. --classes FILE names them, a line each"
        )
    return known or unnamed_classes(num_outputs)


def imagenet_classes() -> tuple[ImageClass, ...]:
    """Return ILSVRC-2012's classes in the order of their WNIDs, by torchvision's words."""
    from torchvision.models import ResNet18_Weights

    words = ResNet18_Weights.DEFAULT.meta["categories"]
    return tuple(ImageClass(index, name) for index, name in enumerate(words))


def _num_classes(model: EvaluatedModel) -> int:
    """Return how many classes the weights are for, of a network of the zoo that doesn't say it."""
    if model.network:
        return model.network.num_classes
    if model.weights_format or model.module or not model.weights:
        return 0  # they are built as their files have them
    with torch.device("meta"):
        last = constructor(model.name)(ANY_CLASSES).head[0]
    of_head = (each for key, each in read_weights(model.weights).items() if is_within(key, last))
    return next((len(each) for each in of_head if each.dim()), 0)
