"""Carries what workers tell to the driver. Light, since Ray gives it a process of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.runtime.background import in_background
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class EventQueue:
    """Holds events until the driver takes them, and the mistake that ends all attempts."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._mistake: UserError | None = None

    def put(self, event: Any) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events

    def note_mistake(self, mistake: UserError) -> None:
        self._mistake = mistake

    def mistake(self) -> UserError | None:
        return self._mistake


@contextmanager
def event_queue(show: Callable[[Any], None]) -> Iterator["ActorHandle[Any]"]:
    """Carry events from the workers to `show`, which is called in a thread of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's own node, so that no other one's end is the end of the news.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(EventQueue).remote()

    def deliver(is_over: threading.Event) -> None:
        over = False
        while not over:
            over = is_over.wait(0.3)  # one last round after the end
            for event in ray.get(actor.take.remote()):
                show(event)

    try:
        with in_background("events", deliver, patience=10):
            yield actor
    finally:
        ray.kill(actor)
