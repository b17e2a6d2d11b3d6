import shlex
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.config.yaml import digest, flatten
from pipeline.evaluation.metrics import Counts
from pipeline.reports.repeat import repetition
from pipeline.reports.run_cost import fixed_workers
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.tracking.queries import TrackedRun


def recorded(recipe: Recipe, cluster: list[str], **tags: str) -> TrackedRun:
    """A run as the driver records it."""
    params = {f"recipe.{key}": str(value) for key, value in flatten(recipe).items()}
    where = flatten(load_cluster("laptop", cluster))
    params |= {f"cluster.{key}": str(value) for key, value in where.items()}
    known = {"recipe.digest": digest(recipe.without_expectation()), "protocol": "whole", **tags}
    return TrackedRun(
        "f00", "mine", "FINISHED", datetime(2026, 1, 2, tzinfo=UTC), params, known, {}
    )


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["seed=3", "optimizer.learning_rate=0.001", "epochs=7"],
        ["data.name=my photos", "input.mean=[70.0]"],
    ],
)
def test_the_command_names_the_very_recipe(changes: list[str]) -> None:
    recipe = load_recipe("smoke", changes)
    again = repetition(recorded(recipe, []), [])
    assert again.note == ""
    _, command, name, *options = shlex.split(again.lines[0])
    assert (command, name) == ("train", "smoke")
    sets = [value for flag, value in pairwise(options) if flag == "--set"]
    assert digest(load_recipe(name, sets)) == digest(recipe)
    assert len(sets) == len(changes)
    assert "--on laptop" in again.lines[0]
    assert again.lines[0].endswith(" --run mine-again")


def test_another_kind_of_section_is_repeated_from_the_runs_own_file() -> None:
    recipe = load_recipe("smoke", ["augmentation={kind: none}"])
    again = repetition(recorded(recipe, []), [])
    assert "its folder's does" in again.note
    assert again.lines[0].startswith("ilsvrc train runs/mine/recipe.yaml --on laptop")


def test_documents_with_mistakes_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "clusters"):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        (tmp_path / "configs" / folder / "broken.yaml").write_text("workers: [")
    (line,) = repetition(recorded(load_recipe("smoke"), []), []).lines
    assert line == "ilsvrc train smoke --on laptop --run mine-again"


def test_workers_start_and_commit_come_along() -> None:
    run = recorded(
        load_recipe("smoke"), ["workers.count=1"],
        **{"git.commit": "0123456789abcdef", "git.dirty": "yes", "start.from": "older"},
    )  # fmt: skip
    commit, train = repetition(run, []).lines
    assert commit == "git checkout 0123456789ab # and changes that were not committed"
    assert train == (
        "ilsvrc train smoke --on laptop --set cluster.workers.count=1 --start-from older "
        "--run mine-again"
    )


def test_every_result_but_the_trainings_own_has_its_evaluation() -> None:
    run = recorded(load_recipe("smoke"), [])
    seen = [("val", "whole"), ("val", "ten-crop-256-224"), ("train", "whole"),
            ("my.photos.val", "flip-256-224")]  # fmt: skip
    results = [
        Measured(ResultKey("n", "digits", split, protocol), Counts(1, 2, 3), run_id="f00")
        for split, protocol in seen
    ]
    assert repetition(run, results).lines[1:] == (
        "ilsvrc evaluate mine-again --data my.photos --split val --protocol flip-256-224",
        "ilsvrc evaluate mine-again --split train",
        "ilsvrc evaluate mine-again --split val --protocol ten-crop-256-224",
    )


def test_a_run_that_says_no_number_of_workers_gets_none() -> None:
    run = recorded(load_recipe("smoke"), [])
    params = {k: v for k, v in run.params.items() if k != "cluster.workers.count"}
    assert fixed_workers(params) is None
    assert fixed_workers(params | {"cluster.workers.count": "0"}) == 0
    line = repetition(replace(run, params=params), []).lines[0]
    assert line == "ilsvrc train smoke --on laptop --run mine-again"


@pytest.mark.parametrize(
    ("members", "protocol", "options"),
    [("('one', 'other')", "whole", ""),
     ("('0.75 × one', '0.25 × other')", "whole-weighted", " --weights 0.75,0.25")],
)  # fmt: skip
def test_an_ensemble_is_repeated_from_its_members(
    members: str, protocol: str, options: str
) -> None:
    params = {
        "evaluation.members": members,
        "evaluation.split": "val",
        "evaluation.protocol": protocol,
    }
    day = datetime(2026, 1, 2, tzinfo=UTC)
    run = TrackedRun("f1", "e", "FINISHED", day, params, {"kind": "evaluation"}, {})
    (line,) = repetition(run, []).lines
    assert line == f"ilsvrc ensemble one other{options} --split val --protocol whole"
    foreign = Measured(ResultKey("n", "digits", "photos.val", protocol), Counts(1, 2, 3))
    (line,) = repetition(run, [foreign]).lines
    assert line == f"ilsvrc ensemble one other{options} --split photos.val --protocol whole"


def test_weights_from_elsewhere_are_named_by_their_digest() -> None:
    params = {
        "evaluation.members": "()",
        "evaluation.network": "resnet152_v1_5",
        "evaluation.data": "my photos",
        "evaluation.split": "val",
        "evaluation.protocol": "center-256-224",
    }
    day, tags = (
        datetime(2026, 1, 2, tzinfo=UTC),
        {"kind": "evaluation", "weights.digest": "ab" * 32},
    )
    again = repetition(TrackedRun("f1", "e", "FINISHED", day, params, tags, {}), [])
    assert again.lines == (
        "ilsvrc evaluate --network resnet152_v1_5 --data 'my photos' --split val "
        "--protocol center-256-224 --weights FILE",
    )
    assert "abababab" in again.note
