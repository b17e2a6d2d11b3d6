"""Tries whether a network does better with another preprocessing than the declared one.

Wrong preprocessing loses a few points unnoticed. Each trial changes one thing, on the same images.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from rich.console import Console

from pipeline.config.boxes import FILTER_RADIUS
from pipeline.config.cluster import Cluster, Folder
from pipeline.config.protocol import CenterCrop
from pipeline.evaluation.evaluate import ScoredImages, evaluate
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.significance import PreprocessingTrial, mcnemar
from pipeline.evaluation.topk import label_ranks
from pipeline.launch.events import Message, Report
from pipeline.launch.progress_display import ProgressDisplay
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import open_data, watched
from pipeline.models.classifier import to_device
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.trainer.evaluation_run import AS_NAMED, ClassOptions

_IMAGES = 2000
_CLEARLY = 0.001  # of McNemar's test, small since several are tried


@dataclass(frozen=True)
class _TrialsJob:
    model: EvaluatedModel
    protocol: CenterCrop
    data: Folder
    split: str
    cluster: Cluster
    folder: RunFolder
    class_options: ClassOptions

    @property
    def precision(self) -> str:
        return self.model.precision

    def in_precision(self, precision: str) -> Self:
        """Return the same trials, computed in `precision`."""
        return replace(self, model=replace(self.model, precision=precision))


def run_sanity(
    model: EvaluatedModel,
    data: Folder,
    split: str,
    cluster: Cluster,
    console: Console,
    class_options: ClassOptions = AS_NAMED,
) -> list[PreprocessingTrial]:
    """Try the declared preprocessing and its common faults on up to 2,000 images, by centre crops.

    In this process. Raises `UserError` for a network that isn't tested by a centre crop, and for
    images of unknown class.
    """
    if not isinstance(model.protocol, CenterCrop):
        raise UserError("--sanity: this network is tested on whole images, not on centre crops")
    cluster = cluster.in_this_process()
    folder = RunFolder(cluster.runs_dir)
    job = _TrialsJob(model, model.protocol, data, split, cluster, folder, class_options)
    with ProgressDisplay(console) as display:
        return run_on_workers(_try_all, job, display.show)


def _variants(declared: EvaluationConfig, protocol: CenterCrop) -> dict[str, EvaluationConfig]:
    """Return the declared preprocessing, the first, and others that differ from it."""
    input = declared.input
    channels = input.num_channels
    changes: dict[str, dict[str, object]] = {
        "as declared": {},
        "no mean": {"mean": (0.0,) * channels},
        "no std, pixels to 1": {"std": (255.0,) * channels},
        "no std, pixels to 255": {"std": (1.0,) * channels},
    }
    if input.color == "rgb":
        usual = Preprocessing().input
        changes["ImageNet's mean"] = {"mean": usual.mean}  # at the declared scale
        changes["ImageNet's mean and std"] = {"mean": usual.mean, "std": usual.std}
        changes["mean and std of a half"] = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    if input.dimensions == 2:
        changes |= {kind: {"interpolation": kind} for kind in FILTER_RADIUS}
    inputs = {name: input.model_copy(update=change) for name, change in changes.items()}
    variants = {
        name: replace(declared, input=changed)
        for name, changed in inputs.items()
        if name == "as declared" or changed != input
    }
    squashed = protocol.model_copy(update={"squash": not protocol.squash})
    name = "keeps its shape" if protocol.squash else "squashed"
    variants[name] = replace(declared, protocol=squashed)
    variants["half a pixel aside"] = replace(declared, shift=0.5)
    if input.color == "rgb":
        variants["colours swapped"] = replace(declared, takes_bgr=not declared.takes_bgr)
    return variants


def _try_all(job: _TrialsJob, worker: Worker, report: Report) -> list[PreprocessingTrial]:
    store = open_data(job.cluster, job.data)
    images = store.split(job.split, at_most=_IMAGES)
    if (images.labels < 0).any():
        raise UserError(
            f"--sanity: {job.split} of {store.name} has images of unknown class, which can't be "
            "scored; choose another with --split"
        )
    model = job.class_options.build(job.model, store)
    mapping = job.class_options.mapping(job.model, store, model)
    model = to_device(model, worker.device, channels_last=job.cluster.channels_last)
    declared = job.model.evaluation_config(images, job.protocol, job.cluster, mapping.selected)
    trials: list[PreprocessingTrial] = []
    num_classes = len(mapping.classes)
    right_as_declared = None
    for name, config in _variants(declared, job.protocol).items():
        right = torch.zeros(len(images), dtype=torch.bool)

        def record(scored: ScoredImages, right: torch.Tensor = right) -> None:
            right[scored.indices] = label_ranks(scored.scores, scored.labels).cpu() == 0

        with watched(job, worker, report) as watchdog:
            counts = evaluate(model, config, worker, watchdog.counted_alone, record)
        report(Message(f"{name}: top-1 error {counts.top1_error:.2f} %"))
        if right_as_declared is None:
            right_as_declared = right
        only_this = int((right & ~right_as_declared).sum())
        only_declared = int((right_as_declared & ~right).sum())
        p_value = mcnemar(only_this, only_declared)
        is_better = only_this > only_declared and p_value < _CLEARLY
        trials.append(PreprocessingTrial(name, counts, num_classes, p_value, is_better))
    return trials
