"""What a notebook calls: train, look, evaluate, compare, in one process."""

from pathlib import Path

import pytest
import torch

from pipeline import api
from pipeline.launch.events import StepsReport, ValidationReport


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[api.Run, list[api.Event]]:
    folder = tmp_path_factory.mktemp("notebook")
    events: list[api.Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = api.prepare_digits()
        assert len(store.split("train")) == 898
        run = api.train("smoke", {"epochs": 3}, run="first", on_event=events.append)
        assert api.open_run("first") == run
    return run, events


def test_a_callback_hears_of_steps_and_evaluations(
    digits_run: tuple[api.Run, list[api.Event]],
) -> None:
    run, events = digits_run
    assert run.recipe.epochs == 3
    steps = [event for event in events if isinstance(event, StepsReport)]
    evaluated = [event for event in events if isinstance(event, ValidationReport)]
    assert steps[-1].step == steps[-1].num_steps == 15
    assert [event.epoch for event in evaluated] == [1, 2, 3]
    history = run.history
    assert history.index.tolist() == [15, 30, 45]
    assert history["train/loss"].tolist()[-1] == pytest.approx(steps[-1].loss)
    assert history["eval/val/whole/top1_error"].iloc[-1] == evaluated[-1].counts.top1_error


def test_a_training_that_is_done_is_opened_again(
    digits_run: tuple[api.Run, list[api.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = digits_run
    monkeypatch.chdir(run.folder.path.parents[1])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = api.train("smoke", {"epochs": 1}, start_from="first")
    assert first.name.startswith("smoke-")
    assert "-from-" in first.name
    first.folder.update_record(is_recorded=True)  # as a command leaves it
    assert api.train("smoke", {"epochs": 1}, start_from="first") == first


def test_predictions_are_a_table_and_the_networks_own(
    digits_run: tuple[api.Run, list[api.Event]],
) -> None:
    run, _ = digits_run
    kept = run.predictions()
    table = api.table(kept)
    assert table.shape == (899, 4)
    assert (table["label"] == table["guess"]).mean() == kept.counts.top1_hits / 899
    assert ((table["rank"] == 0) == (table["label"] == table["guess"])).all()
    assert table["probability"].between(0.09, 1).all()
    network = run.network()
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) == 61_706
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_another_protocol_is_evaluated_and_compared(
    digits_run: tuple[api.Run, list[api.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = digits_run
    monkeypatch.chdir(run.folder.path.parents[1])
    flipped = run.evaluate("flip")
    assert flipped.metadata.protocol == "flip-36-32"
    whole = run.predictions(protocol="whole")
    found = api.compare_paired(whole, flipped, k=1)
    assert found.only_first > found.only_second  # digits should not be mirrored
    assert len(api.ensemble([whole, flipped])) == 899


def test_curves_are_drawn_and_published_results_listed(
    digits_run: tuple[api.Run, list[api.Event]],
) -> None:
    figures = api.curves([digits_run[0]])
    assert {"Loss", "Top-1 error, %"} <= figures.keys()
    assert figures["Loss"].axes[0].lines
    assert figures["Loss"].get_supxlabel() == f"digits val, whole; {digits_run[0].started:%Y-%m-%d}"
    assert "Learning rate" not in figures  # a constant
    alexnet = api.published("alexnet")
    first = alexnet.iloc[0]
    assert (first["top1_error"], first["top5_error"]) == (40.7, 18.2)
    with pytest.raises(api.UserError, match="nothing is published of 'alexnett'"):
        api.published("alexnett")


def test_mistakes_are_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(api.UserError, match="'epoch' is not a known key; did you mean `epochs`"):
        api.load_recipe("smoke", {"epoch": 3})
    assert api.load_recipe("smoke", {"data.name": "my digits"}).data.name == "my digits"
    with pytest.raises(api.UserError, match="no run 'none'"):
        api.open_run("none")


def test_networks_are_laid_side_by_side_with_their_papers_numbers() -> None:
    networks = api.networks(["lenet5", "alexnet", "vgg16"])
    assert networks.index.tolist() == ["lenet5", "alexnet", "vgg16"]
    assert networks["parameters"].tolist() == [60_000, 60_965_224, 138_357_544]
    assert networks["multiply_adds"]["vgg16"] == 15_470_264_320
    assert networks["receptive_field"].tolist() == [32, 195, 212]
    layers = api.layers("alexnet")
    assert layers["output"]["conv1"] == "96×55×55"
    assert layers["parameters"].sum() == 60_965_224
    assert layers.loc["conv5", ["kernel", "stride", "receptive_field"]].tolist() == [3, 1, 163]
    with pytest.raises(api.UserError, match="did you mean `alexnet`"):
        api.layers("alexnett")


def test_a_network_is_built_as_its_training_starts_and_leaves_torchs_random_state() -> None:
    before = torch.random.get_rng_state()
    first, again = api.build("smoke"), api.build(api.load_recipe("smoke"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not first.training
    same = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    other = api.build(api.load_recipe("smoke", {"seed": 1}))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_what_a_number_of_the_lecture_is() -> None:
    lecture = api.lecture_table()
    assert lecture["top5_error"].tolist() == [25, 15.3, 7.3, 3.6, 5.1]
    assert lecture["one_network"]["AlexNet"].startswith("alexnet 18.2 (10 crops")
    said = api.explain("alexnet 15.3")
    assert "7 networks, 10 crops, test" in said
    assert "one network: 40.7/18.2 (1 network, 10 crops, val)" in said
    assert "no run" not in said
    with pytest.raises(api.UserError, match="no published result has this error"):
        api.explain("alexnet 99.9")


def test_a_run_and_a_start_have_pictures(
    digits_run: tuple[api.Run, list[api.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = digits_run
    monkeypatch.chdir(run.folder.path.parents[1])
    figure = run.picture("activations", units=[0, 5])
    assert "first: lenet5_modern, trained on digits train, 3 epochs, 20" in figure.get_supxlabel()
    assert sum(bool(axes.get_images()) for axes in figure.axes) == 2
    start = api.filters_figure(api.build("smoke"), "smoke, before training")
    assert start.get_supxlabel().startswith("smoke, before training\n")
