"""Lists of what can be named, the versions, and what a shell completes."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.config.yaml import config_files


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe of its own, and a run."""
    own = tmp_path / "configs" / "recipes" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# My network of 9.5 layers, as Doe et al. have it. It is slow.\nseed: 1\n")
    (tmp_path / "runs" / "mine-0123").mkdir(parents=True)
    (tmp_path / "runs" / "mine-0123" / "recipe.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_recipes_have_a_line_each_and_ones_own_is_there() -> None:
    lines = [line.split(maxsplit=1) for line in printed("recipes").splitlines()]
    assert [name for name, _ in lines] == [path.stem for path in config_files("recipes")]
    said = dict(lines)
    assert said["mine"].rstrip() == "My network of 9.5 layers, as Doe et al. have it"
    assert said["vgg16"].startswith("VGG-16 ")


def test_clusters_have_a_line_each() -> None:
    lines = printed("clusters").splitlines()
    assert len(lines) == len(config_files("clusters"))
    assert any(line.startswith("laptop ") and "gloo" in line for line in lines)


def test_versions_come_from_metadata_without_an_import_of_what_is_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli.commands import app\n"
        "print(CliRunner().invoke(app, ['--version']).output)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'nvidia'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for package in ("ilsvrc", "torch", "nvidia-dali-cuda130", "ray", "mlflow"):
        assert f"{package} {version(package)}" in done.stdout.splitlines()


# What is typed before TAB, and what is offered.
COMPLETIONS = {
    "ilsvrc train lenet5_m": ["lenet5_mnist"],
    "ilsvrc train mi": ["mine"],
    "ilsvrc submit vgg16_bn_": ["vgg16_bn_modern"],
    "ilsvrc train smoke --on la": ["laptop"],
    "ilsvrc evaluate m": ["mine-0123"],
    "ilsvrc compare mine-": ["mine-0123"],
    "ilsvrc evaluate --on nowhere m": [],
    "ilsvrc published inception": ["inception_v3"],
    "ilsvrc describe resnet18_option_": ["resnet18_option_a", "resnet18_option_c"],
}


@pytest.mark.parametrize("typed", COMPLETIONS)
def test_the_shell_completes_names(typed: str) -> None:
    asked = {"_ILSVRC_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    asked["COMP_CWORD"] = str(len(typed.split()) - 1)
    done = CliRunner().invoke(app, [], env=asked, prog_name="ilsvrc")
    assert done.output.split() == COMPLETIONS[typed]
