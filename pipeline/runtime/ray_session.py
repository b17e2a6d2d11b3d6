"""Starting or joining Ray: without its output, for this user only, nothing left at the end.

A Ray that the command starts listens on loopback only, asks for a token that only its user can
read, and keeps its files where only that user looks.
"""

import logging
import os
import re
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from pipeline.runtime import reaper
from pipeline.runtime.errors import UserError
from pipeline.runtime.interrupts import interrupted_by_signals
from pipeline.runtime.storage import file_lock

_SECONDS_WITHOUT_SERVER = 5.0  # for the end of Ray, which may wait for a minute

LOCAL = "local"  # the address of a Ray that the command itself starts

_FILES = 4096  # open ones, of each of its processes; the raylet has several for each worker
_FEWEST_FILES = 128

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


# Of the Ray that this process started: its raylet and its GCS.
_servers: dict[int, psutil.Process] = {}


def _may_need_token() -> bool:
    """Whether there is a token: `ray start` then requires it, but `ray.init` doesn't send it."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(map(os.environ.get, names)) or (Path.home() / ".ray" / "auth_token").is_file()


if _may_need_token():
    os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def ray_session(address: str, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray while inside; a Ray that this process uses already is used and left running.

    A local one offers `num_cpus`, whatever the machine has, and no dashboard. Output of its
    workers and Ray's own messages are shown only if RAY_LOG_TO_DRIVER is 1. Raises `UserError`
    where there is no Ray at `address`, and `KeyboardInterrupt` for signals that ask to end.
    """
    import ray

    if ray.is_initialized():
        yield
    elif address == LOCAL:
        allow_open_files()
        _remove_leftover_folders()
        _make_token()
        with (
            _session_folder() as folder,
            _on_loopback(),
            _without_helpers(),
            _connected(address, num_cpus=num_cpus, _temp_dir=str(folder), include_dashboard=False),
        ):
            yield
    else:
        with _connected(address):
            yield


@contextmanager
def _connected(address: str, **options: object) -> Iterator[None]:
    """Connect to Ray while inside, from a thread of its own, so that this one gets the signals."""
    import ray

    started: Future[None] = Future()
    is_over = threading.Event()

    # One thread for both, since Ray's processes end with the thread that started them.
    def run() -> None:
        try:
            _init(address, **options)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        is_over.wait()
        ray.shutdown()

    thread = threading.Thread(target=run, name="ray", daemon=True)
    with interrupted_by_signals() as catch_signals:
        thread.start()
        try:
            _await(started, address, catch_signals)
            yield
        finally:
            is_over.set()
            if started.done():
                thread.join(_SECONDS_WITHOUT_SERVER if has_lost_server() else None)
            _servers.clear()


def _await(started: Future[None], address: str, catch_signals: Callable[[], None]) -> None:
    """Wait until Ray has started; raise `UserError` as soon as that has become impossible."""
    while not started.done():
        wait([started], timeout=0.1)
        catch_signals()  # again, since Ray replaces the handlers
        with suppress(psutil.Error):
            for child in psutil.Process().children() if address == LOCAL else ():
                if child.name() in ("gcs_server", "raylet"):
                    _servers[child.pid] = child
        if has_lost_server() and not started.done():  # Ray itself would wait for a minute
            raise UserError("Ray can't start here: a process of it was killed; try again")
    catch_signals()
    started.result()


def has_lost_server() -> bool:
    """Return whether the raylet or the GCS of the Ray that this process started is gone."""
    return not all(map(_is_alive, _servers.values()))


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _init(address: str, **options: object) -> None:
    import ray

    is_shown = _are_logs_shown()
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
    except Exception as error:  # Ray raises any kind
        first_line = (str(error).strip().splitlines() or [""])[0]
        if address == LOCAL:
            raise UserError(f"Ray can't start here: {first_line}") from None
        raise UserError(f"Ray at '{address}' can't be joined: {first_line}; {fix}") from None


def _are_logs_shown() -> bool:
    return os.environ.get("RAY_LOG_TO_DRIVER", "0").lower() in ("1", "true")  # as Ray reads it


def allow_open_files() -> None:
    """Let a Ray of this process open thousands of files; `UserError` where it may open too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _FEWEST_FILES:
        raise UserError(
            f"Ray can't start here: a process may have {hard} files open, and Ray needs "
            f"{_FEWEST_FILES}; raise the limit, as `ulimit -Hn {_FILES}` does for root, or train "
            f"with --set cluster.workers.count=1, which needs no Ray"
        )
    if soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))


def _make_token() -> None:
    """Make the token that Ray will ask for, unless there is one; Ray's own anyone could read."""
    if any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))):
        return
    file = Path.home() / ".ray" / "auth_token"
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        lock = file.with_name(".auth_token.lock")
        with file_lock(lock):
            if not file.exists():
                partial = file.with_name(".auth_token.partial")
                partial.unlink(missing_ok=True)
                partial.touch(mode=0o600)
                partial.write_text(secrets.token_hex(32))
                partial.replace(file)
            if file.stat().st_uid == os.getuid():
                file.chmod(0o600)
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{file}: Ray's token can't be kept there: {error.strerror}; set RAY_AUTH_TOKEN_PATH "
            f"to a file that holds one"
        ) from None


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Make a folder for Ray that is removed, and Ray with it, even when this process is killed."""
    # Not below TMPDIR, whose path may be too long for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix=f"ilsvrc-{os.getpid()}-", dir="/tmp"))
    command = [sys.executable, "-I", "-S", reaper.__file__, str(folder)]
    # Closes the pipe at the end, and waits. In a session of its own, which Ctrl-C does not reach.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        inner = folder / "ray"  # Ray opens its own folder to all users
        inner.mkdir()
        yield inner


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started inside listen on 127.0.0.1 only, as it does on a Mac.

    Ray replaces 127.0.0.1, given as the node's address, by that of an interface.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # for its processes
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]


@contextmanager
def _without_helpers() -> Iterator[None]:
    """Have a Ray that is started inside leave out what one machine doesn't need: 180 MB.

    These are the dashboard, which runs even without its pages, the monitor that asks for more
    machines, and the log monitor, unless logs are shown.
    """
    from ray._private.node import Node

    names = ["start_api_server", "start_monitor"]
    names += [] if _are_logs_shown() else ["start_log_monitor"]
    before = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


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
    """Remove the folders of this user's processes that were killed together with the reaper."""
    for folder in Path("/tmp").glob("ilsvrc-*-*"):
        owner = re.fullmatch(r"ilsvrc-(\d+)-\w+", folder.name)
        with suppress(FileNotFoundError):  # another command may remove it too
            if (
                owner
                and folder.stat().st_uid == os.getuid()
                and not psutil.pid_exists(int(owner[1]))
            ):
                reaper.reap(folder)
