"""A folder of your own photographs trains AlexNet, step by step."""

from pathlib import Path

from command import Shell

from pipeline.data.store.store import Store
from pipeline.tracking.queries import evaluated_runs

FIT = "--set 'batch={global_batch_size: 8, micro_batch_size: 4}' --set epochs=1"
HERE = "--set cluster.workers.count=0 --set cluster.saving.log_every_steps=1"


def test_a_folder_of_photographs_trains_alexnet(
    photo_folder: Path, shell: Shell, tmp_path: Path, tracking_uri: str
) -> None:
    # 1. Photographs lie in one folder a class: here 12 of a palace in `china`, 12 of a `flower`.
    assert sorted(path.name for path in photo_folder.iterdir()) == ["china", "flower"]

    # 2. Pack them. About a tenth of each class is held out as `val`, at least one image; which ones
    # depends on their names alone.
    assert "2 classes" in shell(f"ilsvrc prepare folder {photo_folder} --to data/photos")
    photos = Store.open(Path("data/photos"))
    num_val = len(photos.split("val"))
    assert len(photos.split("train")) + num_val == 24
    assert 2 <= num_val <= 8

    # 3. Train AlexNet's recipe on them. Three values must fit the data: its name, the number of
    # classes, and a batch that a few photographs can fill.
    printed = shell(
        f"ilsvrc train alexnet --run photos --set data.name=photos {FIT} {HERE} "
        "--set network.num_classes=2 --set cluster.tracking.experiment=photos"
    )
    for step in (1, 2, 3):
        assert f"epoch 1/1 step {step}/3" in printed

    # 4. MLflow has the run with its recipe, its data and its result.
    (run,) = evaluated_runs(tracking_uri, "photos")
    assert run.status == "FINISHED"
    assert run.params["recipe.network.name"] == "alexnet"
    assert run.tags["dataset.digest"] == photos.digest
    assert run.tags["eval/val/center-256-224/images"] == str(num_val)

    # 5. So does its folder, where the weights are.
    assert {path.name for path in (tmp_path / "runs" / "photos").iterdir()} == {
        ".lock", ".run.json.lock", "checkpoints", "comparison.md", "metrics.jsonl", "predictions",
        "recipe.yaml", "run.json", "weights.safetensors",
    }  # fmt: skip
