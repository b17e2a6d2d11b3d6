"""Every recipe and cluster that ships is valid, and every key is read by some code."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config import augmentation, cluster, optimization, recipe
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe, read_recipe
from pipeline.config.yaml import Section, to_yaml, validate
from pipeline.data.loading.sampler import BatchSampler
from pipeline.runtime.errors import UserError

PROJECT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (PROJECT / "configs/recipes").glob("*.yaml"))
CLUSTERS = sorted(path.stem for path in (PROJECT / "configs/clusters").glob("*.yaml"))
NUM_TRAINING_IMAGES = {
    "ilsvrc2012": 1_281_167,
    "mnist": 60_000,
    "digits": 898,
    "mnist1d": 4_000,
    "hymenoptera_data": 244,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_and_names_its_command(name: str, tmp_path: Path) -> None:
    shipped = load_recipe(name)
    stored = tmp_path / "recipe.yaml"
    stored.write_text(to_yaml(shipped))
    assert read_recipe(stored) == shipped
    text = (PROJECT / f"configs/recipes/{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"ilsvrc train {name}" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_states_its_number_of_steps(name: str) -> None:
    shipped = load_recipe(name)
    text = (PROJECT / f"configs/recipes/{name}.yaml").read_text()
    stated = re.search(r"Takes: [^#]*?([\d,]+) steps", text)
    assert stated
    num_images = NUM_TRAINING_IMAGES[shipped.data.name]
    batch = shipped.batch
    sampler = BatchSampler(
        num_images, batch.global_batch_size, batch.num_micro_batches, world_size=1
    )
    assert int(stated[1].replace(",", "")) == shipped.epochs * sampler.num_steps


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_shipped_cluster_is_valid_and_names_its_command(name: str) -> None:
    load_cluster(name)
    text = (PROJECT / f"configs/clusters/{name}.yaml").read_text()
    assert f"--on {name}" in text


def test_paths_become_absolute_and_the_default_tracking_store_is_a_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    here = load_cluster("laptop", ["data_dir=my/data"])
    assert here.data_dir == str(tmp_path / "my" / "data")
    assert load_cluster("laptop", ["data_dir=s3://bucket/data"]).data_dir == "s3://bucket/data"
    assert here.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert load_cluster("laptop").tracking.uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batch.micro_batch_size=7", "multiple of micro_batch_size"),
        ("input.mean=[1, 2]", "mean and std need 1 values"),
        ("evaluation={kind: center, resize: 8}", "evaluation.resize"),
        (
            "augmentation={kind: scale-jitter, min_side: 16, max_side: 64, color_noise: 0}",
            "the smallest side of augmentation (16) is smaller than input.size (32)",
        ),
        ("augmentation={kind: alexnet, resize: 24, color_noise: 0}", "of augmentation (24)"),
        ("schedule={kind: step, epochs: [5, 5]}", "epochs must rise"),
        (
            "schedule={kind: piecewise, epochs: [2, 5], factors: [0.4]}",
            "2 epochs need as many factors, not 1",
        ),
        ("optimizer.momentum=1.5", "optimizer.momentum"),
        ("epochs=0", "epochs"),
        ("network.layers=3", "'network.layers' is not a known key; there are: name, num_classes"),
        ("augmentation={kind: area, color_noise: 0.1}", "needs input.color: rgb; set it to 0"),
        (
            "augmentation={kind: area, color_jitter: {brightness: 1, contrast: 1, saturation: 1}}",
            "augmentation.color_jitter needs input.color: rgb; leave it out",
        ),
        (
            "resizing={start_size: 64, full_size_from: 2}",
            "resizing.start_size (64) is larger than input.size (32)",
        ),
        ("schedule.warmup_epochs=3", "schedule.warmup_epochs (3) must be less than epochs"),
        (
            "resizing={start_size: 16, full_size_from: 3}",
            "resizing.full_size_from (3) must be less than epochs",
        ),
        ("input.dimensions=1", "input.dimensions: 1 needs augmentation: {kind: none}"),
    ],
)
def test_an_inconsistent_recipe_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("smoke", [assignment])
    assert message in str(error.value)


def test_a_recipe_is_frozen() -> None:
    recipe = load_recipe("smoke", ["epochs=2"])
    with pytest.raises(ValidationError):
        recipe.epochs = 3  # type: ignore[misc]
    assert recipe.epochs == 2


@pytest.mark.parametrize("document", [Recipe, Cluster])
def test_every_field_is_read_by_some_code(document: type[Section]) -> None:
    read = set(_attributes_read())
    unread = [
        f"{section.__name__}.{field}"
        for section in _sections(document)
        for field in section.model_fields
        if field not in read and field != "kind"
    ]
    assert unread == []


def _attributes_read() -> Iterator[str]:
    """Yield what is read outside definitions; augmentations read their own fields in methods."""
    definitions = {Path(part.__file__) for part in (recipe, optimization, cluster)}
    for path in (PROJECT / "pipeline").rglob("*.py"):
        if path in definitions:
            continue
        tree = ast.parse(path.read_text())
        validators = [node for node in ast.walk(tree) if _is_validator(node)]
        checked = {id(part) for validator in validators for part in ast.walk(validator)}
        for node in ast.walk(tree):
            if id(node) in checked:
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield node.attr
            if isinstance(node, ast.MatchClass):
                yield from node.kwd_attrs


def _is_validator(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        "validator" in ast.unparse(decorator) for decorator in node.decorator_list
    )


def _sections(document: type[BaseModel]) -> set[type[BaseModel]]:
    found = {document}
    for field in document.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _sections(part)
    return found


def test_the_sections_found_include_those_of_unions() -> None:
    assert {
        augmentation.AlexNetCrop,
        optimization.CosineSchedule,
        optimization.SGDConfig,
        recipe.Expectation,
    } <= _sections(Recipe)


def test_writing_out_defaults_changes_nothing() -> None:
    smoke = load_recipe("smoke")
    assert validate(Recipe, smoke.model_dump(mode="json"), "x") == smoke


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_clusters_example_command_divides_micro_batches_evenly(name: str) -> None:
    text = (PROJECT / f"configs/clusters/{name}.yaml").read_text()
    commands = re.findall(
        r"^#   ilsvrc ((?:train|submit) [^\\\n]*(?:\\\n#[^\\\n]*)*)", text, re.MULTILINE
    )
    assert commands
    for command in commands:
        words = shlex.split(command.replace("\\\n#", " "))
        values = [word for flag, word in pairwise(words) if flag == "--set"]
        shown = load_recipe(words[1], [text for text in values if not text.startswith("cluster.")])
        sampler = BatchSampler(
            num_images=1_281_167,
            global_batch_size=shown.batch.global_batch_size,
            num_micro_batches=shown.batch.num_micro_batches,
            world_size=load_cluster(name).workers.most,
        )
        assert len({len(sampler.share(rank)) for rank in range(sampler.world_size)}) == 1
