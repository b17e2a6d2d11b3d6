"""`ilsvrc submit` and `ilsvrc jobs`: trainings and jobs on a cluster's engine."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.command_line import command_line
from pipeline.cli.completion import complete_recipe, complete_run
from pipeline.cli.console import Console, console_for_tables, say
from pipeline.cli.options import (
    Assignments,
    ClusterAssignments,
    ClusterName,
    NewHead,
    StartFrom,
    load_only_cluster,
    of_cluster,
    of_recipe,
)
from pipeline.cli.training_commands import run_job
from pipeline.runtime.errors import InterruptedByUserError, UserError

if TYPE_CHECKING:
    from pipeline.config.cluster import Cluster
    from pipeline.submit.job_engine import JobEngine, State, SubmittedJob, SubmittedTraining
    from pipeline.tracking.queries import TrainingProgress

jobs = typer.Typer(help="Look at submitted trainings, and stop them.", no_args_is_help=False)
jobs.command("run")(run_job)

JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's id, or its run's name.", autocompletion=complete_run
    ),
]


def submit(
    context: typer.Context,
    document: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|JOB",
            help="What to train: a name in configs/recipes, a recipe's YAML file, or a job's, as "
            "jobs/resnet152.yaml, which is evaluated as well.",
            autocompletion=complete_recipe,
        ),
    ],
    on: ClusterName,
    set_: Assignments = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="0-4,7", help="Train once with each of these seeds."),
    ] = None,
    start_from: StartFrom = None,
    new_head: NewHead = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, and submit nothing.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Show what the jobs print, one after the other, to the end."),
    ] = False,
) -> None:
    """Hand trainings to a cluster: this machine, a Ray cluster, Kubernetes or Slurm."""
    from pipeline.config.cluster import read_cluster
    from pipeline.submit.local import local_commands
    from pipeline.submit.submit import engine_of, refuse_unfit
    from pipeline.submit.tracking_address import check_tracking_address

    if warning := check_tracking_address(read_cluster(on, of_cluster(set_))):
        say(Console(stderr=True), f"warning: {warning}")
    trainings = _trainings(document, on, set_, seeds, start_from, new_head=new_head)
    cluster = trainings[0].cluster
    engine = engine_of(cluster)
    typed = [text for text in context.obj or () if text not in ("--dry-run", "--follow")]
    command = command_line(typed) or "ilsvrc submit"
    if dry_run:
        typer.echo(engine.render(trainings, command), nl=False)
        return
    if cluster.engine.kind == "local":
        for arguments in local_commands(trainings):
            context.find_root().command.main(arguments, standalone_mode=False, obj=arguments)
        return
    refuse_unfit(trainings)
    submitted = engine.submit(trainings, command)
    console = Console()
    for job in submitted:
        say(console, f"job {job.id}: run {job.run}")
    if not follow:
        say(console, f"to look: ilsvrc jobs list --on {shlex.quote(on)}")
        return
    ends = [_print_logs(engine, job, on, follow=True) for job in submitted]
    if "failed" in ends:
        raise typer.Exit(1)


def _trainings(
    document: str,
    on: str,
    assignments: list[str] | None,
    seeds: str | None,
    start_from: str | None,
    *,
    new_head: bool,
) -> list["SubmittedTraining"]:
    """Read what to submit, a recipe or a job; `UserError` for what is wrong before any work."""
    from pipeline.config.job import is_job
    from pipeline.reports.expected_results import find_expected
    from pipeline.submit.submit import read_job, read_seeds, read_trainings

    of_trainings = of_recipe(assignments)
    if not is_job(document):
        chosen = read_seeds(seeds)
        return read_trainings(
            document,
            of_trainings,
            on,
            of_cluster(assignments),
            chosen,
            start_from,
            new_head=new_head,
        )
    for option, value in {
        "--set": of_trainings and of_trainings[0],
        "--seeds": seeds,
        "--start-from": start_from,
        "--new-head": new_head,
    }.items():
        if value:
            said = option if value is True else f"{option} {value}"
            raise UserError(f"{said}: {document} is a job; say it there")
    trainings = read_job(document, on, of_cluster(assignments))
    assert trainings[0].job is not None
    find_expected(trainings[0].job.document.expect)
    return trainings


@jobs.callback(invoke_without_command=True)
def list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(on="laptop")


@jobs.command("list")
def list_(on: ClusterName = "laptop", set_: ClusterAssignments = None) -> None:
    """List a cluster's jobs, newest first: state, epoch, errors, speed, time left."""
    from pipeline.reports.job_tables import jobs_table
    from pipeline.submit.submit import engine_of

    cluster = load_only_cluster(on, set_)
    found = engine_of(cluster).jobs()
    console_for_tables().print(jobs_table(found, _progress(cluster, {job.run for job in found})))


