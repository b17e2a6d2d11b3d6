"""What `ilsvrc submit` reads, refuses, and gives to every engine."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.runtime.errors import UserError
from pipeline.submit import submit
from pipeline.submit.job_engine import SubmittedJob
from pipeline.submit.submit import engine_of, read_job, read_seeds, read_trainings, refuse_unfit

ENGINES = ("ray", "kuberay", "slurm")


@pytest.mark.parametrize("kind", ["laptop", *ENGINES])
def test_every_engine_gets_the_weights_to_start_from(kind: str) -> None:
    trainings = read_trainings("vgg16", [], kind, [], [0, 1], "runs/vgg a.safetensors")
    first, second = (training.run for training in trainings)
    assert first != second
    assert first.endswith("-from-vgg-a")
    text = engine_of(trainings[0].cluster).render(trainings, "ilsvrc submit …")
    assert shlex.join(["--start-from", "runs/vgg a.safetensors"]) in text
    (new,) = read_trainings("vgg16", [], kind, [], [], "caffe:vgg.caffemodel", new_head=True)
    assert new.run.endswith("-from-caffe-vgg.caffemodel-new-head")
    text = engine_of(new.cluster).render([new], "ilsvrc submit …")
    start = "--start-from caffe:vgg.caffemodel --new-head"
    assert start in " ".join(text.split())  # YAML may break the line
    with pytest.raises(UserError, match="--new-head: say with --start-from"):
        read_trainings("vgg16", [], kind, [], [], new_head=True)


@pytest.mark.parametrize("text", ["0-2,9-7", "9-7", "0-2,2", "3,3"])
def test_seeds_must_be_unique_and_their_ranges_ascending(text: str) -> None:
    assert read_seeds("0-2,7") == [0, 1, 2, 7]
    assert read_seeds(None) == []
    with pytest.raises(UserError, match=f"--seeds {text}: name each seed once, ranges from low"):
        read_seeds(text)


class ForgetfulEngine:
    """An engine that no longer knows a job once its log was read."""

    def __init__(self) -> None:
        self.known = [SubmittedJob("17", "mine", "running")]

    def jobs(self) -> list[SubmittedJob]:
        return self.known

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        yield "epoch 1/1\n"
        self.known = []


def test_a_job_that_its_engine_forgets_has_no_end_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit, "engine_of", lambda cluster: ForgetfulEngine())
    done = CliRunner().invoke(app, "jobs logs 17 --follow", catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "epoch 1/1", "job 17 is gone, and its end is not known",
    ]  # fmt: skip


def test_a_training_too_large_for_the_named_gpu_is_refused() -> None:
    def refuse(kind: str, micro_batch: int, *of_cluster: str) -> None:
        batch = f"batch={{global_batch_size: 4096, micro_batch_size: {micro_batch}}}"
        (training,) = read_trainings("vgg16", [batch], kind, list(of_cluster), [])
        refuse_unfit([training])

    refuse("kuberay", 32, "workers.gpu=v100")
    refuse("kuberay", 512)  # its GPUs are not known
    for kind in ("kuberay", "ray"):
        with pytest.raises(
            UserError, match=r"vgg16 takes at least .*, the cluster's NVIDIA V100 .* 16\.0 GB"
        ):
            refuse(kind, 512, "workers.gpu=v100")
    with pytest.raises(UserError, match="GPU 'abacus': not known; there are: h100"):
        refuse("ray", 32, "workers.gpu=abacus")


def test_weights_that_slurms_nodes_will_not_find_are_refused(tmp_path: Path) -> None:
    (training,) = read_trainings("resnet50", [], "slurm", [f"runs_dir={tmp_path}"], [], "nowhere")
    with pytest.raises(UserError, match=f"no run 'nowhere' in {tmp_path}"):
        refuse_unfit([training])


def test_a_job_with_a_protocol_that_its_network_cannot_do_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{trainings: [{recipe: resnet50}], evaluate: [dense]}")
    refuse_unfit(read_job(str(file), "kuberay", []))
    file.write_text("{trainings: [{recipe: smoke}], evaluate: [dense]}")
    with pytest.raises(UserError, match="LeNet5Modern can't be made fully convolutional"):
        refuse_unfit(read_job(str(file), "kuberay", []))


@pytest.mark.parametrize("engine", ["ray", "slurm", "kuberay"])
def test_a_password_that_an_engine_would_show_is_refused(engine: str) -> None:
    settings = ["tracking.uri=http://bob:secret@host:5000", "data_dir=/data", "runs_dir=/runs"]
    with pytest.raises(UserError, match=r"http://host:5000 was given with a password") as error:
        read_trainings("smoke", [], engine, settings, ())
    assert "secret" not in str(error.value)
