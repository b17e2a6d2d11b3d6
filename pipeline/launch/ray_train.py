"""Runs a function on the workers of a cluster: by Ray Train, or in this process."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.config.cluster import WorkersConfig
from pipeline.launch.event_queue import event_queue
from pipeline.launch.events import Event, Message, Phase, Report, WorkerStarted
from pipeline.launch.heartbeat import HeartbeatMonitor
from pipeline.launch.in_process import run_in_this_process
from pipeline.launch.preemption import watch_preemption
from pipeline.launch.prometheus import PrometheusMetrics
from pipeline.launch.stop_signal import stop_on_signals
from pipeline.launch.training_job import (
    Result,
    Work,
    WorkerFunction,
    WorkerJob,
    call_on_worker,
    worker_failure,
)
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import (
    InterruptedByUserError,
    TrainingStoppedError,
    UserError,
)
from pipeline.runtime.interrupts import interrupted_by_signals
from pipeline.runtime.ray_session import has_lost_server, ray_session

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.torch import TorchTrainer

# All workers raise these at the same step; they are final, so the workers don't start again.
_FINAL = (TrainingStoppedError, InterruptedByUserError)
_SCRATCH = ".ray-"


def run_on_workers(
    function: WorkerFunction[Work, Result],
    job: Work,
    show: Report,
    *,
    stops_on_request: bool = False,
) -> Result:
    """Call `function` on every worker of the job's cluster and return what rank 0 returned.

    Events of the workers reach `show` in this process. A `UserError` of a worker is raised again
    here, without another attempt. Any other failure of a worker leaves its traceback in the run's
    folder and becomes a `WorkerFailedError` that names the file. Where `stops_on_request`, signals
    request that `function` stops (`launch.stop_signal`); it then raises `InterruptedByUserError`.
    """
    workers = job.cluster.workers
    stop_signals = (
        stop_on_signals(job.folder, workers.grace_seconds, lambda text: show(Message(text)))
        if stops_on_request
        else nullcontext()
    )
    if workers.are_in_process:
        with interrupted_by_signals(), stop_signals:
            return run_in_this_process(function, job, show)
    show(Phase("Ray"))
    with ray_session(workers.ray_address), event_queue(_event_handler(job, show)) as queue:
        _refuse_too_few_resources(workers)
        show(Phase("workers"))
        with stop_signals:  # not earlier: Ray catches signals while it starts
            return _fit(function, job, queue)


def remove_stale_scratch(folder: RunFolder) -> None:
    """Remove the scratch of drivers that were killed. Only for the holder of `folder`'s lock."""
    for stale in folder.path.glob(f"{_SCRATCH}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _event_handler(job: WorkerJob, show: Report) -> Report:
    """Return a function that exports events to Prometheus and shows the user's part of them."""
    monitor = HeartbeatMonitor(job.cluster.workers.is_elastic)
    metrics = PrometheusMetrics(job.folder.name)

    def handle(event: Event) -> None:
        metrics.update(event)
        if shown := monitor.filter(event):
            show(shown)

    return handle


def _refuse_too_few_resources(workers: WorkersConfig) -> None:
    # Ray Train itself would wait for ever.
    import ray

    available = ray.cluster_resources()
    needed = {
        "CPU": workers.fewest * workers.cpus,
        "GPU": workers.fewest if workers.device == "gpu" else 0,
    }
    for kind, number in needed.items():
        if number > (has := available.get(kind, 0)):
            raise UserError(
                f"{workers.fewest} workers need {number} {kind}s, Ray has {has:g}; "
                f"lower cluster.workers.{'min' if workers.is_elastic else 'count'}"
            )


def _fit(function: WorkerFunction[Work, Result], job: Work, queue: "ActorHandle[Any]") -> Result:
    from ray import train
    from ray.exceptions import RayError
    from ray.train.torch import TorchConfig

    workers, network = job.cluster.workers, job.cluster.network
    interface = network.interface or ("lo" if workers.are_on_this_machine else None)
    # A Ray on this machine alone loses no node to preemption, and the watcher costs an actor.
    watches = "0" if workers.are_on_this_machine else "1"
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", watches)
    # Ray wants a place that all machines share; the run's folder is one.
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=job.folder.path) as scratch:
        trainer = _trainer_class(workers)(
            partial(_run_worker, function, job, queue, credentials()),
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
                worker_runtime_env={"env_vars": _interface_variables(interface)},
            ),
        )
        try:
            returned = _call_in_thread(lambda: trainer.fit().return_value)
        except train.TrainingFailedError as error:
            raise _worker_error(error, job) from None
        except RayError as error:
            raise UserError(_lost_ray(str(error).strip().splitlines()[0])) from None
    if isinstance(returned, UserError | InterruptedByUserError):
        raise returned
    return returned


