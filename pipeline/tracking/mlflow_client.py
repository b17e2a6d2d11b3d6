"""Access to MLflow: without its output, with short timeouts, and without credentials in messages.

MLflow is imported here and inside functions, never at a module's top: it costs two seconds, which
neither `--help` nor a worker that tracks nothing should pay.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pipeline.runtime.credentials import credentials_of, without_credentials
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

REMEDY = "set tracking.uri of the cluster, or MLFLOW_TRACKING_URI"

# MLflow reads these at each call; what the user has set stays. By default it tries for about four
# minutes to reach a server.
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # which comes with tqdm
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOG_LEVELS = {
    "mlflow": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # its tracebacks reach the caller as exceptions
    "alembic": logging.WARNING,
    "urllib3.connectionpool": logging.ERROR,
}

_UNREACHABLE, _NO_ANSWER = "can't be reached", "doesn't answer"


def load_mlflow() -> None:
    """Import MLflow, without its output. Takes about two seconds the first time."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def connect(uri: str) -> "MlflowClient":
    """Return a client of the tracking store at `uri`; a new sqlite file is made first (2–3 s)."""
    load_mlflow()
    from mlflow import MlflowClient

    path = sqlite_file(uri)
    if path and not path.exists():
        _make_sqlite_file(path)
    client = MlflowClient(uri)
    if path:
        _follow_artifacts(path)
    return client


@contextmanager
def user_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into a `UserError` of one line that names the store."""
    load_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        what = reason(error, uri)
        remedy = f"; start it, or {REMEDY}" if what in (_UNREACHABLE, _NO_ANSWER) else ""
        raise UserError(f"tracking store {without_credentials(uri)} {what}{remedy}") from None


def reason(error: Exception, uri: str) -> str:
    """Return in one short line, without credentials, what MLflow's `error` means."""
    text, path = " ".join(str(error).split()), sqlite_file(uri)
    if path and ("no such table" in text or not path.exists()):
        return "was deleted"  # of which SQLite says that it is read-only, or makes an empty one
    if "timeout exception" in text or "timed out" in text:
        return _NO_ANSWER
    if "failed with exception" in text:
        return _UNREACHABLE
    if re.search(r"error code 40[13]\b", text):
        return (
            "refuses the credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN"
        )
    text = without_credentials(text)
    if credentials := credentials_of(uri):
        text = text.replace(credentials, "")
    return f"says: {text[:200]}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite store, None for a server.

    Raises `UserError` for a relative file, since workers run in folders of their own, and for any
    other kind of store.
    """
    scheme = uri.partition(":")[0]
    if scheme in ("http", "https"):
        return None
    path = Path(uri.removeprefix("sqlite:///"))
    if scheme != "sqlite" or not uri.startswith("sqlite:///") or not path.name:
        raise UserError(
            f"tracking store '{without_credentials(uri)}': expected http://HOST:PORT or "
            f"sqlite:////FOLDER/mlflow.db; {REMEDY}"
        )
    if odd := re.search(r"[%?]", str(path)):
        raise UserError(
            f"tracking store {path}: MLflow can't open a path with '{odd[0]}'; work in another "
            f"folder, or {REMEDY}"
        )
    if not path.is_absolute():
        raise UserError(
            f"tracking store '{uri}' is a relative path; write sqlite:///{path.absolute()}"
        )
    return path


def _make_sqlite_file(path: Path) -> None:
    """Have MLflow make its tables in a temporary file, renamed to `path` when it is complete.

    MLflow itself fails when two processes make one file, and can't repair an incomplete one.
    """
    from mlflow import MlflowClient

    lock = path.with_name(f".{path.name}.lock")
    # A name of its own each time, since MLflow takes for made what it has made in this process.
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    with file_lock(lock):
        try:
            for rest in path.parent.glob(
                f".{path.name}.*.partial*"
            ):  # of a process that was killed
                rest.unlink()
            if not path.exists():  # another process may have been faster
                MlflowClient(f"sqlite:///{partial}")
                partial.replace(path)
        finally:
            lock.unlink(missing_ok=True)


# Where MLflow keeps absolute addresses of files.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@lru_cache  # once in a process
def _follow_artifacts(path: Path) -> None:
    """Let the store at `path` find its files where a folder that was moved or copied has them.

    They lie beside it (`experiment_id`), but MLflow would make them at the old place again.
    """
    here = path.parent / "mlartifacts"
    with closing(sqlite3.connect(path, timeout=60)) as store, store:
        known = store.execute("select distinct artifact_location from experiments").fetchall()
        for (address,) in known:
            old = Path(unquote(urlsplit(address).path))
            is_ours = address.startswith("file:") and old.name == here.name and old != here
            if is_ours and (here.exists() or not old.exists()):
                for table, column in _ADDRESSES:
                    store.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "
                        f"where {column} = ? or substr({column}, 1, ?) = ?",
                        (here.as_uri(), len(address) + 1, address, len(address) + 1, f"{address}/"),
                    )
