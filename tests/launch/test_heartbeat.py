"""Which workers hang, and which only wait: by real processes that meet in gloo."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from two_workers import start_two_workers

from pipeline.launch.events import Event, Heartbeat, Message, WorkerHung
from pipeline.launch.heartbeat import HeartbeatMonitor, Watchdog
from pipeline.launch.progress_board import KnownProgress, WorkerProgress, late_workers
from pipeline.runtime.distributed import Worker

CPU = torch.device("cpu")
TIMEOUT, DELAY = 4.0, 0.8  # seconds; the second follows from the first
FOR_EVER = 1e6

Scenario = Callable[[Watchdog, int], None]


def batches(pauses: list[float]) -> Iterator[int]:
    """Load for these seconds before each batch."""
    for number, pause in enumerate(pauses):
        time.sleep(pause)
        yield number


def take_step(watchdog: Watchdog, pauses: list[float]) -> None:
    for _ in watchdog.counted(batches(pauses)):
        pass
    torch.distributed.all_reduce(torch.zeros(1))
    watchdog.step_done()


def one_is_slow(watchdog: Watchdog, rank: int) -> None:
    take_step(watchdog, [1.5] * 4 if rank == 0 else [0, 0])
    for _ in watchdog.counted_alone(batches([2.5, 0])):  # its time begins anew
        pass


def one_hangs(watchdog: Watchdog, rank: int) -> None:
    take_step(watchdog, [0] * (4 - rank))  # uneven shares, as of seven micro-batches
    take_step(watchdog, [0] * 4 if rank == 0 else [0, FOR_EVER])


def the_first_is_suspended(watchdog: Watchdog, rank: int) -> None:
    take_step(watchdog, [0])
    if rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    take_step(watchdog, [0])


def the_collective_hangs(watchdog: Watchdog, rank: int) -> None:
    take_step(watchdog, [0])
    for _ in watchdog.counted(batches([0])):
        torch.distributed.recv(torch.zeros(1), src=1 - rank)  # both receive, nobody sends


def one_hangs_in_an_evaluation(watchdog: Watchdog, rank: int) -> None:
    pauses = [0.1] * 600 if rank == 0 else [0, FOR_EVER]
    for _ in watchdog.counted_alone(batches(pauses)):
        if (watchdog_folder() / "1").exists():
            return


def watchdog_folder() -> Path:
    return Path(os.environ["FOLDER"])


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        one_is_slow,
        one_hangs,
        the_first_is_suspended,
        the_collective_hangs,
        one_hangs_in_an_evaluation,
    )
}


def run(rank: int, scenario: str, folder: Path) -> None:
    """Be one of two workers; write whom the watchdog found late to a file of this rank's name."""
    os.environ["FOLDER"] = str(folder)

    def report(event: Event) -> None:
        if isinstance(event, WorkerHung):
            (folder / str(rank)).write_text(repr(event.late))

    watchdog = Watchdog(folder, TIMEOUT, Worker(rank, 2, CPU), report)
    with watchdog.watching():
        SCENARIOS[scenario](watchdog, rank)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """Whom each worker found late when it ended itself, by rank, of all scenarios."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SCENARIOS}
    started = {name: start_two_workers(run, name, folder) for name, folder in folders.items()}
    deadline = time.monotonic() + 100
    for name, (first, second) in started.items():
        second.join(max(0.0, deadline - time.monotonic()))
        if SCENARIOS[name] is not the_first_is_suspended:
            first.join(max(0.0, deadline - time.monotonic()))
        for process in (first, second):
            process.kill()
            process.join()
    return {
        name: {int(path.name): path.read_text() for path in folder.glob("[01]")}
        for name, folder in folders.items()
    }


def test_a_worker_that_waits_for_a_slow_one_is_left_alone(
    outcomes: dict[str, dict[int, str]],
) -> None:
    assert outcomes["one_is_slow"] == {}


@pytest.mark.parametrize(
    ("scenario", "late"),
    [
        ("one_hangs", {0: "(1,)", 1: "(1,)"}),
        ("the_first_is_suspended", {1: "(0,)"}),
        ("the_collective_hangs", {0: "(0, 1)", 1: "(0, 1)"}),
        ("one_hangs_in_an_evaluation", {1: "(1,)"}),
    ],
)
def test_workers_end_when_the_job_hangs_and_name_the_late_one(
    outcomes: dict[str, dict[int, str]], scenario: str, late: dict[int, str]
) -> None:
    # The end of one may tear the connection of another before that ends by itself.
    told = outcomes[scenario]
    assert told
    assert told.items() <= late.items()


def known(
    position: float, seconds: float, ago: float = 0.0, is_alone: bool = False
) -> KnownProgress:
    return KnownProgress(WorkerProgress(position, seconds, is_alone), ago)


@pytest.mark.parametrize(
    ("workers", "late"),
    [
        # Worker 0 judges. It waits, and the others take batches.
        ({0: known(3, 9), 1: known(2.25, 3)}, []),
        # What another said last may be old by the delay.
        ({0: known(3, 9), 1: known(2.25, 3.9, ago=0.85)}, []),
        ({0: known(3, 9), 1: known(2.25, 3.9, ago=1.0)}, [1]),
        ({0: known(3, 9), 1: known(2.25, 9), 2: known(2.25, 9), 3: known(3, 9)}, [1, 2]),
        ({0: known(3, 9), 1: known(3, 9)}, [0, 1]),
        ({0: known(3, 9)}, [0]),
        ({0: known(3, 3.9)}, []),
        # A stopped process is late, wherever it stands.
        ({0: known(2, 9), 1: known(3, 9), 2: known(3, 1, ago=8)}, [2]),
        ({0: known(2, 1, is_alone=True), 1: known(3, 1, ago=5)}, [1]),
        # One that has not begun may take its time, while others go on.
        ({0: known(2, 1, is_alone=True), 1: KnownProgress(None, 900)}, []),
        ({0: known(2, 9), 1: KnownProgress(None, 9), 2: known(2, 9)}, [1]),
        # In an evaluation nobody waits for another.
        ({0: known(2, 4.1, is_alone=True), 1: known(2, 1, is_alone=True)}, [0]),
        ({0: known(2, 3.9, is_alone=True), 1: known(2, 4.1, is_alone=True)}, []),
        # One that is done with its images, or has none, waits for the rest.
        ({0: known(2, 900), 1: known(2, 1, is_alone=True)}, []),
    ],
)
def test_who_is_late(workers: dict[int, KnownProgress], late: list[int]) -> None:
    assert late_workers(workers, 0, TIMEOUT, DELAY) == late


def test_worker_0_is_late_where_nothing_is_heard_of_anyone() -> None:
    silent = {rank: known(3, 1, ago=9) for rank in range(3)}
    assert late_workers({**silent, 3: known(3, 3)}, 3, TIMEOUT, DELAY) == [0]


def test_a_hang_is_told_once_with_the_late_worker(tmp_path: Path) -> None:
    monitor = HeartbeatMonitor(are_elastic=False)
    for rank, taken in enumerate((84, 81, 84)):
        assert monitor.filter(Heartbeat(rank, taken)) is None
    shown = monitor.filter(WorkerHung(0, 300, tmp_path, (1,)))
    assert isinstance(shown, Message)
    assert shown.text.startswith(
        "no batch was taken for 300 s; worker 1 is late, after 81 batches (the others: 84), last "
        "heard of 0 s ago. All workers are ended, their stacks are in"
    )
    assert monitor.filter(WorkerHung(2, 300, tmp_path, (1,))) is None


def test_a_hang_of_all_names_none(tmp_path: Path) -> None:
    monitor = HeartbeatMonitor(are_elastic=False)
    for rank in range(2):
        monitor.filter(Heartbeat(rank, 84))
    shown = monitor.filter(WorkerHung(0, 300, tmp_path, (0, 1)))
    assert isinstance(shown, Message)
    assert "no worker is behind the others, after 84 batches" in shown.text
