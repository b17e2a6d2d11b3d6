"""Items in processes of Ray: what goes wrong there is said here, in one line."""

import os
import signal

import pytest

from pipeline.data.store.parallel_map import parallel_map
from pipeline.runtime.errors import UserError


def test_a_process_that_is_killed_each_time_is_said_in_one_line(ray_session: None) -> None:
    # Defined inside, so that it travels to the workers by value.
    def be_killed(item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        UserError, match=r"ended, 4 times \(WorkerCrashedError.*run the same"
    ) as told:
        parallel_map(be_killed, [0], 1, print)
    assert "\n" not in str(told.value)
