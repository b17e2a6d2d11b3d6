"""Tables of predictions: of few classes, no top-5 error, which is always 0."""

import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.predictions import PredictionMetadata, Predictions
from pipeline.evaluation.significance import PreprocessingTrial, compare_paired
from pipeline.reports.comparison_tables import comparison_markdown, result_tables
from pipeline.reports.prediction_tables import (
    classes_table,
    errors_table,
    paired_table,
    result_line,
    trials_table,
)
from pipeline.results.measured import measured_from_predictions, result_tags


def predictions_of(num_classes: int) -> Predictions:
    """Six images; every second one is right at the first guess, the others at the second."""
    metadata = PredictionMetadata(
        network="n", training_data="photos", data="photos", data_digest="d", split="val",
        protocol="whole", weights_digest="w", run="mine",
    )  # fmt: skip
    labels = np.arange(6) % 2
    return Predictions(
        keys=tuple(map(str, range(6))),
        labels=labels,
        probabilities=np.full((6, num_classes), 1 / num_classes, np.float16),
        ranks=(np.arange(6) % 2).astype(np.int32),
        guesses=np.tile(np.arange(min(5, num_classes), dtype=np.int32), (6, 1)),
        classes=tuple(ImageClass(i, f"n{i:08d}", "a", None) for i in range(num_classes)),
        metadata=metadata,
    )


def shown(predictions: Predictions) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(result_line(predictions))
    console.print(errors_table(predictions, (1, 5)))
    console.print(classes_table(predictions, 2))
    result = measured_from_predictions(predictions)
    console.print(*result_tables([result], 200))
    console.print(result_tags([result]))
    trial = PreprocessingTrial("as declared", predictions.counts, len(predictions.classes))
    console.print(trials_table([trial]))
    results = comparison_markdown([result]).partition("\n\n")[0]
    return out.getvalue() + results + str(predictions.counts.metrics(len(predictions.classes)))


@pytest.mark.parametrize("num_classes", [2, 5, 6])
def test_top5_is_left_out_where_there_are_five_classes_or_fewer(num_classes: int) -> None:
    text = shown(predictions_of(num_classes)).lower()
    assert "50.00" in text
    assert ("top-5" in text) == (num_classes > 5)
    assert ("top5" in text) == (num_classes > 5)
    assert ("0.00 (0.00" in text) == (num_classes > 5)


def test_the_names_of_compared_networks_are_whole_in_80_columns() -> None:
    compared = [compare_paired(predictions_of(6), predictions_of(6), k) for k in (1, 5)]
    names = tuple(f"a-long-name-of-a-training-{end} center-256-224" for end in ("one", "two"))
    out = io.StringIO()
    Console(file=out, width=80).print(paired_table((names[0], names[1]), compared))
    text = out.getvalue()
    assert all(name in text for name in names)
    assert max(map(len, text.splitlines())) <= 80
    assert "0 : 0" in text
