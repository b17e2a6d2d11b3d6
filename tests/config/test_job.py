"""Jobs: which trainings a document stands for, and what is refused before anything runs."""

from pathlib import Path

import pytest

from pipeline.config.job import Job, is_job, load_job
from pipeline.config.protocol import CenterCrop, WholeImage
from pipeline.runtime.errors import UserError


def job_of(folder: Path, text: str) -> Job:
    (folder / "mine.yaml").write_text(text)
    return load_job(str(folder / "mine.yaml"))


def test_a_group_has_a_training_for_each_seed_at_each_point_of_its_grid(tmp_path: Path) -> None:
    job = job_of(
        tmp_path,
        """
        trainings:
          - recipe: smoke
            set: {epochs: 2, schedule: {kind: cosine}}
            grid: {optimizer.learning_rate: [0.1, 1e-3]}
            seeds: [0, 7]
          - {recipe: lenet5_digits}
        """,
    )
    assert job.name == "mine"
    found = [(m.recipe.optimizer.learning_rate, m.recipe.seed) for m in job.members]
    assert found == [(0.1, 0), (0.1, 7), (0.001, 0), (0.001, 7), (0.05, 0)]
    assert [m.recipe.epochs for m in job.members] == [2, 2, 2, 2, 80]
    assert job.members[0].recipe.schedule.kind == "cosine"
    assert job.member(job.members[3].run) is job.members[3]
    with pytest.raises(UserError, match="job mine has no run 'other'; there are: smoke-"):
        job.member("other")


def test_each_training_is_tested_by_its_own_protocol_first_and_by_each_once(
    tmp_path: Path,
) -> None:
    job = job_of(
        tmp_path,
        "{trainings: [{recipe: smoke, seeds: [0, 1]}], evaluate: [whole, center],"
        " ensemble: [center]}",
    )
    for member in job.members:
        assert member.protocols == (WholeImage(), CenterCrop(resize=36))
        assert member.ensemble == {"center": CenterCrop(resize=36)}


MISTAKES = {
    "a misspelt key": (
        "trainings: [{recipe: smoke, seed: [0]}]",
        r"mine\.yaml: 'trainings\.0\.seed' is not a known key; did you mean `seeds`\? there are: ",
    ),
    "a key that the recipe hasn't": (
        "trainings: [{recipe: smoke, set: {optimizer.rate: 0.1}}]",
        r"mine\.yaml: .*smoke\.yaml: 'optimizer\.rate' is not a known key; .* there are: .*learn",
    ),
    "an unknown recipe": (
        "trainings: [{recipe: smok}]",
        r"mine\.yaml: no recipe 'smok' in .*did you mean `smoke`\? there are: .*smoke",
    ),
    "an unknown protocol": (
        "{trainings: [{recipe: smoke}], evaluate: [ten-crops]}",
        r"mine\.yaml: .*ten-crops: no such protocol of 32-pixel input; did you mean `ten-crop`\?",
    ),
    "a protocol of images for signals": (
        "{trainings: [{recipe: mnist1d_conv}], ensemble: [center]}",
        r"mine\.yaml: mnist1d_conv is tested on whole signals only; leave out center",
    ),
    "the same training twice": (
        "trainings: [{recipe: smoke, seeds: [0, 0]}]",
        r"mine\.yaml: run smoke-\w+ is there twice; change its seed or a value",
    ),
    "an ensemble of one": (
        "{trainings: [{recipe: smoke}], ensemble: [whole]}",
        r"mine\.yaml: 'ensemble' needs two trainings or more",
    ),
    "no trainings": ("trainings: []", r"mine\.yaml: 'trainings'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_file(mistake: str, tmp_path: Path) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        job_of(tmp_path, text)


def test_a_documents_keys_say_whether_it_is_a_job(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert not is_job("resnet50")  # a name is a recipe's
    for text, expected in {"trainings: []": True, "network: {name: lenet5}": False}.items():
        file.write_text(text)
        assert is_job(str(file)) == expected
    for text in ("training: []", "{trainings: [], network: {}}"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"mine\.yaml: a job has the key `trainings`, a recipe"):
            is_job(str(file))
