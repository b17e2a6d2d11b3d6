"""The services' MLflow, by the image's own script, on a real PostgreSQL and an S3 server."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from moto.server import ThreadedMotoServer
from tracking_servers import Server

from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_runs import check_recordable, finish_run, log_files, start_run
from pipeline.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

START = Path(__file__).parents[2] / "docker" / "start"
SECRETS = {
    "postgres_password": "of-the-database",
    "storage_password": "of-the-storage",
    "mlflow_password": "of-the-admin-1",
    "mlflow_session_key": "of-sessions",
}


def _binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    return folders[-1] if folders else Path(found).parent if found else None


@pytest.fixture(scope="module")
def database(closed_port: int) -> Iterator[int]:
    """A PostgreSQL of its own with an empty database `mlflow`; its port."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL isn't installed")
    port = closed_port + 1
    # Not below pytest's folder, which PostgreSQL's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="ilsvrc-postgres-"))
    password = folder / "password"
    password.write_text(SECRETS["postgres_password"])
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*as_user, str(binaries / program), *arguments],
            cwd=folder, capture_output=True, text=True, check=False,
            env=os.environ | {"PGPASSWORD": SECRETS["postgres_password"]},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    data = folder / "data"
    run("initdb", f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256",
        f"--pwfile={password}", "--no-sync")  # fmt: skip
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("pg_ctl", f"--pgdata={data}", f"--log={folder / 'log'}", f"--options={options}", "start")
    run("createdb", "--host=127.0.0.1", f"--port={port}", "--username=mlflow", "mlflow")
    yield port
    run("pg_ctl", f"--pgdata={data}", "--mode=immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(
    database: int, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("services")
    (folder / "secrets").mkdir()
    for name, secret in SECRETS.items():
        (folder / "secrets" / name).write_text(secret)
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    host, storage_port = storage.get_host_and_port()
    environment = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SECRETS_DIR": str(folder / "secrets"),
        "DATABASE_HOST": "127.0.0.1",
        "DATABASE_PORT": str(database),
        "MLFLOW_PORT": str(closed_port),
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{storage_port}",
    }
    server = Server([str(START), "mlflow"], closed_port, folder / "server.log", environment)
    old = make_older(database)
    server.start()
    assert old != revision(database)
    yield server
    server.kill()
    storage.stop()
    log = (folder / "server.log").read_text()
    assert not [name for name, secret in SECRETS.items() if secret in log]


def engine(port: int) -> sqlalchemy.Engine:
    password = SECRETS["postgres_password"]
    address = f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{port}/mlflow"
    return sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)


def make_older(port: int) -> str:
    """Lay the database out as an MLflow of some versions ago did; return that revision."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    old = engine(port)
    InitialBase.metadata.create_all(old)
    config = _get_alembic_config(str(old.url.render_as_string(hide_password=False)))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    command.upgrade(config, revisions[5])  # newest first
    return revision(port)


def revision(port: int) -> str:
    with engine(port).connect() as connection:
        return str(
            connection.execute(
                sqlalchemy.text("SELECT version_num FROM alembic_version")
            ).scalar_one()
        )


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["mlflow_password"])


@pytest.mark.usefixtures("credentials")
def test_two_runs_at_once_get_each_metric_once_through_a_restart(
    server: Server, tmp_path: Path
) -> None:
    check_recordable(server.uri, "ours")
    run_ids = [
        start_run(server.uri, "ours", run_name=name, params={"seed": 1}, tags={}) for name in "ab"
    ]

    def work(run_id: str) -> None:
        folder = tmp_path / run_id
        folder.mkdir()
        tracker = Tracker(server.uri, lambda: run_id, folder, seconds_between_batches=0.01)
        for step in range(400):
            tracker.log({"loss": step / 7}, step)
            time.sleep(0.01)
        tracker.close()

    threads = [threading.Thread(target=work, args=(run_id,)) for run_id in run_ids]
    for thread in threads:
        thread.start()
    time.sleep(1)
    server.kill()
    time.sleep(1)
    server.start()
    for thread in threads:
        thread.join()
    for run_id in run_ids:
        file = tmp_path / run_id / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(400))
        history = connect(server.uri).get_metric_history(run_id, "loss")
        assert [(point.step, point.value) for point in history] == [
            (line["step"], line["metrics"]["loss"]) for line in lines
        ]
        log_files(server.uri, run_id, [file])
        (stored,) = connect(server.uri).list_artifacts(run_id)
        assert (stored.path, stored.file_size) == ("metrics.jsonl", file.stat().st_size)
        finish_run(server.uri, run_id, "FINISHED")


def test_recording_needs_the_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for password in ("", "a-guess"):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with pytest.raises(UserError, match="refuses the credentials"):
            check_recordable(server.uri, "ours")
