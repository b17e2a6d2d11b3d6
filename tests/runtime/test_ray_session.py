"""A Ray that the command starts refuses those without its token and leaves no files."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.errors import UserError
from pipeline.runtime.ray_session import LOCAL, _remove_leftover_folders, ray_session

PROGRAM = '''
import json, os, subprocess, sys
from pathlib import Path
import psutil
from pipeline.runtime.ray_session import ray_session
import ray
def mode(path):
    return oct(path.stat().st_mode & 0o777)
JOIN = """
import sys
import ray
try:
    ray.init(address=sys.argv[1])
except ConnectionError:
    print("refused")
else:
    print("joined")
"""
with ray_session("local", num_cpus=1):
    context = ray.get_runtime_context()
    answers = [
        subprocess.run(
            [sys.executable, "-c", JOIN, context.gcs_address], env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ).stdout.strip()
        for environment in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token"})
    ]
    dashboard = ray._private.worker.global_worker.node.webui_url
    folders = [str(path) for path in Path("/tmp").glob(f"ilsvrc-{os.getpid()}-*")]
    ray.get(ray.remote(lambda: os.getpid()).remote())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    addresses = [
        found.laddr.ip for process in processes for found in process.net_connections()
        if found.status == "LISTEN"
    ]
    modes = mode(Path(folders[0])), mode(Path.home() / ".ray" / "auth_token")
    scripts = [Path(word).name for process in processes for word in process.cmdline()]
print(json.dumps({
    "answers": answers, "dashboard": dashboard, "folders": folders, "modes": modes,
    "addresses": addresses, "scripts": scripts,
}))
'''

# A worker prints, another one dies and is replaced, and Ray's own channel carries a word of ours:
# once, and again until the first argument, the file of its output, has as many of the words as the
# second says. What is said before Ray's threads listen is lost.
TALK = """
import os, sys, time
from pathlib import Path
from pipeline.runtime.ray_session import ray_session
import ray

def die_at_first(flag):
    print("a worker's words", flush=True)
    if not flag.exists():
        flag.touch()
        os._exit(3)

def num_shown():
    shown = Path(sys.argv[1]).read_text()
    return sum(words in shown for words in ("a worker's words", "words of Ray's channel"))

with ray_session("local", num_cpus=1):
    while True:
        ray._private.utils.push_error_to_driver(
            ray._private.worker.global_worker, "tests", "words of Ray's channel"
        )
        ray.get(ray.remote(max_retries=1)(die_at_first).remote(Path(sys.argv[1] + ".flag")))
        if num_shown() >= int(sys.argv[2]):
            break
        time.sleep(0.1)
    print("the command's words", flush=True)
"""


# Writes as many files as the test waits for, and then on for two seconds.
WRITER = """
import itertools, sys, time
end = float("inf")
for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
    if number == 2000:
        end = time.monotonic() + 2
    try:
        open(f"{sys.argv[1]}/{number}", "w").close()
    except FileNotFoundError:
        break
"""


def test_a_session_refuses_others_and_leaves_no_files(tmp_path: Path) -> None:
    stale = Path("/tmp/ilsvrc-99999999-killed")  # beyond the largest number of a process
    stale.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout.splitlines()[-1])
    assert output["answers"] == ["refused", "joined"]  # without the session's token and with it
    assert not output["dashboard"]  # no pages, which nobody asked for
    # Nor what one machine has no use for: together 180 MB.
    assert {"dashboard.py", "monitor.py", "log_monitor.py"}.isdisjoint(output["scripts"])
    assert output["modes"] == ["0o700", "0o600"]  # of the session's folder and the token
    assert len(output["addresses"]) > 5
    assert {ip.removeprefix("::ffff:") for ip in output["addresses"]} == {"127.0.0.1"}
    (folder,) = output["folders"]
    assert not Path(folder).exists()
    assert not stale.exists()


@pytest.mark.parametrize("is_requested", [False, True], ids=["default", "requested"])
def test_output_of_ray_and_its_workers_is_shown_only_on_request(
    tmp_path: Path, is_requested: bool
) -> None:
    """By its source, whatever its text."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name in [name for name in environment if name.startswith(("RAY_LOG", "RAY_DEDUP"))]:
        del environment[name]
    if is_requested:
        environment["RAY_LOG_TO_DRIVER"] = "1"
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", TALK, out.name, str(2 * is_requested)],
            env=environment, stdout=out, stderr=out, check=False, timeout=200,
        )  # fmt: skip
    shown = (tmp_path / "out").read_text()
    assert done.returncode == 0, shown
    if is_requested:
        assert "words of Ray's channel" in shown
        assert "a worker's words" in shown
    else:
        assert shown == "the command's words\n"


