"""Runs a function as the only worker, in the command's own process: no Ray to start or wait for.

A worker that ends takes the command with it; what it has saved, the same command goes on from.
"""

import traceback

from pipeline.launch.events import Event, Heartbeat, Report
from pipeline.launch.training_job import (
    Result,
    Work,
    WorkerFunction,
    call_on_worker,
    worker_failure,
)
from pipeline.runtime.distributed import Worker, device_here, threads
from pipeline.runtime.errors import InterruptedByUserError, UserError


def run_in_this_process(function: WorkerFunction[Work, Result], job: Work, show: Report) -> Result:
    """Call `function` as worker 0 of 1 and return what it returned; see `run_on_workers`."""

    def report(event: Event) -> None:
        if not isinstance(event, Heartbeat):
            show(event)

    workers = job.cluster.workers
    worker = Worker(0, 1, device_here(workers.device))
    try:
        with threads(workers.cpus):  # as Ray does for its workers
            return call_on_worker(function, job, worker, report)
    except (UserError, InterruptedByUserError):
        raise
    except Exception as error:
        if workers.count == 0:
            raise  # to a debugger, where it was raised
        raise worker_failure(error, traceback.format_exc(), job.folder) from error
