"""Does a network like another preprocessing better than the one it is said to want?

Wrong preprocessing loses a few points in silence. Each trial changes one thing, on the same images.
"""

from dataclasses import dataclass, replace

import torch
from rich.console import Console

from pipeline.config.cluster import Cluster, Folder
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import InputConfig
from pipeline.evaluation.evaluate import PredictionSink, Scored, evaluate
from pipeline.evaluation.significance import PreprocessingTrial, mcnemar
from pipeline.evaluation.topk import label_ranks
from pipeline.launch.events import Message, Report
from pipeline.launch.progress_display import ProgressDisplay
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import open_data, watched
from pipeline.models.classifier import to_device
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError

_IMAGES = 2000
_CLEARLY = 0.001  # of McNemar's test, small since several are tried


@dataclass(frozen=True)
class _Variant:
    name: str
    input: InputConfig
    protocol: CenterCrop
    swaps_colors: bool = False
    shift: float = 0.0


@dataclass(frozen=True)
class _Trials:
    """What every worker is told."""

    subject: EvaluatedModel
    variants: tuple[_Variant, ...]
    data: Folder
    split: str
    cluster: Cluster
    folder: RunFolder


def run_sanity(
    subject: EvaluatedModel, data: Folder, split: str, cluster: Cluster, console: Console
) -> list[PreprocessingTrial]:
    """Try the declared preprocessing and its common faults on up to 2,000 images, by centre crops.

    In this process. Raises `UserError` for a network that isn't tested by a centre crop, and for
    images of unknown class.
    """
    if not isinstance(subject.protocol, CenterCrop):
        raise UserError("--sanity: this network is tested on whole images, not on centre crops")
    cluster = cluster.in_this_process()
    variants = tuple(_variants(subject.input, subject.protocol))
    trials = _Trials(subject, variants, data, split, cluster, RunFolder(cluster.runs_dir))
    with ProgressDisplay(console) as display:
        return run_on_workers(_try_all, trials, display.show)


def _variants(input: InputConfig, protocol: CenterCrop) -> list[_Variant]:
    zero, one = (0.0,) * input.num_channels, (1.0,) * input.num_channels
    declared = _Variant("as declared", input, protocol)

    def seen(name: str, **changed: object) -> _Variant:
        return replace(declared, name=name, input=input.model_copy(update=changed))

    found = [
        declared,
        seen("no mean", mean=zero),
        seen("no std, pixels to 1", std=tuple(255 * value for value in one)),
        seen("no std, pixels to 255", std=one),
        replace(
            declared,
            name="keeps its shape" if protocol.squash else "squashed",
            protocol=protocol.model_copy(update={"squash": not protocol.squash}),
        ),
        replace(declared, name="half a pixel aside", shift=0.5),
    ]
    if input.color == "rgb":
        found.append(replace(declared, name="colours swapped", swaps_colors=True))
    return [declared, *(one for one in found[1:] if replace(one, name=declared.name) != declared)]


class _Ranks(PredictionSink):
    def __init__(self, num_images: int) -> None:
        self.values = torch.zeros(num_images, dtype=torch.int64)

    def add(self, scored: Scored) -> None:
        self.values[scored.indices] = label_ranks(scored.scores, scored.labels).cpu()


def _try_all(trials: _Trials, worker: Worker, report: Report) -> list[PreprocessingTrial]:
    cluster, subject = trials.cluster, trials.subject
    store = open_data(cluster, trials.data)
    images = store.split(trials.split, at_most=_IMAGES)
    if (images.labels < 0).any():
        raise UserError(
            f"--sanity: {trials.split} of {store.name} has images of unknown class, which can't be "
            "scored; choose another with --split"
        )
    model = subject.build(len(store.classes))
    subject.refuse_unfit(len(store.classes), model)
    model = to_device(model, worker.device, channels_last=cluster.channels_last)
    found: list[PreprocessingTrial] = []
    declared = None
    for variant in trials.variants:
        ranks = _Ranks(len(images))
        setting = replace(
            subject.setting(images, variant.protocol, cluster),
            input=variant.input,
            takes_bgr=subject.takes_bgr != variant.swaps_colors,
            shift=variant.shift,
        )
        with watched(trials, worker, report) as watchdog:
            counts = evaluate(model, setting, worker, watchdog.counted, ranks)
        report(Message(f"{variant.name}: top-1 error {counts.top1_error:.2f} %"))
        right = ranks.values == 0
        if declared is None:
            declared = right
        only_this, only_declared = int((right & ~declared).sum()), int((declared & ~right).sum())
        p_value = mcnemar(only_this, only_declared)
        better = only_this > only_declared and p_value < _CLEARLY
        found.append(PreprocessingTrial(variant.name, counts, p_value, better))
    return found
