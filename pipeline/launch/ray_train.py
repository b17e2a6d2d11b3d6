"""Runs a function on the workers of a cluster: by Ray Train, or in this very process."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.config.cluster import WorkersConfig
from pipeline.launch.event_queue import event_queue
from pipeline.launch.events import Event, Message, Report, WorkerStarted
from pipeline.launch.heartbeat import HeartbeatMonitor
from pipeline.launch.preemption import watch_preemption
from pipeline.launch.prometheus import PrometheusMetrics
from pipeline.launch.stop_signal import stop_on_signals
from pipeline.launch.training_job import WorkerJob
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, device_here, threads
from pipeline.runtime.errors import (
    InterruptedByUserError,
    TrainingStoppedError,
    UserError,
    WorkerFailedError,
)
from pipeline.runtime.ray_session import ray_session

if TYPE_CHECKING:
    from ray.actor import ActorHandle

Result = TypeVar("Result")
Work = TypeVar("Work", bound=WorkerJob)

# What all workers raise at the same step, so that none is to be tried again.
_ENDS = (TrainingStoppedError, InterruptedByUserError)
_SCRATCH = ".ray-"


def run_on_workers(
    function: Callable[[Work, Worker, Report], Result],
    job: Work,
    show: Report,
    *,
    stops_on_request: bool = False,
) -> Result:
    """Call `function` on every worker of the job's cluster and return what rank 0 returned.

    Events of the workers reach `show` in this process. A `UserError` of a worker is raised again
    here, and is not tried again. Any other failure of a worker leaves its traceback in the run's
    folder and becomes a `WorkerFailedError` that names the file. A function that `stops_on_request`
    is asked to by signals (`launch.stop_signal`); it raises `InterruptedByUserError` when it
    did.
    """
    workers = job.cluster.workers

    def asking() -> AbstractContextManager[None]:
        if not stops_on_request:
            return nullcontext()
        return stop_on_signals(job.folder, workers.grace_seconds, lambda text: show(Message(text)))

    if workers.are_in_process:
        with asking():
            return _in_this_process(function, job, show)
    with ray_session(workers.ray_address), event_queue(_hearing(job, show)) as box:
        _refuse_too_few(workers)
        with asking():  # Ray catches signals while it starts
            return _fit(function, job, box)


def remove_what_killed_ones_left(folder: RunFolder) -> None:
    """Remove the scratch of drivers that were killed. For who holds `folder`: others may live."""
    for stale in folder.path.glob(f"{_SCRATCH}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _hearing(job: WorkerJob, show: Report) -> Report:
    """Return what hears the workers: the gauges all, `show` what a person should be told."""
    roll_call, gauges = (
        HeartbeatMonitor(job.cluster.workers.is_elastic),
        PrometheusMetrics(job.folder.name),
    )

    def hear(event: Event) -> None:
        gauges.hear(event)
        if told := roll_call.hear(event):
            show(told)

    return hear


def _in_this_process(
    function: Callable[[Work, Worker, Report], Result], job: Work, show: Report
) -> Result:
    device = device_here(job.cluster.workers.device)
    with threads(job.cluster.workers.cpus):  # as Ray does for its workers
        return function(job, Worker(0, 1, device), show)


def _refuse_too_few(workers: WorkersConfig) -> None:
    # Ray Train itself would wait for ever.
    import ray

    there = ray.cluster_resources()
    wanted = {
        "CPU": workers.fewest * workers.cpus,
        "GPU": workers.fewest if workers.device == "gpu" else 0,
    }
    for kind, number in wanted.items():
        if number > there.get(kind, 0):
            raise UserError(
                f"{workers.fewest} workers need {number} {kind}s, Ray has {there.get(kind, 0):g}; "
                f"lower cluster.workers.{'min' if workers.is_elastic else 'count'}"
            )


def _fit(
    function: Callable[[Work, Worker, Report], Result], job: Work, box: "ActorHandle[Any]"
) -> Result:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, network = job.cluster.workers, job.cluster.network
    # Nobody takes this machine's own Ray a node away, and the watcher costs it an actor.
    watches = "0" if workers.are_on_this_machine else "1"
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", watches)
    # Ray wants a place that all machines share; the run's folder is one.
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=job.folder.path) as scratch:
        trainer = TorchTrainer(
            partial(_enter, function, job, box, credentials()),
            torch_config=TorchConfig(
                init_method=network.rendezvous, timeout_s=network.timeout_seconds
            ),
            scaling_config=train.ScalingConfig(
                num_workers=(
                    (workers.fewest, workers.most) if workers.is_elastic else workers.most
                ),
                elastic_resize_monitor_interval_s=workers.resize_seconds,
                use_gpu=workers.device == "gpu",
                resources_per_worker={"CPU": workers.cpus}
                | ({"GPU": 1} if workers.device == "gpu" else {}),
            ),
            # Ray keeps nothing that this project resumes from, see pipeline.training.checkpoint.
            run_config=train.RunConfig(
                name=job.folder.name,
                storage_path=scratch,
                failure_config=train.FailureConfig(max_failures=workers.max_failures),
                logging_config=train.LoggingConfig(log_level="ERROR"),
                worker_runtime_env={"env_vars": _network_device(network.interface)},
            ),
        )
        try:
            returned = _in_a_thread(lambda: trainer.fit().return_value)
        except train.TrainingFailedError as error:
            raise _explained(error, job) from None
    if isinstance(returned, UserError | InterruptedByUserError):
        raise returned
    return returned


def _in_a_thread(function: Callable[[], Result]) -> Result:
    """Call `function` while this thread hears signals, which Ray would take for itself."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # A daemon: when Ctrl-C ends the waiting, nobody waits for it.
    threading.Thread(target=run, name="fit", daemon=True).start()
    while not future.done():
        wait([future], timeout=0.2)
    return future.result()


