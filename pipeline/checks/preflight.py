"""Checks before any worker starts."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import psutil
import torch

from pipeline.config.cluster import Cluster, WorkersConfig
from pipeline.config.protocol import BoxProtocol
from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import check_contents
from pipeline.data.loading.sampler import BatchSampler
from pipeline.data.loading.views import training_size
from pipeline.data.store.store import Store, store_folder
from pipeline.models.fully_convolutional import fully_convolutional
from pipeline.models.nondeterministic_layers import nondeterministic_layers
from pipeline.planning.hardware import read_hardware
from pipeline.planning.pass_size import fewest_at_once
from pipeline.planning.workload import (
    checkpoint_bytes,
    meta_model,
    training_bytes,
    weight_bytes,
)
from pipeline.runtime.distributed import device_here
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.runtime.precision import precision_on
from pipeline.runtime.ray_session import allow_open_files
from pipeline.tracking.mlflow_client import sqlite_file
from pipeline.tracking.mlflow_runs import check_recordable
from pipeline.training.optimizer import build_optimizer

TRAINING = (
    *("network", "data set", "batch", "machine", "precision", "memory", "storage", "tracking"),
)


@dataclass(frozen=True)
class Check:
    """The result of one check: its message says what was found, or what is wrong and what to do."""

    name: str
    passed: bool
    message: str


def preflight(
    recipe: Recipe, cluster: Cluster, names: tuple[str, ...] = TRAINING, on_disk: int = 0
) -> Iterator[Check]:
    """Yield the checks of these names, in order; never raises.

    `on_disk` is how many bytes the checkpoints of this run take already.
    """
    checks: dict[str, Callable[[Recipe, Cluster], str]] = {
        "network": _network,
        "data set": _data,
        "batch": _batch,
        "machine": lambda recipe, cluster: _machine(cluster),
        "precision": _precision,
        "memory": _memory,
        "storage": partial(_storage, on_disk),
        "tracking": lambda recipe, cluster: _tracking(cluster),
    }
    for name in names:
        try:
            yield Check(name, True, checks[name](recipe, cluster))
        except UserError as error:
            yield Check(name, False, str(error))


def refuse_early(
    recipe: Recipe, cluster: Cluster, names: tuple[str, ...] = TRAINING, on_disk: int = 0
) -> None:
    """Raise `UserError` with the message of the first check of `preflight` that fails."""
    for check in preflight(recipe, cluster, names, on_disk):
        if not check.passed:
            raise UserError(check.message)


def refuse_cluster(cluster: Cluster) -> None:
    """Raise `UserError` where this machine lacks what `cluster` needs, or tracking can't work."""
    _machine(cluster)
    _tracking(cluster)


