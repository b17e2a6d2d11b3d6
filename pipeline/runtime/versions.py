"""The versions of what a training stands on, from the packages' metadata: nothing is imported."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torch", "torchvision", "ray", "nvidia-dali-cuda130", "mlflow", "numpy")


def installed_versions() -> dict[str, str]:
    """Return {"python": "3.11.7", "torch": …}; packages that aren't installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """Return the version of this package; empty in a tree that is run without being installed."""
    try:
        return version("ilsvrc")
    except PackageNotFoundError:
        return ""
