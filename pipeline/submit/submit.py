"""Reads what a command submits, and finds the engine that takes it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.engine import KubeRay, Local, RayServer, Slurm
from pipeline.config.job import load_job
from pipeline.config.recipe import Recipe, default_run_name, load_recipe
from pipeline.data.loading.sampler import BatchSampler
from pipeline.runtime.credentials import credentials_of, without_credentials
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.submit.job_engine import JobEngine, SubmittedJob, SubmittedTraining


def read_trainings(
    recipe: str,
    of_recipe: list[str],
    cluster: str,
    of_cluster: list[str],
    seeds: Sequence[int],
    start_from: str | None = None,
    *,
    new_head: bool = False,
) -> list[SubmittedTraining]:
    """Return one training for each of `seeds`, or one with the recipe's own where there are none.

    `of_recipe` and `of_cluster` are `key=value` overrides. Runs get the names that `ilsvrc train`
    gives them, but weights to start from are known by their name, not by their digest: only the
    cluster has them.
    """
    if new_head and not start_from:
        raise UserError("--new-head: say with --start-from which weights the other layers have")
    resolved = load_cluster(cluster, of_cluster)
    trainings = []
    for seed in seeds or (None,):
        of_seed = [] if seed is None else [f"seed={seed}"]
        what = load_recipe(recipe, [*of_recipe, *of_seed])
        _refuse_unfit_for_cluster(what, resolved)
        run = default_run_name(Path(recipe).stem, what)
        if start_from:
            start = Path(start_from).name.removesuffix(".safetensors")
            run += "-from-" + re.sub(r"[^\w.-]", "-", start) + "-new-head" * new_head
        trainings.append(
            SubmittedTraining(
                document=recipe,
                recipe=what,
                cluster=resolved,
                cluster_name=cluster,
                assignments=(*of_recipe, *(f"cluster.{text}" for text in of_cluster)),
                run=run,
                index=seed,
                start_from=start_from,
                new_head=new_head,
            )
        )
    return trainings


def read_job(file: str, cluster: str, of_cluster: list[str]) -> list[SubmittedTraining]:
    """Return the trainings of a job; see `load_job` for what is refused."""
    job, resolved = load_job(file), load_cluster(cluster, of_cluster)
    for member in job.members:
        _refuse_unfit_for_cluster(member.recipe, resolved)
    return [
        SubmittedTraining(
            document=file,
            recipe=member.recipe,
            cluster=resolved,
            cluster_name=cluster,
            assignments=tuple(f"cluster.{text}" for text in of_cluster),
            run=member.run,
            index=place if len(job.members) > 1 else None,
            job=job,
        )
        for place, member in enumerate(job.members)
    ]


def _refuse_unfit_for_cluster(recipe: Recipe, cluster: Cluster) -> None:
    uri = cluster.tracking.uri
    # That of this user's environment is in no command.
    is_said = uri != os.environ.get("MLFLOW_TRACKING_URI")
    if is_said and credentials_of(uri) and not isinstance(cluster.engine, Local):
        raise UserError(
            f"cluster.tracking.uri={without_credentials(uri)} was given with a password, which "
            f"{cluster.engine.kind} would show to everyone; leave it out, and set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the training runs"
        )
    # As if for the images of one step: only the cluster knows the data set.
    BatchSampler.of(recipe.batch, recipe.batch.global_batch_size, cluster.workers.most)


def read_seeds(text: str | None) -> list[int]:
    """Read `0-2,7` as [0, 1, 2, 7]."""
    seeds: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        try:
            chosen = range(int(first), int(last or first) + 1)
        except ValueError:
            raise UserError(f"--seeds {text}: write numbers and ranges, as 0-2,7") from None
        if not chosen or not set(chosen).isdisjoint(seeds):
            raise UserError(f"--seeds {text}: name each seed once, ranges from low to high")
        seeds += chosen
    return seeds


def refuse_unfit(trainings: Sequence[SubmittedTraining]) -> None:
    """Raise `UserError` for what is wrong wherever a training runs, before it costs anything.

    What only the nodes can know (their data, GPUs and disks) the training checks when it starts.
    """
    from pipeline.checks.preflight import refuse_early
    from pipeline.runs.initial_weights import find_initial_weights

    without_seeds = {one.recipe.model_copy(update={"seed": 0}): one for one in trainings}
    for training in without_seeds.values():
        recipe, cluster = training.recipe, training.cluster
        is_shared = isinstance(cluster.engine, Slurm)
        if is_shared and training.start_from:
            find_initial_weights(
                cluster.runs_dir, training.start_from, recipe, new_head=training.new_head
            )
        shared = ("data set", "batch", "storage", "tracking") if is_shared else ()
        refuse_early(recipe, cluster, ("network", "memory", *shared))
        for protocol in training.job.member(training.run).protocols if training.job else ():
            refuse_early(recipe.model_copy(update={"evaluation": protocol}), cluster, ("network",))


def engine_of(cluster: Cluster) -> JobEngine:
    """Return the engine that a cluster names; what it needs is imported only for it."""
    match cluster.engine:
        case RayServer() as engine:
            from pipeline.submit.ray_jobs import RayJobs

            return RayJobs(engine, cluster)
        case KubeRay() as engine:
            from pipeline.submit.kubernetes_api import KubernetesJobs

            return KubernetesJobs(engine, cluster)
        case Slurm() as engine:
            from pipeline.submit.slurm import SlurmJobs

            return SlurmJobs(engine, cluster)
        case Local():
            from pipeline.submit.local import LocalRuns

            return LocalRuns(cluster)
        case _:
            assert_never(cluster.engine)


def find_job(engine: JobEngine, name: str) -> SubmittedJob:
    """Return the newest job with this id or of this run."""
    found = engine.jobs()
    for job in found:
        if name in (job.id, job.run):
            return job
    known = [known for job in found[:10] for known in (job.id, job.run)]
    raise UserError(f"no job '{name}'; {suggest(name, dict.fromkeys(known))}")
