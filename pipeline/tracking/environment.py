"""The hardware and software of a run, as tags."""

import getpass
import platform
import subprocess
from pathlib import Path

import torch

from pipeline.runtime.versions import installed_versions


def environment_tags(device: str) -> dict[str, str]:
    """Return tags of the device, its model on this machine, versions, the user, the code's commit.

    Those that begin with `mlflow.` are for MLflow's page. `git.dirty` says whether tracked files
    differ from that commit. Without a git checkout (an image, a job's zipped folder) all git tags
    are left out.
    """
    tags = {
        "device": device,
        "device.model": _gpu_model() if device == "gpu" else _cpu_model(),
        **{f"version.{name}": number for name, number in installed_versions().items()},
        "mlflow.source.name": "ilsvrc",
        "mlflow.source.type": "LOCAL",
        **_user_tags(),
    }
    # Not of another project's checkout in which this package is installed.
    if _git("ls-files", "--error-unmatch", Path(__file__).name):
        tags["git.commit"] = tags["mlflow.source.git.commit"] = _git("rev-parse", "HEAD")
        tags["git.dirty"] = "yes" if _git("status", "--porcelain", "-uno", ":/") else "no"
    return tags


def _user_tags() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # containers run as numbers without a name
        return {}


def _gpu_model() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none on the driver"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0]}" if models else platform.processor()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
