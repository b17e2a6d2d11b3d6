"""`ilsvrc describe`: figures whole at any width, a document with fixed keys, mistakes in a line."""

import io
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.models.summary import (
    ModelSummary,
    ZooSummary,
    summarize_model,
    summarize_zoo,
)
from pipeline.models.zoo import NETWORKS
from pipeline.reports.summary_tables import summary_tables
from pipeline.runtime.errors import UserError

TOTALS = {
    "network", "input", "classes", "parameters", "parameters_removed_at_test",
    "parameters_trained", "multiply_adds", "depth", "receptive_field", "batch", "activation_bytes",
}  # fmt: skip
LAYER = {
    "name", "kind", "output", "kernel", "stride", "padding", "dilation", "groups", "parameters",
    "multiply_adds", "receptive_field", "jump",
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo() -> ZooSummary:
    return summarize_zoo()


def rendered(found: ModelSummary | ZooSummary, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for part in summary_tables(found):
        console.print(part)
    return out.getvalue()


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def figures(text: str) -> list[str]:
    """Numbers with thousands separators: those that a narrow table would cut first."""
    return re.findall(r"\d{1,3}(?:,\d{3})+", text)


def test_every_network_fits_and_no_figure_is_cut(zoo: ZooSummary) -> None:
    for found in (*zoo.networks, zoo):
        whole = figures(rendered(found, 10_000))
        for width in (80, 100):
            text = rendered(found, width)
            assert "…" not in text
            assert figures(text) == whole
            assert found is zoo or max(map(len, text.splitlines())) <= width


def test_lines_in_a_pipe_are_not_wrapped() -> None:
    lines = printed("describe", "googlenet").splitlines()
    (row,) = [line for line in lines if line.startswith(" inception_5b.conv5x5.conv ")]
    assert row.split() == [
        "inception_5b.conv5x5.conv", "Conv", "128×7×7", "5", "1", "2", "153,728", "7,526,400",
        "715", "32",
    ]  # fmt: skip
    text = " ".join(" ".join(lines).split())
    assert "parameters 6,998,552; trained with 6,379,728 more, of auxiliary" in text
    assert "test: 13,378,280" in text


def test_columns_of_ones_are_left_out_and_mentioned() -> None:
    assert "dilation and groups: 1 throughout" in " ".join(printed("describe", "vgg16").split())
    alexnet = printed("describe", "alexnet")
    assert "g groups; dilation: 1 throughout" in " ".join(alexnet.split())
    (conv2,) = [line for line in alexnet.splitlines() if line.startswith(" conv2 ")]
    assert conv2.split()[3:7] == ["5", "1", "2", "2"]
    (edge,) = [line for line in alexnet.splitlines() if line.startswith(" edge ")]
    assert edge.split() == ["edge", "ZeroPad", "3×227×227", "1", "1", "0/3", "1", "1", "1"]


def test_the_document_has_fixed_keys_for_every_network(zoo: ZooSummary) -> None:
    for network in zoo.networks:
        document = json.loads(json.dumps(network.document()))
        assert document.keys() == TOTALS | {"layers"}
        assert all(layer.keys() == LAYER for layer in document["layers"])
        assert sum(layer["parameters"] for layer in document["layers"]) == document["parameters"]
    assert json.loads(json.dumps(zoo.document()))["networks"][0].keys() == TOTALS


def test_the_command_prints_one_document() -> None:
    document = json.loads(
        printed("describe", "alexnet", "--json", "--batch", "128", "--classes", "10")
    )
    assert document["layers"][0] == {
        "name": "edge", "kind": "ZeroPad2d", "output": [3, 227, 227], "kernel": [1, 1],
        "stride": [1, 1], "padding": [[0, 3], [0, 3]], "dilation": [1, 1], "groups": 1,
        "parameters": 0, "multiply_adds": 0, "receptive_field": [1, 1], "jump": [1, 1],
    }  # fmt: skip
    assert document["layers"][2]["kernel"] is None
    assert document["layers"][-1]["output"] == [10]
    assert document["activation_bytes"] == 128 * 6_694_636
    everything = json.loads(printed("networks", "--json"))
    assert [network["network"] for network in everything["networks"]] == list(NETWORKS)


def test_other_inputs_and_channels_are_described() -> None:
    gray = summarize_model("resnet50", "1x64x96")
    assert gray.profile.layers[0].output_shape == (64, 32, 48)
    assert gray.profile.layers[-1].receptive_field == (483 + 1 * 32, 483 + 2 * 32)
    assert summarize_model("mnist1d_conv", "1×40").num_classes == 10


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("resnet18", "3x31x224", "resnet18 takes images of at least 32×32, such as 3x224x224"),
        ("alexnet", "3x227x227", "takes images of 224×224"),
        ("resnet18", "3x224", "takes images of"),
        ("mnist1d_conv", "1x40x40", "takes signals of 40, such as 1x40"),
        *[("resnet18", text, "give the channels and each side, such as 3x224x224")
          for text in ("", "224", "0x224x224", "3x-1x2", "3x224x224x1", "3,224,224", "3x224x٣٢",
                       "3x224x224000000000000")],
    ],
)  # fmt: skip
def test_an_impossible_input_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--input {text}: ")) as refused:
        summarize_model(name, text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "network 'resnet19' is not known; did you mean `resnet18`?"),
        (["lenet5", "--classes", "11"], "10 digits"),
    ],
)
def test_a_mistake_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        CliRunner().invoke(app, ["describe", *arguments], catch_exceptions=False)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
