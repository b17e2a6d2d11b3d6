import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from rich.console import Console
from rich.table import Table

from pipeline.evaluation.metrics import Counts
from pipeline.reports.comparison_tables import comparison_markdown, comparison_tables, result_tables
from pipeline.results.measured import Measured, result_tags
from pipeline.results.published import ResultKey, published
from pipeline.runtime.errors import UserError
from pipeline.tracking.measured_runs import (
    images_tag,
    measured_from_run,
    measured_from_runs,
)
from pipeline.tracking.queries import TrackedRun

IMAGES = 50_000


def imagenet(network: str, protocol: str = "center-256-224") -> ResultKey:
    return ResultKey(network, "ilsvrc2012", "val", protocol)


def measured(
    key: ResultKey, top1_error: float, top5_error: float, images: int = IMAGES
) -> Measured:
    hits = [round(images * (1 - error / 100)) for error in (top1_error, top5_error)]
    return Measured(key, Counts(*hits, images), run="a-run", run_id="f00", date="2026-01-02")


DIGITS = measured(ResultKey("lenet5_modern", "digits", "val", "whole"), 2.56, 0.11, 899)
ALEXNET = measured(imagenet("alexnet"), 42.8, 19.7)
RESNET = measured(imagenet("resnet18"), 30.3, 11.2)