START = """
import time
from pipeline.cli.console import one_line_errors
from pipeline.runtime.ray_session import ray_session
with one_line_errors(), ray_session("local", num_cpus=1):
    print("started", flush=True)
    time.sleep(600)
"""


def descendants(process: psutil.Process, name: str = "") -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if name in one.name()]


def test_nothing_outlives_a_killed_command() -> None:
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"started\n"
        of_ray = descendants(psutil.Process(command.pid))
        assert len(of_ray) > 5
        command.kill()
    _, alive = psutil.wait_procs(of_ray, timeout=20)
    assert not alive
    deadline = time.monotonic() + 20
    while list(Path("/tmp").glob(f"ilsvrc-{command.pid}-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(Path("/tmp").glob(f"ilsvrc-{command.pid}-*"))


@pytest.mark.parametrize(
    ("awaited", "number", "code", "said"),
    [
        ("raylet", signal.SIGKILL, 2, "ilsvrc: Ray can't start here: "),
        ("raylet", signal.SIGTERM, 130, "ilsvrc: interrupted"),
        ("gcs_server", signal.SIGINT, 130, "ilsvrc: interrupted"),
    ],
)
def test_a_start_that_is_disturbed_ends_in_one_line(
    awaited: str, number: signal.Signals, code: int, said: str
) -> None:
    """SIGKILL goes to the process of Ray that is awaited, the others to the command."""
    command = subprocess.Popen(
        [sys.executable, "-c", START], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (found := descendants(psutil.Process(command.pid), awaited)):
        time.sleep(0.01)
    if number == signal.SIGKILL:
        found[0].kill()
    else:
        command.send_signal(number)
    output = command.communicate(timeout=200)[0]
    (line,) = (line for line in output.splitlines() if not line.startswith("[20"))  # Ray's log
    assert line.startswith(said)
    assert command.returncode == code


def test_a_folder_that_is_still_written_to_is_removed() -> None:
    # As by Ray's processes, of which some outlive their driver for a while.
    stale = Path("/tmp/ilsvrc-99999999-writing")
    (stale / "logs").mkdir(parents=True)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(stale / "logs")])
    try:
        while sum(1 for _ in stale.glob("logs/*")) < 2000:  # so that removing them takes a while
            time.sleep(0.01)
        _remove_leftover_folders()
        assert not stale.exists()
    finally:
        writer.kill()
        writer.wait()


def test_a_missing_ray_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Even if another test of this process has started Ray.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with (
        pytest.raises(UserError, match=r"Ray at '127.0.0.1:9' can't be joined: .*ray start"),
        ray_session("127.0.0.1:9"),
    ):
        raise AssertionError("joined nothing")


def test_too_few_open_files_are_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("resource.getrlimit", lambda kind: (64, 64))
    with (
        pytest.raises(UserError, match=r"a process may have 64 files open, and Ray needs 128"),
        ray_session(LOCAL),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize("has_token", [True, False], ids=["with-token", "without"])
def test_a_ray_that_was_started_by_hand_is_joined(tmp_path: Path, has_token: bool) -> None:
    """As its users start one, who set nothing: it asks for a token where the user has one."""
    if has_token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    hidden = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["HOME"] = str(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
    join = (
        "from pipeline.runtime.ray_session import ray_session\n"
        f"with ray_session('{address}'):\n"
        "    import ray\n"
        "    print(ray.cluster_resources()['CPU'])\n"
    )
    folder = tempfile.mkdtemp(prefix="ray-")  # paths of sockets may have 107 letters
    ray = Path(sys.executable).with_name("ray")
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false",
         f"--port={address.split(':')[1]}", "--node-ip-address=127.0.0.1", "--num-cpus=3",
         f"--temp-dir={folder}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200  # a busy machine starts Ray slowly
        while True:
            joined = subprocess.run(
                [sys.executable, "-c", join], env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            if joined.stdout or time.monotonic() > deadline:
                break
        assert joined.stdout == "3.0\n", joined.stderr
    finally:
        head.terminate()
        head.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
