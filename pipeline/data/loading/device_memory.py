"""What travels between host and device, without one waiting for the other."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Batches whose computation may still be queued when the next one is asked for. One is enough to
# keep the device busy.
MAX_QUEUED = 2


class DeviceEvent(Protocol):
    """A place in a device's queue: done once all that was queued before it is."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


class _Done:
    """The event of a CPU, which queues nothing."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


class HeldImages:
    """Holds the images handed out until the device has done all that was queued on them.

    DALI takes memory of its own back with the last reference, which may go while kernels that read
    it are still queued: only torch's own memory is tied to streams. `record` returns an event after
    all that is queued by now, on the stream of the calling thread.
    """

    def __init__(self, record: Callable[[], DeviceEvent]) -> None:
        self._record = record
        self._handed_out: Tensor | None = None
        self._queued: deque[tuple[DeviceEvent, Tensor]] = deque()

    def hold(self, images: Tensor) -> None:
        """Hold `images`, which are handed out now."""
        self._handed_out = images

    def release(self) -> None:
        """Let go of what the device is done with; all that reads what was handed out is queued.

        Waits where more than `MAX_QUEUED` batches aren't done, so that their memory is bounded.
        """
        if self._handed_out is not None:
            self._queued.append((self._record(), self._handed_out))
            self._handed_out = None
        while self._queued and (len(self._queued) > MAX_QUEUED or self._queued[0][0].query()):
            event, _ = self._queued[0]
            event.synchronize()
            self._queued.popleft()

    def close(self) -> None:
        """Wait for the device to be done with all, and let go of it."""
        self.release()
        while self._queued:
            self._queued[0][0].synchronize()
            self._queued.popleft()


def event_recorder(device: torch.device) -> Callable[[], DeviceEvent]:
    """Return what records an event on the calling thread's current stream of `device`."""
    if device.type != "cuda":
        return _Done

    def record() -> DeviceEvent:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        return event

    return record


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`, ordered before what is queued there next; nothing waits."""
    if values.device.type == device.type:
        return values
    return values.pin_memory().to(device, non_blocking=True)
