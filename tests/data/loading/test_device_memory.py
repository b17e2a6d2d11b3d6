"""Images stay untouched until the device has read them, though nothing waits for it."""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.device_memory import (
    MAX_QUEUED,
    DeviceEvent,
    event_recorder,
    to_device,
)
from pipeline.data.loading.loader import Batch, Loader, build_loader
from pipeline.data.loading.plans import evaluation_plan
from pipeline.data.loading.views import Views
from pipeline.data.loading.windows import WindowLoader
from pipeline.data.store.store import Split

CPU = torch.device("cpu")
INPUT = InputConfig(size=8, mean=(0, 0, 0), std=(1, 1, 1))
CENTER = CenterCrop(resize=8)


@dataclass
class LaggingDevice:
    """Does what is queued only when it must, long after what queued it has gone on."""

    work: deque[Callable[[], None]] = field(default_factory=deque)
    num_queued: int = 0
    num_done: int = 0

    def queue(self, work: Callable[[], None]) -> None:
        self.work.append(work)
        self.num_queued += 1

    def run_to(self, number: int) -> None:
        while self.num_done < number:
            self.work.popleft()()
            self.num_done += 1

    def record(self) -> DeviceEvent:
        return _LaggingEvent(self, self.num_queued)


@dataclass
class _LaggingEvent:
    device: LaggingDevice
    number: int

    def query(self) -> bool:
        return self.device.num_done >= self.number

    def synchronize(self) -> None:
        self.device.run_to(self.number)


class Reusing:
    """A backend that fills the memory of its images with −1 as soon as nothing refers to them.

    As a library does that has its own memory. Image i is full of i.
    """

    def __init__(self, views: Iterator[Views]) -> None:
        self._views = views
        self.num_taken_back = 0

    def __next__(self) -> torch.Tensor:
        images = next(self._views).images
        memory = np.empty((len(images), 3, 8, 8), np.float32)
        memory[:] = images[:, None, None, None]
        handed_out = memory[:]  # the memory itself stays, and with it what is read too late
        weakref.finalize(handed_out, self._take_back, memory)
        return torch.from_numpy(handed_out)

    def _take_back(self, memory: np.ndarray) -> None:
        memory[:] = -1
        self.num_taken_back += 1

    def close(self) -> None: ...


def reads(batch: Batch, found: list[list[float]]) -> Callable[[], None]:
    """Return what reads the memory of `batch` as a kernel does: by its address."""
    address, count = batch.images.data_ptr(), batch.images.numel()
    indices = batch.indices.tolist()

    def read() -> None:
        import ctypes

        values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        found.append([*indices, *values.reshape(len(indices), -1).mean(axis=1).tolist()])

    return read


@pytest.mark.parametrize("window", [1, 4])
def test_what_is_queued_reads_images_that_nothing_else_refers_to(
    window: int, photos: Split
) -> None:
    device = LaggingDevice()
    backends: list[Reusing] = []

    def execute(views: Iterator[Views]) -> Reusing:
        backends.append(Reusing(views))
        return backends[-1]

    plan = evaluation_plan(CENTER, 8, photos, 0, 1, 2)
    source = WindowLoader(photos, plan, execute, None, window)
    loader = Loader(source, photos, INPUT, CPU, device.record)
    found: list[list[float]] = []
    for number, batch in enumerate(loader):
        device.queue(reads(batch, found))
        del batch
        # The host is ahead, though not by any number of batches.
        assert device.num_done == max(0, number - MAX_QUEUED)
    loader.close()
    assert found == [[i, i + 1, i, i + 1] for i in range(0, len(photos), 2)]
    assert backends[0].num_taken_back == -(-len(photos) // max(2, window))


def test_a_cpu_holds_nothing_back(photos: Split) -> None:
    backend: list[Reusing] = []

    def execute(views: Iterator[Views]) -> Reusing:
        backend.append(Reusing(views))
        return backend[0]

    plan = evaluation_plan(CENTER, 8, photos, 0, 1, 2)
    source = WindowLoader(photos, plan, execute, None, 1)
    loader = Loader(source, photos, INPUT, CPU, event_recorder(CPU))
    for number in range(len(photos) // 2):
        next(loader)
        assert backend[0].num_taken_back == number
    loader.close()


def test_what_is_on_the_device_already_is_not_copied() -> None:
    values = torch.rand(3)
    assert to_device(values, CPU) is values


@pytest.mark.gpu
def test_queued_kernels_read_the_images_they_were_given(photos: Split) -> None:
    """The GPU sleeps before each copy, so that all is queued long before anything is read."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    shown: dict[bool, list[torch.Tensor]] = {}
    for sleeps in (False, True):
        loader = build_loader(
            photos,
            list(evaluation_plan(CENTER, 8, photos, 0, 1, 2)) * 5,
            INPUT,
            LoadingConfig(window=1),
            device,
            max_batch_size=2,
            fill=None,
            channels_last=True,
        )
        copies = []
        for batch in loader:
            if sleeps:
                torch.cuda._sleep(50_000_000)
            copies.append((batch.images.clone(), batch.labels.clone(), batch.keys.clone()))
            del batch
        loader.close()
        torch.cuda.synchronize()
        shown[sleeps] = [tensor for each in copies for tensor in each]
    for first, second in zip(shown[False], shown[True], strict=True):
        assert torch.equal(first, second)


@pytest.mark.gpu
def test_copies_to_a_gpu_do_not_wait_for_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    values = torch.rand(1000)
    to_device(values, device)  # pins memory, which waits once
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    slept = event_recorder(device)()
    copied = to_device(values, device)
    assert not slept.query()
    assert torch.equal(copied.cpu(), values)