def _trainer_class(workers: WorkersConfig) -> "type[TorchTrainer]":
    """Return Ray's trainer; on this machine alone one without two actors of 115 MB each.

    One hands out Ray's own data sets, which are not used here. The other frees what a killed
    controller leaves behind, which here ends with the command.
    """
    from ray.train.torch import TorchTrainer

    if not workers.are_on_this_machine:
        return TorchTrainer

    class LocalTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
            callbacks = super()._create_default_callbacks()
            return [one for one in callbacks if type(one).__name__ not in unused]

    return LocalTrainer


def _call_in_thread(function: Callable[[], Result]) -> Result:
    """Call `function` in a thread, so that this one gets the signals, which Ray would catch."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that it does not keep the process alive after Ctrl-C.
    threading.Thread(target=run, name="fit", daemon=True).start()
    while not future.done():
        wait([future], timeout=0.2)
        if has_lost_server():  # Ray itself notices after 20 s, or ends this process after 60
            raise UserError(_lost_ray("a process of it was killed"))
    return future.result()


def _lost_ray(reason: str) -> str:
    return f"Ray is gone: {reason}; the same command goes on from what was saved"


def _interface_variables(interface: str | None) -> dict[str, str]:
    """Return the environment variables that NCCL and gloo read when they start."""
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return dict.fromkeys(names, interface) if interface else {}


def credentials() -> dict[str, str]:
    """Return this process's variables that workers of a Ray that was up before would lack."""
    return {key: value for key, value in os.environ.items() if key.startswith(("MLFLOW_", "AWS_"))}


def _run_worker(
    function: WorkerFunction[Work, Result],
    job: Work,
    queue: "ActorHandle[Any]",
    environment: dict[str, str],
) -> Result | Exception:
    """Run `function` as one worker of Ray Train: the only code that asks Ray for its rank."""
    os.environ.update(environment)
    import ray
    from ray import train
    from ray.train.torch import get_device

    if earlier_error := ray.get(queue.error.remote()):
        return earlier_error  # of the attempt before; all workers get it

    context = train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())

    def report(event: Event) -> None:
        queue.put.remote(event)

    report(WorkerStarted(worker.rank))
    try:
        with watch_preemption(job.folder):
            return call_on_worker(function, job, worker, report)
    except _FINAL as error:
        return error  # for what is raised Ray would start the workers again
    except UserError as error:
        # The others wait for this worker, so that it must fail; the next attempt ends at once.
        ray.get(queue.set_error.remote(error))
        raise


def _worker_error(error: Exception, job: WorkerJob) -> Exception:
    """Return the `UserError` that ended a worker, or a `WorkerFailedError` in its place."""
    from ray import train

    failures = error.worker_failures if isinstance(error, train.WorkerGroupError) else {}
    for failure in failures.values():
        if isinstance(failure, UserError):
            return failure
    first = min(failures.values(), key=_is_lost_connection, default=error)
    return worker_failure(first, str(error), job.folder)  # Ray's text has the tracebacks


def _is_lost_connection(failure: Exception) -> bool:
    # When one worker goes, the others lose their connection to it.
    return any(word in str(failure) for word in ("onnection", "NCCL", "Gloo", "gloo"))
