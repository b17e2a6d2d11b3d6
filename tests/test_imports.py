"""What trains a network can be imported by itself, on a machine that only computes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the project depends on and a machine that only loads, trains and tests needs not have.
_ABSENT = (
    "adjustText",
    "jinja2",
    "matplotlib",
    "mlflow",
    "mnist1d",
    "psutil",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "torchvision",
    "typer",
)
_WALK = f"""
import importlib, pkgutil, sys

for name in {_ABSENT}:
    sys.modules[name] = None  # importing it is an ImportError
imported = 0
for room in ("pipeline.data", "pipeline.models", "pipeline.training"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if module.name != "pipeline.data.loading.dali":
            importlib.import_module(module.name)
            imported += 1
assert "nvidia.dali" not in sys.modules
print(imported)
"""


def test_data_models_and_training_need_neither_ray_nor_mlflow_nor_dali() -> None:
    walked = subprocess.run(
        [sys.executable, "-c", _WALK], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert walked.returncode == 0, walked.stderr
    assert int(walked.stdout) > 50
