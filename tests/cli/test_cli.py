"""The real command, as a person types it: what it prints and how it fails."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import main
from pipeline.cli.commands import app
from pipeline.config.recipe import load_recipe
from pipeline.runs.run_folder import RunFolder

ILSVRC = Path(sys.executable).with_name("ilsvrc")


def ilsvrc(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [str(ILSVRC), *arguments],
        cwd=folder,
        env={**clean, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def workspace(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the packed digits in `data/`."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(data_dir, folder / "data")
    return folder


IN_PROCESS = ["--set", "cluster.workers.count=0"]


def test_help_lists_every_command_without_heavy_imports() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli.commands import app\n"
        "print(CliRunner().invoke(app, ['--help']).output)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'nvidia'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    commands = "prepare stage check submit jobs train evaluate compare published report visualize"
    commands += " register benchmark describe"
    for command in commands.split():
        assert f" {command} " in done.stdout


MISSPELT = [
    "train lenet6",
    "train smoke --on lptop",
    "train smoke --set optimizer.learning_rte=0.1",
    "train smoke --start-from nosuch",
    "train smoke --start-from begun",
    "train smoke --start-from torchvision:nosuch.pth",
    "check lenet6",
    "plan lenet6",
    "submit lenet6 --on slurm",
    "evaluate nosuch",
    "evaluate nosuch --on lptop",
    "evaluate begun --protocol centre",
    "evaluate --weights nosuch.pth --network resnet18",
    "predict nosuch photo.jpg",
    "predict begun photo.jpg --protocol centre",
    "predict torchvision:nosuch.pth photo.jpg",
    "export-model nosuch --to onnx",
    "ensemble nosuch begun",
    "paired nosuch begun",
    "predictions nosuch",
    "submission nosuch",
    "replay nosuch 1",
    "visualize nosuch",
    "report nosuch --to page.html --on lptop",
]


def test_a_misspelt_name_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    begun = RunFolder(tmp_path / "runs" / "begun")
    begun.path.mkdir(parents=True)
    begun.write_recipe(load_recipe("smoke"))
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from pipeline.cli.commands import app\n"
        "heavy = ('torch', 'ray', 'mlflow', 'nvidia', 'scipy', 'matplotlib')\n"
        "sys.modules |= dict.fromkeys(heavy)  # importing one is an ImportError\n"
        f"for line in {MISSPELT}:\n"
        "    print(type(CliRunner().invoke(app, line.split()).exception).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert dict(zip(MISSPELT, done.stdout.split(), strict=True)) == dict.fromkeys(
        MISSPELT, "UserError"
    )


# A mistake: the command, and what its one line must say: where it is, and the remedy.
MISTAKES = {
    "a misspelt key": (
        ["train", "smoke", "--set", "optimizer.learning_rte=0.1"],
        ["smoke.yaml", "optimizer.learning_rte", "did you mean `learning_rate`?"],
    ),
    "a misspelt cluster key": (
        ["train", "smoke", "--set", "cluster.workers.cout=1"],
        ["laptop.yaml", "workers.cout", "count"],
    ),
    "an unknown recipe": (["train", "lenet6"], ["lenet6", "did you mean `lenet5`?", "vgg16"]),
    "a data set that has a command of its own": (
        ["train", "lenet5", "--set", "cluster.data_dir=nowhere"],
        ["nowhere/mnist", "`ilsvrc prepare mnist`"],
    ),
    "a value as an option": (["train", "smoke", "--epochs", "3"], ["--set epochs=3"]),
    "a value as an option, with an equals sign": (
        ["submit", "smoke", "--on", "laptop", "--batch_size=8"],
        ["there is no --batch_size", "--set batch.global_batch_size=8"],
    ),
    "another program's learning rate": (
        ["train", "smoke", "--lr", "0.1"], ["--set optimizer.learning_rate=0.1"],
    ),
    "another program's way to resume": (
        ["train", "smoke", "--resume"], ["the same command goes on", "leave it out"],
    ),
    "a laptop's file for several machines": (
        ["submit", "smoke", "--on", "ray", "--dry-run", "--set",
         "cluster.tracking.uri=sqlite:////home/me/mlflow.db"],
        ["sqlite:////home/me/mlflow.db", "tracking server"],
    ),
    "a mapping without a space": (
        ["train", "smoke", "--set", "augmentation={kind:none}"],
        ["no space after the colon", "`kind: none`"],
    ),
    "a missing recipe file": (["train", "mine.yaml"], ["mine.yaml", "no such file"]),
    "a data set that is not there": (
        ["train", "smoke", "--set", "data.name=letters"],
        ["data/letters", "ilsvrc prepare"],
    ),
    "a split that is not there": (
        ["train", "smoke", "--set", "data.test_split=test"],
        ["data.test_split", "train, val"],
    ),
    "another number of classes": (
        ["train", "smoke", "--set", "network.num_classes=100"],
        ["10 classes", "--set network.num_classes=10"],
    ),
    "an unknown network": (
        ["train", "smoke", "--set", "network.name=lenet9"],
        ["lenet9", "did you mean `lenet5`?"],
    ),
    "more workers than micro-batches": (
        ["train", "smoke", "--set", "cluster.workers.count=9"],
        ["9 workers", "batch.micro_batch_size"],
    ),
    "workers counted and elastic": (
        ["train", "smoke", "--set", "cluster.workers.max=4"],
        ["cluster", "either count, or min and max"],
    ),
    "more workers than CPUs": (
        ["train", "smoke", "--set", "cluster.workers.count=32",
         "--set", "batch={global_batch_size: 64, micro_batch_size: 2}"],
        ["32 workers", "--set cluster.workers.count="],
    ),
    "GPUs that are not there": (["train", "smoke", "--on", "1gpu"], ["GPU", "--on laptop"]),
    "a tracking server that is away": (
        ["train", "smoke", "--set", "cluster.tracking.uri=http://127.0.0.1:9"],
        ["http://127.0.0.1:9"],
    ),
    "a storage path that is a file": (
        ["train", "smoke", "--set", "cluster.runs_dir=data/digits/dataset.json"],
        ["data/digits/dataset.json", "cluster.runs_dir"],
    ),
    "more workers than a batch has parts": (
        ["submit", "resnet50", "--on", "slurm", "--set", "cluster.workers.count=16"],
        ["8 micro-batches", "16 workers", "batch.micro_batch_size"],
    ),
    "seeds that are no numbers": (
        ["submit", "smoke", "--on", "laptop", "--seeds", "0-x"], ["--seeds 0-x", "0-2,7"],
    ),
    "an engine without a Ray to join": (
        ["submit", "smoke", "--on", "laptop", "--set", "cluster.engine={kind: slurm}"],
        ["laptop.yaml", "workers.ray_address=auto"],
    ),
    "a folder that another machine can't know": (
        ["submit", "resnet50", "--on", "ray", "--set", "cluster.runs_dir=runs"],
        ["ray.yaml", "runs_dir", "absolute"],
    ),
    "nodes that the workers don't fill": (
        ["submit", "resnet50", "--on", "slurm", "--set", "cluster.engine.workers_per_node=3"],
        ["8 workers", "engine.workers_per_node=3"],
    ),
    "no Ray cluster at the address": (
        ["submit", "smoke", "--on", "ray", "--set", "cluster.engine.address=http://127.0.0.1:9"],
        ["http://127.0.0.1:9", "engine.address"],
    ),
    "no data set that Slurm's nodes see": (
        ["submit", "resnet50", "--on", "slurm", "--set", "cluster.data_dir=data"],
        ["data/ilsvrc2012", "ilsvrc prepare"],
    ),
    "a job that is not there": (["jobs", "stop", "nothing"], ["no job 'nothing'"]),
    "a cluster's value without its name": (
        ["jobs", "list", "--set", "engine.partition=x"],
        ["--set engine.partition=x", "set cluster.* only"],
    ),
    "another recipe for a run that is over": (
        ["replay", "mine", "1", "--set", "epochs=3"],
        ["--set epochs=3", "set cluster.* only"],
    ),
    "another recipe for a network to evaluate": (
        ["evaluate", "mine", "--set", "input.size=28"],
        ["--set input.size=28", "set cluster.* only"],
    ),
    "an unknown run": (["evaluate", "nothing"], ["no run 'nothing'"]),
    "an override without a value": (["train", "smoke", "--set", "epochs"], ["--set epochs"]),
    "a size that a network can't take": (
        ["describe", "resnet18", "--input", "3x8x8"],
        ["--input 3x8x8", "at least 32×32"],
    ),
    "a size that the network can't take": (
        ["train", "smoke", "--set", "resizing={start_size: 16, full_size_from: 2}"],
        ["16×16", "resizing.start_size", "leave out resizing"],
    ),
    "weights that are not there": (
        ["train", "smoke", "--start-from", "nothing"],
        ["no run 'nothing'"],
    ),
    "a number that is not published": (
        ["compare", "--with", "alexnet 12.3"],
        ["alexnet 12.3", "`ilsvrc published alexnet`"],
    ),
    "a network without published results": (["published", "lenet9"], ["lenet9", "lenet5"]),
    "a report of no trainings": (["report", "mine", "--to", "page.html"], ["mlflow.db", "train"]),
    "a page in a file": (
        ["report", "ilsvrc", "--to", "data/digits/dataset.json/page.html"],
        ["--to data/digits/dataset.json/page.html", "can't be made a folder", "name another"],
    ),
    "pictures of no run": (["visualize", "nothing"], ["no run 'nothing'"]),
    "a folder that is not there": (["prepare", "folder", "pictures"], ["pictures"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_any_worker_starts(
    mistake: str,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, parts = MISTAKES[mistake]
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["ilsvrc", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ilsvrc: ")
    for part in parts:
        assert part in lines[0]
    assert not list(workspace.glob("runs/*"))


def test_the_command_exits_with_2_and_no_traceback(workspace: Path) -> None:
    done = ilsvrc("train", "lenet6", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.startswith("ilsvrc: no recipe 'lenet6'")
    assert len(done.stderr.splitlines()) == 1


def test_checks_that_fail_for_the_same_reason_share_a_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = CliRunner().invoke(app, ["check", "smoke", "--set", "data.name=letters"])
    assert done.exit_code == 1
    assert done.output.count("no such data set") == 1
    assert re.search(r"✗ +data set, batch +/.*/letters: no such data set", done.output)


def test_ctrl_c_before_the_command_is_imported_is_one_line(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pipeline.cli.app import main\n"
        "class Teller:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'pipeline.cli.commands':\n"
        "            print('importing', flush=True)\n"
        "sys.meta_path.insert(0, Teller)\n"
        "sys.argv = ['ilsvrc', 'train', 'smoke']\n"
        "main()\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert command.stdout is not None
    assert command.stdout.readline() == "importing\n"
    command.send_signal(signal.SIGINT)
    assert command.communicate()[1] == "ilsvrc: interrupted\n"
    assert command.returncode == 130
