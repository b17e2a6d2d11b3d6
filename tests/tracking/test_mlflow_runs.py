import errno
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from pipeline.tracking.environment import environment_tags
from pipeline.tracking.mlflow_client import connect, sqlite_file
from pipeline.tracking.mlflow_runs import (
    check_reachable,
    finish_run,
    is_there,
    log_dataset,
    log_files,
    run_with_tags,
    start_run,
    system_metrics,
)


def start(uri: str, existing_run_id: str | None = None, **params: object) -> str:
    return start_run(
        uri,
        "ours",
        run_name="lenet5",
        params=params,
        tags={"device": "cpu"},
        existing_run_id=existing_run_id,
    )


def test_a_run_holds_its_name_params_and_tags(store: str) -> None:
    run_id = start(store, **{f"recipe.key{i}": i for i in range(250)}, betas=[0.5, 1], none=None)
    run = connect(store).get_run(run_id)
    assert run.info.run_name == "lenet5"
    assert run.info.status == "RUNNING"
    assert len(run.data.params) == 252
    assert run.data.params["recipe.key249"] == "249"
    assert run.data.params["betas"] == "[0.5, 1]"
    assert run.data.params["none"] == "None"
    assert run.data.tags["device"] == "cpu"


def test_values_longer_than_mlflows_limit_are_cut(store: str) -> None:
    run = connect(store).get_run(start(store, long="x" * 10_000))
    assert run.data.params["long"] == "x" * 6000


def test_a_continued_run_keeps_its_params(store: str) -> None:
    run_id = start(store, seed=1)
    finish_run(store, run_id, "FAILED")
    assert connect(store).get_run(run_id).info.status == "FAILED"
    assert start(store, run_id, seed=2, late=3) == run_id
    run = connect(store).get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"seed": "1", "late": "3"}
    for status in ("KILLED", "FINISHED"):
        finish_run(store, run_id, status)
        assert connect(store).get_run(run_id).info.status == status


def test_a_continued_run_keeps_the_command_that_made_it(store: str) -> None:
    def start_by(command: str | None, run_id: str | None = None) -> str:
        return start_run(
            store, "ours", run_name="lenet5", params={}, tags={}, existing_run_id=run_id,
            command=command,
        )  # fmt: skip

    run_id = start_by("ilsvrc train lenet5")
    start_by("ilsvrc train lenet5 --on laptop", run_id)
    assert connect(store).get_run(run_id).data.tags["command"] == "ilsvrc train lenet5"
    assert "command" not in connect(store).get_run(start_by(None)).data.tags


def test_params_hold_no_credentials(store: str) -> None:
    places = {"server": "http://bob:p@ss@host:5000/path?q=a@b", "data": "s3://bucket/a@b"}
    params = connect(store).get_run(start(store, **places)).data.params
    assert params == {"server": "http://host:5000/path?q=a@b", "data": "s3://bucket/a@b"}


def test_a_deleted_run_is_made_again(store: str, run_id: str) -> None:
    assert is_there(store, run_id)
    connect(store).delete_run(run_id)
    assert not is_there(store, run_id)
    again = start(store, run_id)
    assert again != run_id
    assert is_there(store, again)
    assert not is_there(store, "0" * 32)
    assert not is_there(store, "")  # of a run that was never recorded


@pytest.mark.parametrize("name", ["Bob's photos", "both \" and '", "a\\", "100%_sure", "plain"])
def test_a_run_is_found_by_its_tags_whatever_characters_they_have(store: str, name: str) -> None:
    assert run_with_tags(store, "ours", {"data": name}) is None
    made = [
        start_run(store, "ours", run_name="r", params={}, tags={"data": data, "split": split})
        for data, split in ((name, "val"), (name, "val"), (name, "test"), ("Bob-s photos", "val"))
    ]
    assert run_with_tags(store, "ours", {"data": name, "split": "val"}) in made[:2]
    assert run_with_tags(store, "ours", {"data": name, "split": "test"}) == made[2]
    assert run_with_tags(store, "ours", {"data": name, "split": "train"}) is None


def test_a_deleted_experiment_raises_an_error_that_says_how_to_restore_it(
    store: str, run_id: str
) -> None:
    client = connect(store)
    client.delete_experiment(client.get_experiment_by_name("ours").experiment_id)
    with pytest.raises(UserError, match=r"experiment 'ours' is deleted; .*restore"):
        start(store)


def test_artifacts_of_a_sqlite_store_lie_beside_it_from_any_folder(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_id = start(store)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\n")
    log_files(store, run_id, [recipe])
    log_files(store, run_id, [recipe], "tables")
    stored = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("mlartifacts/**/*.yaml")
    )
    assert stored == [
        f"mlartifacts/{run_id}/artifacts/{path}" for path in ("recipe.yaml", "tables/recipe.yaml")
    ]
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("is_copied", [False, True], ids=["moved", "copied"])
def test_artifacts_follow_a_folder_that_is_moved_or_copied(
    empty_store: Path, tmp_path: Path, is_copied: bool
) -> None:
    before, after = tmp_path / "be fore", tmp_path / "af ter"
    before.mkdir()
    shutil.copy(empty_store, before / "mlflow.db")
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: 1\n")
    run_id = start(f"sqlite:///{before}/mlflow.db")
    files = before / "mlartifacts" / run_id / "artifacts"  # not by MLflow, which caches the place
    files.mkdir(parents=True)
    shutil.copy(file, files)
    if is_copied:
        shutil.copytree(before, after)
    else:
        before.rename(after)
        before.touch()  # nothing can be made there again
    store = f"sqlite:///{after}/mlflow.db"
    log_files(store, run_id, [file], "again")
    log_files(store, start(store), [file])
    assert len(list(after.rglob("recipe.yaml"))) == 3
    assert len(list(before.rglob("recipe.yaml"))) == is_copied
    found = [one.path for one in connect(store).list_artifacts(run_id)]
    assert found == ["again", "recipe.yaml"]


