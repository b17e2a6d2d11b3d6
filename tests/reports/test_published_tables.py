import io

import pytest
from rich.console import Console

from pipeline.reports.published_tables import published_tables, released_lines, results_of
from pipeline.runtime.errors import UserError


def rendered(network: str | None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80)
    for table in published_tables(results_of(network)):
        console.print(table)
    return out.getvalue()


def test_all_tables_fit_80_columns_and_no_figure_is_cut() -> None:
    text = rendered(None)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for result in results_of(None):
        for error in (result.top1_error, result.top5_error):
            assert error is None or f" {error} " in text


def test_a_networks_results_include_its_ensembles_with_their_members() -> None:
    text = rendered("alexnet")
    assert "ilsvrc2012 test, ten-crop-square-256-224: 10 crops (224 of the centre 256)" in text
    flat = " ".join(text.split())
    assert "7 × alexnet 15.3 Krizhevsky et al. 2012, Table 2" in flat
    assert "2 × alexnet with a 6th conv layer" in flat
    assert "vgg16 and vgg19" in rendered("vgg16")
    assert {result.network for result in results_of("vgg_c")} == {"vgg_c", "vgg_c, vgg16, vgg19"}


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"published of 'lenet9'; did you mean `lenet5`\?"):
        results_of("lenet9")


def test_released_files_are_listed_with_commands_for_the_results_that_they_reach() -> None:
    lines = released_lines(results_of("caffenet"))
    assert lines[2].startswith("bvlc_reference_caffenet.caffemodel of BVLC's model zoo for Caffe")
    assert lines[4] == "  but for: a value a channel in place of the mean image, pixel by pixel"
    assert lines[5] == "  42.6 / 19.6 of BVLC Caffe model zoo"
    assert lines[6] == (
        "    ilsvrc evaluate --weights caffe:bvlc_reference_caffenet.caffemodel --network caffenet "
        "--data ilsvrc2012 --protocol center-squash-256-227"
    )
    assert "imagenet-caffe-ref.mat" in lines[8]  # of an unstated resize
    assert lines[-1].endswith("--network caffenet --data ilsvrc2012")
    assert released_lines(results_of("zfnet")) == []
