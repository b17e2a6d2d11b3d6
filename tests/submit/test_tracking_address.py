"""An address of this machine alone is refused or warned of before a cluster is sent there."""

import pytest

from pipeline.config.cluster import read_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit.tracking_address import check_tracking_address

FILE, SERVER, HERE = "sqlite:////home/me/mlflow.db", "http://mlflow:5000", "http://localhost:5000"
REMOTE = "engine.address=http://head:8265"
ALONE = "workers={count: 0, device: cpu}"


def checked(engine: str, *of_cluster: str) -> str:
    return check_tracking_address(read_cluster(engine, list(of_cluster)))


@pytest.mark.parametrize("engine", ["ray", "slurm", "kuberay"])
def test_a_server_that_all_reach_is_fine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert checked(engine) == ""  # the cluster's own
    assert checked(engine, f"tracking.uri={SERVER}") == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert checked(engine) == ""
    assert checked("laptop", f"tracking.uri={FILE}") == ""


@pytest.mark.parametrize("engine", ["ray", "slurm", "kuberay"])
@pytest.mark.parametrize("uri", [FILE, "file:///home/me/mlruns", "/home/me/mlruns"])
def test_files_of_this_machine_are_refused(
    engine: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"a tracking server|expected http://HOST"):
        checked(engine, f"tracking.uri={uri}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if engine == "kuberay":  # whose pods have an environment of their own
        assert checked(engine) == ""
        engine_has_it = f"engine.environment={{MLFLOW_TRACKING_URI: '{uri}'}}"
        with pytest.raises(UserError, match=r"a tracking server|expected http://HOST"):
            checked(engine, engine_has_it)
    else:
        with pytest.raises(UserError, match=r"a tracking server|expected http://HOST"):
            checked(engine)


@pytest.mark.parametrize("uri", [HERE, "http://127.0.0.1:5000", "http://[::1]:5000"])
def test_a_server_on_the_loopback_is_refused_or_warned_of(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for engine in (["kuberay"], ["ray", REMOTE]):
        with pytest.raises(UserError, match=r"loopback, not this one's; name the tracking server"):
            checked(*engine, f"tracking.uri={uri}")
    assert "own loopback; where the training runs on another" in checked(
        "slurm", f"tracking.uri={uri}"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert f"MLFLOW_TRACKING_URI={uri} is each" in checked("slurm")


def test_one_worker_may_use_a_file_that_its_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert checked("slurm", ALONE, "engine.workers_per_node=1", f"tracking.uri={FILE}") == ""
    assert checked("ray", ALONE, f"tracking.uri={FILE}") == ""
    with pytest.raises(UserError, match="tracking server"):
        checked("ray", ALONE, REMOTE, f"tracking.uri={FILE}")


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@localhost:5000")
    with pytest.raises(UserError) as error:
        checked("ray", REMOTE)
    assert "secret" not in str(error.value)