def _network_device(interface: str | None) -> dict[str, str]:
    """What NCCL and gloo read when they start."""
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return dict.fromkeys(names, interface) if interface else {}


def credentials() -> dict[str, str]:
    """Return what a Ray that was up before can't know of this process's environment."""
    return {key: value for key, value in os.environ.items() if key.startswith(("MLFLOW_", "AWS_"))}


def _enter(
    function: Callable[[Work, Worker, Report], Result],
    job: Work,
    box: "ActorHandle[Any]",
    environment: dict[str, str],
) -> Result | Exception:
    """Be one worker of Ray Train: the only code that asks Ray who it is."""
    os.environ.update(environment)
    import ray
    from ray import train
    from ray.train.torch import get_device

    if mistake := ray.get(box.mistake.remote()):
        return mistake  # of an earlier attempt; all workers see it

    context = train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())

    def report(event: Event) -> None:
        box.put.remote(event)

    report(WorkerStarted(worker.rank))
    try:
        with watch_preemption(job.folder):
            return function(job, worker, report)
    except _ENDS as error:
        return error  # Ray would try what is raised again
    except UserError as error:
        # The others wait for this worker, so that it must fail; the next attempt ends at once.
        ray.get(box.note_mistake.remote(error))
        raise


def _explained(error: Exception, job: WorkerJob) -> Exception:
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, UserError):
                return cause
    job.folder.errors.write_text(str(error), encoding="utf-8")  # Ray's text has the tracebacks
    first = min(failures.values(), key=_is_collateral, default=error)
    return WorkerFailedError(
        f"a worker failed: {type(first).__name__}: {_first_line(first)}; the whole story is in "
        f"{job.folder.errors}"
    )


def _is_collateral(failure: Exception) -> bool:
    # When one worker goes, the others lose their connection to it.
    return any(word in str(failure) for word in ("onnection", "NCCL", "Gloo", "gloo"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
