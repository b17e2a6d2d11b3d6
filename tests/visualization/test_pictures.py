from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from trained_runs import visualized_start

from pipeline.cli.app import main
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.models.profile import profile_model
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.errors import UserError
from pipeline.visualization.activations import Activation
from pipeline.visualization.filters import (
    filter_images,
    filters_image,
    first_layer_filters,
    read_filters,
)
from pipeline.visualization.image_grid import signed_to_pixels
from pipeline.visualization.pictures import (
    CoveredImages,
    LayerUnits,
    VisualizedModel,
    _patches,
    look,
)


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("smoke")


@pytest.fixture
def visualized(recipe: Recipe, data_dir: Path) -> VisualizedModel:
    return visualized_start(recipe, data_dir)


def test_a_weight_of_0_is_grey_and_the_largest_reaches_the_end() -> None:
    filters = torch.tensor([[[[0.0, -2.0], [1.0, 0.5]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    pictures = filter_images(filters)
    assert pictures[0, 0].tolist() == [[0.5, 0.0], [0.75, 0.625]]
    assert (pictures[1] == 0.5).all()


def test_alexnets_filters_are_in_six_rows_of_sixteen_as_in_its_paper() -> None:
    picture = filters_image(torch.randn(96, 3, 11, 11))
    assert picture.size == (16 * 44 + 15 * 2, 6 * 44 + 5 * 2)


@pytest.mark.parametrize(("count", "side"), [(1, 5), (6, 5), (20, 5), (32, 3), (64, 7), (192, 3)])
def test_filters_of_every_size_are_large_enough_to_see(count: int, side: int) -> None:
    picture = filters_image(torch.randn(count, 1, side, side))
    columns = round(picture.width / 122) if count < 8 else int(np.ceil(np.sqrt(count)))
    tile = (picture.width + 2) // columns - 2
    assert tile % side == 0
    assert tile >= 45
    assert picture.width <= 720 + 2 * columns


def test_a_patch_shows_the_receptive_field_of_the_activation() -> None:
    # Three layers, so that field, jump and padding all count; where a position is excited by one
    # pixel alone, that pixel must be in its patch, and in no patch of a position too far away.
    model = nn.Sequential(
        nn.Conv2d(3, 2, 5, stride=2, padding=2), nn.MaxPool2d(3, 2), nn.Conv2d(2, 1, 3, padding=1)
    )
    layer = profile_model(model, (3, 33, 33)).layers[-1]
    reach = (np.array(layer.first_pixel), np.array(layer.receptive_field))
    torch.manual_seed(0)
    for _ in range(20):
        y, x = torch.randint(33, (2,)).tolist()
        p, q = torch.randint(7, (2,)).tolist()
        image = torch.zeros(1, 3, 33, 33, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(image)[0, 0, p, q], image)
        pixels = np.zeros((33, 33, 3), np.uint8)
        pixels[y, x] = (0, 255, 0)  # as nothing else here, padding included
        patch = np.asarray(_patches([pixels], [Activation(0, 1.0, (p, q))], layer))
        start = reach[0] + np.array([p, q]) * layer.jump
        inside = bool(((start <= (y, x)) & ((y, x) < start + reach[1])).all())
        green = (patch[..., 1].astype(int) - patch[..., 0]).max() > 40
        assert green == inside
        assert inside or not gradient[0, :, y, x].any()


def test_zero_is_grey_and_a_few_bright_points_do_not_hide_the_rest() -> None:
    picture = torch.zeros(1, 20, 20)
    picture[0, :10] = torch.linspace(-1, 1, 200).view(10, 20)
    picture[0, 0, 0] = 100.0
    pixels = signed_to_pixels(picture)[..., 0]
    assert (pixels[10:] == 128).all()
    assert pixels[0, 0] == 255
    assert pixels[0, 1] < 10
    assert (signed_to_pixels(torch.zeros(1, 2, 2)) == 128).all()


def test_patches_stand_above_their_projections(visualized: VisualizedModel) -> None:
    found = look(visualized, "deconvnet", "layers.3", [1, 5])
    without = look(visualized, "activations", "layers.3", [1, 5])
    assert isinstance(found, LayerUnits)
    assert isinstance(without, LayerUnits)
    assert (found.is_projected, without.is_projected) == (True, False)
    assert [unit.unit for unit in found.units] == [1, 5]
    for unit, alone in zip(found.units, without.units, strict=True):
        assert list(unit.values) == sorted(unit.values, reverse=True)
        assert len(unit.values) == 9
        whole, patches = np.asarray(unit.picture), np.asarray(alone.picture)
        assert np.array_equal(whole[: len(patches)], patches)
        projections = whole[-len(patches) :]
        assert len(whole) == 2 * len(patches) + 8
        assert 100 < projections.mean() < 156  # grey, 128, is 0
        assert not np.array_equal(projections, patches)


def test_covered_images_are_spread_over_the_split(visualized: VisualizedModel) -> None:
    found = look(visualized, "occlusion", num_images=2)
    assert isinstance(found, CoveredImages)
    labels = visualized.split.labels
    names = [visualized.class_names[label] for label in (labels[0], labels[-1])]
    assert [image.class_name for image in found.images] == names
    assert all(image.pixels.shape == (32, 32, 3) for image in found.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("colours",), "--what colours: choose filters"),
        (
            ("activations", "layers.99"),
            r"no layer 'layers\.99'; did you mean `layers\.9`\? there are: layers\.0, ",
        ),
        (("deconvnet", "layers.3", [3, 16]), r"no unit 16; it has 0 to 15"),
    ],
)
def test_unknown_kinds_layers_and_units_are_refused(
    visualized: VisualizedModel, arguments: Sequence[object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        look(visualized, *arguments)


def test_signals_are_refused(visualized: VisualizedModel) -> None:
    signals = replace(visualized, recipe=load_recipe("mnist1d_conv"))
    with pytest.raises(UserError, match="signals have no pictures"):
        look(signals, "filters")


def test_filters_need_a_convolution_over_images() -> None:
    with pytest.raises(UserError, match="no convolution"):
        first_layer_filters(nn.Linear(2, 3))


def test_filters_are_read_from_a_file_in_any_order(tmp_path: Path) -> None:
    model = NETWORKS["densenet121"](2)  # of whose names "conv" isn't the first
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    filters = read_filters(tmp_path / "weights.safetensors", model)
    assert filters.shape == (64, 3, 7, 7)
    assert torch.equal(filters, first_layer_filters(model))
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="can't be read"):
        read_filters(tmp_path / "weights.safetensors", model)


def test_the_command_leaves_a_png_in_the_runs_folder(
    workspace: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = RunFolder(workspace / "runs" / "mine")
    folder.path.mkdir(parents=True)
    folder.write_recipe(recipe)
    arguments = ["ilsvrc", "visualize", "mine", "--what", "filters"]
    monkeypatch.setattr("sys.argv", arguments)
    for _ in ("without weights", "and without a record"):
        with pytest.raises(SystemExit):
            main()
        assert "run 'mine' has no final weights yet" in capsys.readouterr().err
        save_file(build_model(recipe.network, recipe.input).state_dict(), folder.weights)
    folder.write_record(RunRecord(dataset_digest="", tracking_run_id=""))  # tracking was away
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    with Image.open(folder.path / "pictures" / "filters.png") as picture:
        assert picture.width > 1000
    assert "mine/pictures/filters.png" in capsys.readouterr().out.replace("\n", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", [*arguments, "--on", "1gpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "CUDA finds none here" in capsys.readouterr().err
