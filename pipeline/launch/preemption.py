"""Watches for what ends a worker of Ray Train early: a signal, or the preemption of its node.

Both become requests in the run's folder (`pipeline.launch.stop_signal`).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.background import in_background


@contextmanager
def watch_preemption(folder: RunFolder) -> Iterator[None]:
    """While inside, have SIGUSR1 to this worker stop the run after its next step.

    SIGTERM is Ray's own way to end a worker, and still kills it. The notice that a node of the
    workers will be preempted has a checkpoint saved: when the node has gone, Ray Train starts the
    workers again elsewhere.
    """
    import ray

    # The training runs in a thread, and only the main one, where Ray calls this actor, may set a
    # handler.
    actor = ray.get_runtime_context().current_actor
    ray.get(actor.execute.remote(_set_signal_handler, folder.stop_request))
    with in_background("preemption", partial(_request_on_notice, folder.save_request)):
        yield


def _set_signal_handler(request: Path) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: request.touch())


def _request_on_notice(request: Path, is_over: threading.Event) -> None:
    # `ray.train.get_preemption_info` is a collective call that costs a round trip through an actor.
    from ray.train.v2._internal.execution.context import get_train_context

    last_notice = None
    while not is_over.wait(0.5):
        notice = get_train_context().preemption_context.preemption_info
        if notice != last_notice:
            request.touch()
            last_notice = notice
