"""Tables of stored predictions for a terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.evaluation.error_analysis import calibration, class_errors, confusions
from pipeline.evaluation.metrics import has_top5, wilson_interval
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.relabelled import RelabelledErrors
from pipeline.evaluation.significance import PairedComparison, PreprocessingTrial
from pipeline.reports.tables import titled_table


def result_line(predictions: Predictions) -> str:
    """Return the errors of one evaluation with their 95 % intervals, in one line."""
    metadata, counts = predictions.metadata, predictions.counts
    top1, top5 = (
        wilson_interval(counts.images - hits, counts.images)
        for hits in (counts.top1_hits, counts.top5_hits)
    )
    line = (
        f"{metadata.run}: {metadata.split} ({metadata.protocol}, {counts.images:,} images)  "
        f"top-1 error {counts.top1_error:.2f} % ({top1.low:.2f}–{top1.high:.2f})"
    )
    if has_top5(len(predictions.classes)):
        line += f"  top-5 error {counts.top5_error:.2f} % ({top5.low:.2f}–{top5.high:.2f})"
    return line


def errors_table(predictions: Predictions, ks: Sequence[int]) -> Table:
    """Return the top-k error for each k below the number of classes, with its 95 % interval."""
    table = titled_table("Errors, %", numbers=("k", "Top-k error", "95 %"))
    for k in (k for k in ks if k < len(predictions.classes)):
        errors = len(predictions) - predictions.hits(k)
        interval = wilson_interval(errors, len(predictions))
        share = 100 * errors / len(predictions)
        table.add_row(str(k), f"{share:.2f}", f"{interval.low:.2f}–{interval.high:.2f}")
    return table


def relabelled_table(found: RelabelledErrors) -> Table:
    """Return the top-k error for each k by other labels, with its 95 % Wilson interval."""
    left_out = f", {found.left_out:,} without a label left out" if found.left_out else ""
    table = titled_table(
        f"Errors of {found.images:,} images, %{left_out}", numbers=("k", "Top-k error", "95 %")
    )
    for k, errors in zip(found.ks, found.errors, strict=True):
        interval = wilson_interval(errors, found.images)
        share = 100 * errors / found.images
        table.add_row(str(k), f"{share:.2f}", f"{interval.low:.2f}–{interval.high:.2f}")
    return table


def classes_table(predictions: Predictions, count: int) -> Table:
    """Return the `count` classes with the largest errors, and as many with the smallest."""
    errors = class_errors(predictions)
    names = ("Top-1", "Top-5") if has_top5(len(predictions.classes)) else ("Top-1",)
    table = titled_table("Classes, errors in %", ["Class"], ("Images", *names))
    shown = errors if len(errors) <= 2 * count else [*errors[:count], None, *errors[-count:]]
    for one in shown:
        if one is None:
            table.add_row("…")
            continue
        shares = (100 * errors / one.images for errors in (one.top1_errors, one.top5_errors))
        table.add_row(
            class_name(predictions, one.index),
            f"{one.images:,}",
            *[f"{share:.1f}" for share in shares][: len(names)],
        )
    return table


def confusions_table(predictions: Predictions, count: int) -> Table:
    """Return the pairs of classes that are confused most often."""
    table = titled_table("Confusions", ("Class", "Taken for"), ["Images"])
    for one in confusions(predictions, count):
        table.add_row(
            class_name(predictions, one.label),
            class_name(predictions, one.guess),
            f"{one.images:,} of {one.label_images:,}",
        )
    return table


def calibration_table(predictions: Predictions) -> Table:
    """Return the reliability of the best guess's probability, bin by bin."""
    found = calibration(predictions)
    error = 100 * found.expected_error
    title = f"Best guess: probability and accuracy, %; expected error {error:.2f}"
    table = titled_table(title, numbers=("Between", "Images", "Probability", "Accuracy"))
    for one in found.bins:
        table.add_row(
            f"{100 * one.low:.0f}–{100 * one.high:.0f}",
            f"{one.images:,}",
            f"{100 * one.confidence:.1f}",
            f"{100 * one.accuracy:.1f}",
        )
    return table


def class_name(predictions: Predictions, index: int) -> Text:
    image_class = predictions.classes[index]
    words = image_class.words.partition(",")[0]
    return Text(f"{image_class.name} {words}".strip())


def paired_table(names: tuple[str, str], results: Sequence[PairedComparison]) -> Table:
    """Return a comparison of two networks on the same images."""
    # The names stand above: in the heads of columns there is no room for them.
    first, second = names
    title = f"{results[0].images:,} images, errors in %\nfirst:  {first}\nsecond: {second}"
    headings = ("First", "Second", "Difference (95 %)", "Right alone", "p")
    table = titled_table(title, [""], headings)
    for one in results:
        low, high = one.interval.low, one.interval.high
        table.add_row(
            f"top-{one.k}",
            f"{100 * one.first_errors / one.images:.2f}",
            f"{100 * one.second_errors / one.images:.2f}",
            f"{one.difference:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−"),
            f"{one.only_first:,} : {one.only_second:,}",
            f"{one.p_value:.2g}",
        )
    return table


def trials_table(trials: Sequence[PreprocessingTrial]) -> Table:
    """Return a network's errors on the same images with several preprocessings."""
    title = f"Preprocessings, {trials[0].counts.images:,} images, errors in %"
    names = ("Top-1", "Top-5") if has_top5(trials[0].num_classes) else ("Top-1",)
    table = titled_table(title, ["Preprocessing"], (*names, "p"))
    for one in trials:
        errors = (f"{one.counts.top1_error:.2f}", f"{one.counts.top5_error:.2f}")
        table.add_row(one.name, *errors[: len(names)], f"{one.p_value:.2g}")
    return table


def trials_verdict(trials: Sequence[PreprocessingTrial]) -> str:
    """Return a warning if another preprocessing is clearly better than the declared one."""
    better = [one for one in trials if one.is_clearly_better]
    if not better:
        return "no other preprocessing is clearly better"
    best = min(better, key=lambda one: one.counts.top1_error)
    return (
        f"warning: '{best.name}' is clearly better than the declared preprocessing: top-1 error "
        f"{best.counts.top1_error:.2f} against {trials[0].counts.top1_error:.2f} %; see what the "
        "network was trained on"
    )