def _network(recipe: Recipe, cluster: Cluster) -> str:
    model = meta_model(recipe)
    smallest = training_size(recipe.input.size, recipe.resizing, epoch=0)
    if not model.input_shape.accepts(smallest, recipe.input.dimensions):
        raise UserError(
            f"recipe: {recipe.network.name} can't take images of {smallest}×{smallest}, the "
            f"resizing.start_size; it takes {model.input_shape}: change or leave out resizing"
        )
    build_optimizer(recipe.optimizer, model)
    layers = nondeterministic_layers(model)
    if layers and cluster.deterministic and cluster.workers.device == "gpu":
        raise UserError(
            f"cluster.deterministic: {recipe.network.name} has {layers[0]}, which no GPU computes "
            "the same way twice; add --set cluster.deterministic=false, or change the network"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if not isinstance(recipe.evaluation, BoxProtocol):
        fully_convolutional(model, recipe.input.size)
    return f"{recipe.network.name}, {parameters:,} parameters"


def _data(recipe: Recipe, cluster: Cluster) -> str:
    store = Store.open(store_folder(cluster, recipe.data.name))
    classes = len(store.classes)
    if classes != recipe.network.num_classes:
        raise UserError(
            f"{store.folder} has {classes} classes, the recipe's network.num_classes is "
            f"{recipe.network.num_classes}; add --set network.num_classes={classes}"
        )
    sizes = []
    for key, name in {
        "train_split": recipe.data.train_split,
        "test_split": recipe.data.test_split,
    }.items():
        if name not in store.split_names:
            raise UserError(
                f"{store.folder} has no split '{name}' (data.{key}); "
                f"{suggest(name, store.split_names)}"
            )
        split = store.split(name)
        if not len(split):
            raise UserError(f"{store.folder}: split '{name}' has no images; prepare it again")
        if (split.labels < 0).any():
            raise UserError(
                f"{store.folder}: the labels of split '{name}' are unknown (data.{key}); choose "
                "another"
            )
        check_contents(split, recipe.input)
        sizes.append(f"{len(split):,} {name}")
    return f"{store.name}: {', '.join(sizes)} {store.contents}, {classes} classes"


def _batch(recipe: Recipe, cluster: Cluster) -> str:
    store = Store.open(store_folder(cluster, recipe.data.name))
    images = store.split_manifest(recipe.data.train_split)
    sampler = BatchSampler.of(recipe.batch, images.num_images, cluster.workers.most)
    fewest, most = len(sampler.share(sampler.world_size - 1)), len(sampler.share(0))
    each = f"{fewest}" if fewest == most else f"{fewest} or {most}, which is uneven,"
    return (
        f"{sampler.num_steps:,} steps an epoch, {each} micro-batch{'es' * (most > 1)} of "
        f"{recipe.batch.micro_batch_size} for each of {sampler.world_size} workers"
    )


def _machine(cluster: Cluster) -> str:
    workers = cluster.workers
    if not workers.are_on_this_machine:
        return f"{_worker_count(workers)} workers, for Ray at '{workers.ray_address}' to place"
    device = device_here(workers.device)
    if workers.count == 0:
        return "this process"
    key = f"--set cluster.workers.{'min' if workers.is_elastic else 'count'}"
    needed, available = workers.fewest * workers.cpus, os.cpu_count() or 1
    if needed > available:
        raise UserError(
            f"{workers.fewest} workers of {workers.cpus} CPUs need {needed}, this machine has "
            f"{available}; add {key}={max(1, available // workers.cpus)}"
        )
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and workers.fewest > gpus:
        raise UserError(
            f"{workers.fewest} workers need a GPU each, this machine has {gpus}; add {key}={gpus}"
        )
    if workers.are_in_process:
        return f"this process, on {workers.cpus} of {available} CPUs"
    allow_open_files()
    return f"{_worker_count(workers)} workers of {workers.cpus} CPUs, {available} there"


def _precision(recipe: Recipe, cluster: Cluster) -> str:
    workers = cluster.workers
    if workers.are_on_this_machine and cluster.engine.kind == "local":
        precision = precision_on(device_here(workers.device), recipe.precision)
    elif workers.gpu:
        precision = read_hardware().device(workers.gpu).precision(recipe.precision)
    elif recipe.precision == "bfloat16":
        return "bfloat16 where the devices of all workers compute it, else float32"
    else:
        precision = recipe.precision
    if precision != recipe.precision:
        return f"float32, since the device computes no {recipe.precision}"
    return precision


def _memory(recipe: Recipe, cluster: Cluster) -> str:
    workers = cluster.workers
    is_here = workers.are_on_this_machine and cluster.engine.kind == "local"
    if not (is_here or workers.gpu):
        return "as much as Ray's nodes have"
    needed = training_bytes(recipe, fewest_at_once(recipe, cluster.compute))
    if workers.gpu and not is_here:
        device = read_hardware().device(workers.gpu)
        available, what = device.memory.value * 1e9, f"the cluster's {device.title}"
    elif workers.device == "gpu":
        gpu = device_here(workers.device)
        available, what = torch.cuda.get_device_properties(gpu).total_memory, "a GPU here"
    else:
        needed, available = needed * workers.fewest, psutil.virtual_memory().total
        what = "this machine"
    if needed > available:
        raise UserError(too_large(recipe, cluster, needed, f"{what} has {available / 1e9:.1f} GB"))
    return f"at least {needed / 1e9:.1f} GB, {what} has {available / 1e9:.1f} GB"


def too_large(recipe: Recipe, cluster: Cluster, needed: float, available: str) -> str:
    """Return the message for a training that needs `needed` bytes, more than is `available`."""
    size = f"batch.micro_batch_size ({recipe.batch.micro_batch_size})"
    if fewest_at_once(recipe, cluster.compute) > 1:
        size = f"cluster.compute.images_at_once ({cluster.compute.images_at_once})"
    return (
        f"{recipe.network.name} takes at least {needed / 1e9:.1f} GB to train, {available}; lower "
        f"{size}"
    )


def _worker_count(workers: WorkersConfig) -> str:
    return f"{workers.fewest} to {workers.most}" if workers.is_elastic else f"{workers.most}"


def _storage(on_disk: int, recipe: Recipe, cluster: Cluster) -> str:
    folder = cluster.runs_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"ilsvrc")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: can't be written: {error.strerror}; mend it or add "
            f"--set cluster.runs_dir=FOLDER"
        ) from None
    free = shutil.disk_usage(folder).free
    needed = max(0, bytes_needed(recipe, cluster) - on_disk)
    if free < needed:
        raise UserError(
            f"{folder}: {_megabytes(free)} free, the checkpoints need {_megabytes(needed)}; free "
            f"space or add --set cluster.runs_dir=FOLDER"
        )
    return f"{folder}, {_megabytes(free)} free, {_megabytes(needed)} needed"


def bytes_needed(recipe: Recipe, cluster: Cluster) -> int:
    """Return how many bytes a run's checkpoints and weights take at most."""
    saving = cluster.saving
    spaced = recipe.epochs // saving.keep_every_epochs if saving.keep_every_epochs else 0
    # Two more: the best one, and the one that is being written.
    num_checkpoints = saving.checkpoints_to_keep + spaced + 2
    return num_checkpoints * checkpoint_bytes(recipe) + weight_bytes(recipe)


def _tracking(cluster: Cluster) -> str:
    if not cluster.workers.are_on_this_machine and sqlite_file(cluster.tracking.uri):
        raise UserError(
            "several machines can't share a sqlite file; set MLFLOW_TRACKING_URI or "
            "cluster.tracking.uri to a tracking server"
        )
    try:
        check_recordable(cluster.tracking.uri, cluster.tracking.experiment)
    except UserError as error:
        if cluster.tracking.required:
            raise
        return f"{error}; tracking.required is false, so that metrics wait in the run's folder"
    return f"MLflow experiment '{cluster.tracking.experiment}'"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