@jobs.command()
def status(job: JobName, on: ClusterName = "laptop", set_: ClusterAssignments = None) -> None:
    """Say all that is known about one job."""
    from pipeline.reports.job_tables import job_table
    from pipeline.submit.submit import engine_of, find_job

    cluster = load_only_cluster(on, set_)
    found = find_job(engine_of(cluster), job)
    console_for_tables().print(job_table(found, _progress(cluster, {found.run}).get(found.run)))


@jobs.command()
def logs(
    job: JobName,
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a job printed."""
    from pipeline.submit.submit import engine_of, find_job

    engine = engine_of(load_only_cluster(on, set_))
    if _print_logs(engine, find_job(engine, job), on, follow) == "failed":
        raise typer.Exit(1)


@jobs.command()
def stop(job: JobName, on: ClusterName = "laptop", set_: ClusterAssignments = None) -> None:
    """Have a job save a checkpoint and end; the same submit goes on from there."""
    from pipeline.submit.submit import engine_of, find_job

    engine = engine_of(load_only_cluster(on, set_))
    found = find_job(engine, job)
    say(Console(), f"job {found.id} is asked to stop: {engine.stop(found)}")


@jobs.command("cluster")
def cluster_by_hand(
    on: ClusterName = "kuberay",
    set_: ClusterAssignments = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print it, and start nothing.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it.")] = False,
) -> None:
    """Start a Ray cluster in Kubernetes that stays, to work on by hand."""
    from pipeline.config.engine import KubeRay
    from pipeline.submit.kubernetes_api import KubernetesJobs

    cluster = load_only_cluster(on, set_)
    if not isinstance(cluster.engine, KubeRay):
        raise UserError(f"--on {on}: engine.kind is {cluster.engine.kind}, not kuberay")
    engine = KubernetesJobs(cluster.engine, cluster)
    if dry_run:
        typer.echo(engine.render_cluster(), nl=False)
    elif delete:
        engine.delete_cluster()
    else:
        say(Console(), engine.start_cluster())


def _progress(cluster: "Cluster", runs: set[str]) -> dict[str, "TrainingProgress"]:
    """Return what is tracked of `runs`; where the store is away, warn and return nothing."""
    from pipeline.tracking.queries import training_progress

    tracking = cluster.tracking
    try:
        return training_progress(tracking.uri, tracking.experiment, runs)
    except UserError as error:
        say(Console(stderr=True), f"shown without figures: {error}")
        return {}


def _print_logs(engine: "JobEngine", job: "SubmittedJob", on: str, follow: bool) -> "State | None":
    """Print what the job printed; after following it, say and return its end if that is known."""
    try:
        for text in engine.logs(job, follow):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise InterruptedByUserError(
            f"no longer shown, the job goes on; to look again: ilsvrc jobs logs {job.id} --on "
            f"{shlex.quote(on)} --follow"
        ) from None
    if not follow:
        return None
    end = next((one for one in engine.jobs() if one.id == job.id), None)
    if end is None:
        say(Console(), f"job {job.id} is gone, and its end is not known")
        return None
    say(Console(), " ".join(filter(None, (f"job {end.id}: {end.state}", end.reason))))
    return end.state
