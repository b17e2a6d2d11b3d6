"""A thread loads ahead: in order, not too far, and it ends whatever becomes of its consumer."""

import gc
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator

import pytest

from pipeline.data.loading.thread_ahead import ThreadAhead

PATIENCE = 30  # seconds, for a thread to come to where it must


class Source:
    """Counts to `last`, then ends or raises `error`."""

    def __init__(self, last: int = 10**9, error: Exception | None = None) -> None:
        self.last, self.error = last, error
        self.given = 0
        self.closed_in: list[str] = []
        self.has_given = threading.Condition()

    def __next__(self) -> int:
        if self.given == self.last:
            self._give_up()
        with self.has_given:
            self.given += 1
            self.has_given.notify_all()
        return self.given

    def _give_up(self) -> None:
        if self.error:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        self.closed_in.append(threading.current_thread().name)

    def wait(self, number: int) -> None:
        with self.has_given:
            assert self.has_given.wait_for(lambda: self.given >= number, PATIENCE)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    gc.collect()
    before = len(loader_threads())
    yield
    assert len(loader_threads()) == before


def taken(ahead: ThreadAhead[int]) -> Iterator[int]:
    while True:
        try:
            yield next(ahead)
        except StopIteration:
            return


@pytest.mark.parametrize("last", [0, 1, 50])
@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order_and_end(last: int, depth: int) -> None:
    source = Source(last)
    ahead = ThreadAhead(source, depth)
    assert list(taken(ahead)) == list(range(1, last + 1))
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(ahead)
    ahead.close()
    assert source.closed_in == ["loader"]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_as_many_as_the_depth_are_ready_and_no_more(depth: int) -> None:
    source = Source()
    ahead = ThreadAhead(source, depth)
    for number in range(1, 20):
        source.wait(number - 1 + depth)  # ready before it is asked for
        assert source.given == number - 1 + depth
        assert next(ahead) == number
    ahead.close()


def test_an_error_comes_in_its_place_with_its_traceback() -> None:
    ahead = ThreadAhead(Source(2, ValueError("a defect")))
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="a defect") as caught:
        next(ahead)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "_give_up"
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_closing_ends_the_thread_that_has_no_place_left() -> None:
    source = Source()
    ahead = ThreadAhead(source)
    source.wait(1)
    ahead.close()
    assert not loader_threads()
    assert source.closed_in == ["loader"]
    assert source.given == 1
    ahead.close()
    with pytest.raises(StopIteration):
        next(ahead)


def test_what_nothing_refers_to_ends() -> None:
    source = Source()
    ahead = ThreadAhead(source)
    next(ahead)
    del ahead
    gc.collect()
    assert not loader_threads()
    assert source.closed_in == ["loader"]


SLOW = """
import sys, time
from pipeline.data.loading.thread_ahead import ThreadAhead
class Slow:
    def __next__(self):
        print("begun", flush=True)
        time.sleep(float(sys.argv[1]))
        return 1
    def close(self):
        print("closed", flush=True)
ahead = ThreadAhead(Slow())
"""


def test_an_interrupt_reaches_what_waits_for_an_item() -> None:
    script = SLOW + "next(ahead)"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert errors.endswith("KeyboardInterrupt\n")
    assert output.endswith("closed\n")


def test_the_interpreter_exits_while_the_thread_is_at_work() -> None:
    command = [sys.executable, "-c", SLOW, "0.2"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert process.stderr == ""
    assert process.stdout.endswith("closed\n")
