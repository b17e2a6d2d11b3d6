"""Carries events from the workers to the driver. Light, since Ray gives it a process of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline.runtime.background import in_background
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class EventQueue:
    """Holds events until the driver takes them, and the error that ends all attempts.

    `ray.util.queue` waits for an answer to each put, and holds no such error.
    """

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._error: UserError | None = None

    def put(self, event: Any) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events

    def set_error(self, error: UserError) -> None:
        self._error = error

    def error(self) -> UserError | None:
        return self._error


@contextmanager
def event_queue(show: Callable[[Any], None]) -> Iterator["ActorHandle[Any]"]:
    """Carry events from the workers to `show`, which is called in a thread of this process."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's own node, so that the loss of another node never ends it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = ray.remote(num_cpus=0, scheduling_strategy=here)(EventQueue).remote()

    def deliver(is_over: threading.Event) -> None:
        over = False
        with suppress(RayError):  # Ray itself was killed, which ends the command elsewhere
            while not over:
                over = is_over.wait(0.3)  # one last round after the end
                for event in ray.get(queue.take.remote()):
                    show(event)

    try:
        with in_background("events", deliver, patience=10):
            yield queue
    finally:
        with suppress(RayError):
            ray.kill(queue)
