"""Starting or joining Ray: without its output, access by token only, no files left at the end.

Ray's own processes listen on the network; its token authentication, which stays on, and a dashboard
on loopback only keep others out.
"""

import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from pipeline.runtime.errors import UserError

LOCAL = "local"  # the address of a Ray that the command itself starts

# Set before Ray is imported, which only functions do. The user's own settings take precedence.
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing may need the internet
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a fit ends 3 s sooner than with 2 s
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # also waits for a node that just left
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES to the user
    }
    | os.environ
)


def _may_need_token() -> bool:
    """Whether there is a token: `ray start` then requires it, but `ray.init` doesn't send it."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(map(os.environ.get, names)) or (Path.home() / ".ray" / "auth_token").is_file()


if _may_need_token():
    os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def ray_session(address: str, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray while inside; a Ray that this process uses already is used and left running.

    A local one offers `num_cpus`, whatever the machine has. Output of its workers and Ray's own
    messages are shown only if RAY_LOG_TO_DRIVER is 1. Raises `UserError` where there is no Ray at
    `address`.
    """
    import ray

    if ray.is_initialized():
        yield
    elif address == LOCAL:
        _remove_leftover_folders()
        # Not below TMPDIR, whose path may be too long for Ray's sockets.
        folder = tempfile.mkdtemp(prefix=f"ilsvrc-{os.getpid()}-", dir="/tmp")
        try:
            _start(address, num_cpus=num_cpus, _temp_dir=folder)
            yield
        finally:
            ray.shutdown()
            _remove(Path(folder))
            _remove_leftover_folders()
    else:
        _start(address)
        try:
            yield
        finally:
            ray.shutdown()


def _start(address: str, **options: object) -> None:
    import ray

    is_shown = os.environ.get("RAY_LOG_TO_DRIVER", "0").lower() in ("1", "true")  # as Ray reads it
    host, _, port = address.removeprefix("ray://").rpartition(":")
    fix = "start it with `ray start --head`, or set cluster.workers.ray_address"
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
            fix = "it listens: set RAY_AUTH_TOKEN_PATH to a file that holds its token"
        with nullcontext() if is_shown else _without_ray_messages():
            ray.init(
                address=address, log_to_driver=is_shown, logging_level=logging.ERROR, **options
            )
    except (OSError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"Ray at '{address}' can't be joined: {first_line}; {fix}") from None


@contextmanager
def _without_ray_messages() -> Iterator[None]:
    """Keep `ray.init` from starting the thread that prints Ray's own messages.

    Ray writes a paragraph for each worker that dies; this project reports that in one line of its
    own. `log_to_driver=False` silences what workers print, but not that thread.
    """
    from ray._private import worker

    listen = getattr(worker, "listen_error_messages", None)  # a Ray without it prints
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = listen


def _remove_leftover_folders() -> None:
    """Remove the folders of this user's processes that were killed."""
    for folder in Path("/tmp").glob("ilsvrc-*-*"):
        owner = re.fullmatch(r"ilsvrc-(\d+)-\w+", folder.name)
        with suppress(FileNotFoundError):  # another command may remove it too
            if (
                owner
                and folder.stat().st_uid == os.getuid()
                and not psutil.pid_exists(int(owner[1]))
            ):
                _remove(folder)


def _remove(folder: Path) -> None:
    # Ray's last processes write into the folder until they end, while it is being removed.
    deadline = time.monotonic() + 10
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
