"""From the command's words to trainings, and from a cluster to the engine that takes them."""

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.engine import KubeRay, RayServer, Slurm
from pipeline.config.recipe import load_recipe
from pipeline.config.yaml import digest
from pipeline.data.loading.sampler import BatchSampler
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import JobEngine, SubmittedJob, SubmittedTraining


def read_trainings(
    recipe: str,
    of_recipe: list[str],
    cluster: str,
    of_cluster: list[str],
    seeds: Sequence[int | None],
    start_from: str | None = None,
) -> list[SubmittedTraining]:
    """Return one training a seed of `seeds`, or one with the recipe's own where there are none.

    `of_recipe` and `of_cluster` are `key=value` overrides. Runs get the names that `ilsvrc train`
    gives them, but that weights to start from are known by their name, not by their digest: only
    the cluster has them.
    """
    where = load_cluster(cluster, of_cluster)
    assignments = (*of_recipe, *(f"cluster.{text}" for text in of_cluster))
    trainings = []
    for seed in seeds or [None]:
        chosen = [] if seed is None else [f"seed={seed}"]
        what = load_recipe(recipe, [*of_recipe, *chosen])
        # As if for one step's images: only the cluster knows the data set.
        BatchSampler.of(what.batch, what.batch.global_batch_size, where.workers.most)
        run = f"{Path(recipe).stem}-{digest(what.without_expectation())[:8]}"
        if start_from:
            start = Path(start_from).name.removesuffix(".safetensors")
            run += "-from-" + re.sub(r"[^\w.-]", "-", start)
        trainings.append(
            SubmittedTraining(what, recipe, where, cluster, assignments, seed, run, start_from)
        )
    return trainings


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


def refuse_unfit(training: SubmittedTraining) -> None:
    """Raise `UserError` for what is wrong wherever the training runs, before it costs anything.

    What only the nodes can know (their data, GPUs and disks) the training looks at when it starts.
    """
    from pipeline.checks.preflight import refuse_early
    from pipeline.runs.initial_weights import find_initial_weights

    recipe, cluster = training.recipe, training.cluster
    shared = isinstance(cluster.engine, Slurm)
    if shared and training.start_from:
        find_initial_weights(cluster.runs_dir, training.start_from, recipe)
    seen = ("data set", "batch", "storage", "tracking") if shared else ()
    refuse_early(recipe, cluster, ("network", "memory", *seen))


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
        case _:
            from pipeline.submit.local import LocalRuns

            return LocalRuns(cluster)


def find_job(engine: JobEngine, name: str) -> SubmittedJob:
    """Return the newest job with this id or of this run."""
    found = engine.jobs()
    for job in found:
        if name in (job.id, job.run):
            return job
    known = ", ".join(job.id for job in found[:10]) or "none"
    raise UserError(f"no job '{name}'; there are: {known}")