def test_the_data_set_is_recorded_without_being_read(
    store: str, run_id: str, tmp_path: Path
) -> None:
    for _ in range(2):  # as a run that goes on does
        log_dataset(store, run_id, "digits", "ab" * 32, str(tmp_path / "absent"))
    (logged,) = connect(store).get_run(run_id).inputs.dataset_inputs
    assert logged.dataset.name == "digits"
    assert logged.dataset.digest == "ab" * 18  # MLflow keeps 36 characters
    assert str(tmp_path / "absent") in logged.dataset.source


def test_system_metrics_continue_their_steps_when_the_run_is_continued(
    store: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "system/cpu_utilization_percentage"
    with system_metrics(store, lambda: run_id, seconds_between=0.01):  # not asked for
        time.sleep(0.3)
    assert not connect(store).get_metric_history(run_id, key)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    for _ in range(2):
        with system_metrics(store, lambda: run_id, seconds_between=0.05):
            deadline = time.monotonic() + 20
            before = connect(store).get_metric_history(run_id, key)
            while len(connect(store).get_metric_history(run_id, key)) < len(before) + 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    steps = [metric.step for metric in connect(store).get_metric_history(run_id, key)]
    assert sorted(steps) == list(range(len(steps)))
    assert connect(store).get_run(run_id).data.metrics["system/system_memory_usage_megabytes"] > 0


def test_processes_can_make_and_share_one_sqlite_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    program = (
        "import pathlib, sys\n"
        "from pipeline.tracking.mlflow_runs import finish_run, start_run\n"
        "from pipeline.tracking.tracker import Tracker\n"
        "uri, name, folder = sys.argv[1:]\n"
        "run_id = start_run(uri, 'shared', run_name=name, params={'a': 1}, tags={'b': '2'})\n"
        "folder = pathlib.Path(folder)\n"
        "tracker = Tracker(uri, lambda: run_id, folder, seconds_between_batches=0.001)\n"
        "for step in range(200):\n"
        "    tracker.log({'loss': step, 'error': step}, step)\n"
        "tracker.close()\n"
        "finish_run(uri, run_id, 'FINISHED')\n"
    )
    processes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", program, uri, name, str(tmp_path / name)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in processes:
        assert process.communicate()[1] == ""  # nor a word from MLflow or its migrations
        assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "one", "two"]
    client = connect(uri)
    experiment = client.get_experiment_by_name("shared")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["one", "two"]
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(metric.step for metric in history) == list(range(200))


def test_a_store_that_is_deleted_is_made_again_in_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    for _ in range(2):
        connect(f"sqlite:///{path}")
        path.unlink()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("/somewhere/mlruns", "expected http://HOST:PORT or sqlite:////FOLDER/mlflow.db"),
        ("file:///somewhere", "expected http://HOST:PORT"),
        ("postgresql://bob:secret@host/db", "store 'postgresql://host/db': expected http://"),
        ("sqlite://", "expected http://HOST:PORT"),
        ("sqlite:///mlflow.db", f"relative path; write sqlite:///{Path.cwd()}/mlflow.db"),
        ("sqlite:////absent/folder/mlflow.db", f"can't be written: {os.strerror(errno.ENOENT)}"),
        ("sqlite:////tmp/a%20b/mlflow.db", "MLflow can't open a path with '%'; work in another"),
        ("sqlite:////tmp/a?b/mlflow.db", "MLflow can't open a path with '?'"),
        ("sqlite:////proc/mlflow.db", "/proc/mlflow.db can't be written"),
    ],
)
def test_an_unusable_store_is_refused_in_one_line(uri: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check_reachable(uri)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("my notes, " * 100)
    with pytest.raises(UserError, match=f"{path} can't be written: "):
        check_reachable(f"sqlite:///{path}")
    assert path.read_text() == "my notes, " * 100


def test_checking_a_usable_store_makes_nothing(store: str, tmp_path: Path) -> None:
    check_reachable(store)
    check_reachable(f"sqlite:///{tmp_path / 'other.db'}")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_an_unreachable_server_is_reported_within_seconds_without_the_password(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    patience = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    uri = f"http://bob:secret@127.0.0.1:{closed_port}"
    with pytest.raises(UserError) as caught:
        check_reachable(uri)
    assert str(caught.value) == (
        f"tracking store http://127.0.0.1:{closed_port} can't be reached; start it, or set "
        f"tracking.uri of the cluster, or MLFLOW_TRACKING_URI"
    )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not caplog.records
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == patience


def test_finishing_a_run_without_its_server_gives_a_warning_only(
    closed_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finish_run(f"http://bob:secret@127.0.0.1:{closed_port}", "0" * 32, "FAILED")
    (warning,) = caplog.records
    assert "isn't marked FAILED" in warning.getMessage()
    assert "secret" not in caplog.text


def test_only_a_sqlite_uri_has_a_file() -> None:
    assert sqlite_file("https://mlflow.example.org/team") is None
    assert sqlite_file("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")


def test_environment_tags_hold_versions_and_this_checkouts_commit() -> None:
    tags = environment_tags("cpu")
    assert tags["device"] == "cpu"
    assert tags["device.model"].startswith(f"{os.cpu_count()} × ")
    assert tags["version.python"] == platform.python_version()
    for package in ("torch", "torchvision", "ray", "mlflow"):
        assert tags[f"version.{package}"]
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    if head.returncode == 0:
        assert tags["git.commit"] == head.stdout.strip()
        assert tags["git.dirty"] in ("yes", "no")
