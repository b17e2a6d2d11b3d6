"""What a run was computed with, as tags."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "torchvision", "ray", "nvidia-dali-cuda130", "mlflow", "numpy")


def environment_tags(device: str) -> dict[str, str]:
    """Return the device, the versions of Python and packages, and the commit of this code.

    `git.dirty` says whether tracked files differ from that commit. Without a git checkout (an
    image, a job's zipped folder) both git tags are left out.
    """
    tags = {"device": device, "version.python": platform.python_version()}
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    # A checkout of something else around an installed package doesn't count.
    if _git("ls-files", "--error-unmatch", Path(__file__).name):
        tags["git.commit"] = _git("rev-parse", "HEAD")
        tags["git.dirty"] = "yes" if _git("status", "--porcelain", "-uno", ":/") else "no"
    return tags


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