def rendered(tables: Sequence[Table], width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in tables:
        console.print(table)
    return out.getvalue()


def results_text(*results: Measured, width: int = 80) -> str:
    return rendered(result_tables(results, width), width)


def markdown_rows(*results: Measured) -> list[list[str]]:
    table = comparison_markdown(results).split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


@pytest.mark.parametrize("width", [80, 100])
def test_every_published_result_fits_and_no_word_is_cut(width: int) -> None:
    # Each key as if measured, and at a size that nobody published.
    keys = {result.key for result in published() if len(result.network) < 24}
    keys |= {imagenet(key.network, "center-160-128") for key in keys}
    results = [measured(key, 60.0, 50.0, 10_000) for key in keys]
    shown: set[str] = set()
    for table in result_tables(results, width):
        lines = rendered([table], width).splitlines()
        assert max(map(len, lines)) <= width
        column = next(line.index("Published") for line in lines if "Published" in line)
        shown |= words(" ".join(line[column:] for line in lines))
    for row in markdown_rows(*results):
        assert words(row[7]) <= shown


def flat(text: str) -> str:
    return " ".join(text.split())


def words(text: str) -> set[str]:
    return set(re.split(r"[\s,:;/]+", text))


@pytest.mark.parametrize("width", [80, 100])
def test_all_tables_fit(width: int) -> None:
    long = measured(imagenet("resnet18"), 30.3, 11.2)
    long = Measured(long.key, long.counts, run="a_run_with_a_name_without_end_" * 3)
    text = rendered(comparison_tables([DIGITS, ALEXNET, RESNET, long], width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_output_to_a_file_has_no_colours() -> None:
    assert "\x1b" not in results_text(DIGITS, ALEXNET)


def test_markup_in_a_name_is_printed_as_it_is() -> None:
    result = Measured(RESNET.key, RESNET.counts, run="a[red]|b")
    assert "a[red]|b" in results_text(result)
    assert r"a[red]\|b" in comparison_markdown([result])


def test_the_published_result_of_the_same_key_is_shown_with_difference_and_source() -> None:
    text = results_text(RESNET)
    assert "top-1 30.30 (29.90–30.70)   30.43: −0.13 " in text
    assert "top-5 11.20 (10.93–11.48)   10.76: +0.44 " in text
    assert "not reproduced by 0.44 points of top-5 (p = 0.0015)" in flat(
        results_text(RESNET, width=120)
    )
    assert "fb.resnet.torch" in text
    assert markdown_rows(RESNET)[0] == [
        "a-run, 2026-01-02", "resnet18", "ilsvrc2012 val", "center-256-224", "50,000",
        "30.30 (29.90–30.70)", "11.20 (10.93–11.48)", "30.43 / 10.76, fb.resnet.torch",
        "−0.13 / +0.44", "not reproduced by 0.44 points of top-5 (p = 0.0015)",
    ]  # fmt: skip


def test_an_error_that_was_never_published_is_a_dash() -> None:
    googlenet = measured(imagenet("googlenet"), 31.0, 10.0)
    assert re.search(r"top-1 31\.00 \S+ +– *\n", results_text(googlenet))
    assert "10.07: −0.07 " in results_text(googlenet)
    assert markdown_rows(googlenet)[0][8] == "– / −0.07"


def test_a_result_of_another_protocol_is_not_compared_but_named_as_nearest() -> None:
    text = results_text(ALEXNET, width=100)
    flat = " ".join(text.split())
    assert "not comparable with the nearest, 40.7 / 18.2" in flat
    assert "15.3" not in flat
    assert "reproduced" not in flat
    row = markdown_rows(ALEXNET)[0]
    assert "10 crops (224 of the centre 256) instead of 1 crop (224 of 256)" in row[7]
    assert row[8] == ""


def test_a_network_without_published_results_shows_other_methods() -> None:
    text = results_text(DIGITS)
    for other in ("7.12 logistic regression", "3.89 1-NN", "3.11 SVC (γ = 0.001)"):
        assert other in text
    assert "top-1 2.56 (1.71–3.81)" in text
    assert "899 images" in text


def test_another_number_of_images_is_noted() -> None:
    partly = measured(imagenet("resnet18"), 30.3, 11.2, 49_152)
    assert "on 50,000 images" in " ".join(results_text(partly, width=100).split())
    assert "on 50,000 images" not in " ".join(results_text(RESNET, width=100).split())


def test_an_incomplete_training_is_marked() -> None:
    unfinished = Measured(RESNET.key, RESNET.counts, run="a-run", complete=False)
    assert "incomplete" in results_text(unfinished)
    assert "incomplete" not in results_text(RESNET)


def test_other_data_has_nothing_published() -> None:
    mine = measured(ResultKey("resnet18", "my-photos", "val", "center-256-224"), 10, 5, 100)
    assert markdown_rows(mine)[0][7] == "none"


def test_ensembles_and_extra_data_are_shown_with_the_protocol() -> None:
    key = ResultKey("alexnet", "ilsvrc2012", "val", "center-256-224", 7, "fall2011")
    protocol = markdown_rows(measured(key, 40, 18))[0][3]
    assert protocol == "center-256-224, ensemble of 7, extra data fall2011"


def test_the_lectures_numbers_are_in_a_table_of_their_own() -> None:
    results, lecture, instead = (
        rendered([table]) for table in comparison_tables([ALEXNET, RESNET], 80)
    )
    for number in ("15.3", "7.3", "3.6", "5.1", "25"):
        assert re.search(rf"^ \S.* {re.escape(number)} ", lecture, re.MULTILINE), number
        assert f" {number} " not in instead
    assert "7 networks averaged" in lecture
    assert "19.8" not in lecture
    for number in ("18.2", "19.8", "4.49", "6.7"):
        assert number in instead
    assert "15.3" not in results
    sections = comparison_markdown([ALEXNET]).split("\n\n")
    assert "| AlexNet | 15.3 |" in sections[2]
    assert "15.3" not in sections[0] + sections[4]


PARAMS = {"recipe.network.name": "resnet18", "recipe.data.name": "ilsvrc2012"}
METRICS = {
    "train/loss": 1.2,
    **{
        f"eval/val/center-256-224/{name}": error
        for name, error in Counts(34850, 44400, 50000).metrics(1000).items()
    },
    **{
        f"eval/train/center-256-224/{name}": error
        for name, error in Counts(9, 10, 10).metrics(1000).items()
    },
    "eval/val/whole/loss": 1.0,
}
IMAGES = {
    "eval/val/center-256-224/images": "50000",
    "eval/train/center-256-224/images": "10",
    "eval/val/whole/images": "50000",
    "other/val/center-256-224/images": "50000",
}


def from_run(params: dict[str, str], tags: dict[str, str]) -> list[Measured]:
    tags = {**tags, **IMAGES}
    return measured_from_run(params, tags, METRICS, run_id="f00", date="2026-01-02", complete=False)


def test_a_run_has_one_result_for_each_split_and_protocol() -> None:
    results = from_run(PARAMS, {"mlflow.runName": "first", "dataset.name": "my-photos"})
    key = ResultKey("resnet18", "my-photos", "val", "center-256-224")
    assert results == [
        Measured(key, Counts(34850, 44400, 50000), "first", "f00", "2026-01-02", False),
        Measured(ResultKey("resnet18", "my-photos", "train", "center-256-224"),
                 Counts(9, 10, 10), "first", "f00", "2026-01-02", False),
    ]  # fmt: skip


@pytest.mark.parametrize("images", [899, 10_000, 50_000, 1_281_167])
def test_hits_are_exact(images: int) -> None:
    for hits in {0, 1, images // 3, images - 1, images, *range(0, images, images // 97)}:
        counts = Counts(hits, min(images, hits + 1), images)
        metrics = {f"eval/val/whole/{name}": error for name, error in counts.metrics(1000).items()}
        tags = images_tag("val", "whole", images)
        (found,) = measured_from_run(PARAMS, tags, metrics, run_id="", date="", complete=True)
        assert found.counts == counts


def test_a_run_of_before_has_its_images_as_a_metric() -> None:
    metrics = {"eval/val/whole/images": 899.0, "eval/val/whole/top1_hits": 877.0}
    metrics |= {f"eval/val/whole/{n}": v for n, v in Counts(877, 899, 899).metrics(1000).items()}
    (found,) = measured_from_run(PARAMS, {}, metrics, run_id="", date="", complete=True)
    assert found.counts == Counts(877, 899, 899)


def test_a_run_without_tags_gets_its_data_from_its_recipe() -> None:
    results = from_run(PARAMS, {})
    assert {(r.run, r.key.training_data) for r in results} == {("f00", "ilsvrc2012")}


def test_a_run_of_unknown_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"run 'f00'.*recipe\.network\.name.*missing; delete"):
        from_run({}, {})


def test_a_run_without_evaluations_has_no_results() -> None:
    nothing = measured_from_run({}, {}, {"train/loss": 1.0}, run_id="f", date="", complete=True)
    assert nothing == []


def test_results_become_tags_of_a_registered_model() -> None:
    assert result_tags([RESNET, ALEXNET]) == {
        "val/center-256-224": "30.30 (29.90–30.70) / 11.20 (10.93–11.48) of 50,000"
    }


def tracked(run_id: str, name: str, tags: dict[str, str]) -> TrackedRun:
    day = datetime(2026, 1, 2, tzinfo=UTC)
    return TrackedRun(run_id, name, "FINISHED", day, PARAMS, {**tags, **IMAGES}, METRICS)


def test_what_an_evaluation_measured_again_counts_once_under_the_trainings_name() -> None:
    evaluated = {"mlflow.parentRunId": "f00", "evaluation.run": "mine"}
    runs = [tracked("f01", "mine val center", evaluated), tracked("f00", "mine", {})]
    results = measured_from_runs(runs)
    assert [(result.run, result.run_id) for result in results] == [("mine", "f01")] * 2
    assert {result.key.split for result in results} == {"val", "train"}
    assert len(measured_from_runs([*runs, tracked("f02", "other", {})])) == 4


def test_an_ensemble_is_compared_as_one() -> None:
    (first, _) = measured_from_runs([tracked("f00", "e", {"ensemble.size": "2"})])
    assert first.key.ensemble_size == 2
    assert "ensemble of 2" in results_text(first)


def with_seed(seed: int, errors: int, **settings: str) -> Measured:
    known = {"seed": str(seed), "epochs": "5", "optimizer.learning_rate": "0.05", **settings}
    counts = Counts(899 - errors, 899, 899)
    run = f"lenet5_digits-{errors:08d}"
    return Measured(DIGITS.key, counts, run, "f00", "2026-01-02", settings=known)


SEEDS = [with_seed(seed, errors) for seed, errors in enumerate((22, 24, 11))]
SLOW = with_seed(0, 96, **{"optimizer.learning_rate": "0.01"})


def test_seeds_are_below_their_mean_and_what_differs_has_columns_where_there_is_room() -> None:
    wide = results_text(SLOW, *SEEDS, width=120).splitlines()
    heading = next(line for line in wide if " Run" in line)
    assert heading.split()[:3] == ["Run", "rate", "Seed"]  # "Learning" is above
    assert "Epochs" not in heading
    mean = next(n for n, line in enumerate(wide) if "mean of 3 seeds" in line)
    assert wide[mean].split()[4:8] == ["0.05", "top-1", "2.11", "±"]
    below = [line.split() for line in wide[mean:] if line.startswith("   lenet5_digits-")]
    assert [(line[1], line[3]) for line in below] == [("0", "2.45"), ("1", "2.67"), ("2", "1.22")]
    assert "±: the sample standard deviation (n − 1)" in "\n".join(wide)


def test_what_differs_is_below_the_name_where_there_is_no_room() -> None:
    measured = with_seed(0, 96, **{"optimizer.learning_rate": "0.01", "batch": 17 * "x"})
    narrow = results_text(measured, with_seed(0, 22, batch="y"))
    assert max(map(len, narrow.splitlines())) <= 80
    assert re.search(r"^ lenet5_digits-00000096 +0\.01 ", narrow, re.MULTILINE)
    assert re.search(r"^ batch x{17} ", narrow, re.MULTILINE)
    assert re.search(r"^ batch y ", narrow, re.MULTILINE)
    assert "seed" not in narrow  # it is the same


def test_more_settings_than_there_are_places_for_are_named() -> None:
    many = {f"augmentation.part_{number}": "1" for number in range(6)}
    text = flat(results_text(with_seed(0, 9, **many), with_seed(1, 9, **dict.fromkeys(many, "2"))))
    assert "the runs also differ in: part 4, part 5" in text


def test_what_holds_for_all_runs_of_a_table_is_said_once() -> None:
    for text in (results_text(SLOW, *SEEDS), comparison_markdown([SLOW, *SEEDS])):
        assert text.count("none for this network; others:") == 1
        assert text.count("SVC (γ = 0.001)") == 1
    seeds = [
        Measured(RESNET.key, RESNET.counts, f"run-{seed}", settings={"seed": str(seed)})
        for seed in range(2)
    ]
    text = flat(results_text(*seeds, width=120))
    assert text.count("fb.resnet.torch") == 1
    assert text.count("30.43: −0.13") == 3  # of the mean and of both runs


def test_few_of_many_others_are_shown_those_nearest_to_ours() -> None:
    unknown = measured(imagenet("resnet26"), 30.4, 11.0)
    note = flat(results_text(unknown)).partition("others:")[2]
    assert "30.43 / 10.76 resnet18" in note
    assert note.count("resnet18") == 1  # its authors' alone
    assert note.count(", ") == 7
    assert "farther from ours (`ilsvrc published`)" in note
