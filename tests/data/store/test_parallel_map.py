"""Errors in Ray's worker processes, raised in this one."""

import os
import signal

import pytest

from pipeline.data.store.parallel_map import parallel_map
from pipeline.runtime.errors import UserError


def test_an_item_whose_process_dies_at_every_try_is_a_one_line_error(ray_session: None) -> None:
    # Defined inside, so that it travels to the workers by value.
    def be_killed(item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        UserError, match=r"ended, 4 times \(WorkerCrashedError.*run the same"
    ) as error:
        parallel_map(be_killed, [0], 1, print)
    assert "\n" not in str(error.value)
