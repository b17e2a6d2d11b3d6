"""A run's description: what it is, its result with the verdict, and the command."""

from pipeline.evaluation.metrics import Counts
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.tracking.run_note import run_note


def test_a_result_stands_beside_what_is_published() -> None:
    key = ResultKey("resnet18", "ilsvrc2012", "val", "center-256-224")
    counts = Counts(top1_hits=34785, top5_hits=44620, images=50_000)  # 30.43 and 10.76 %
    note = run_note("`resnet18` trained.", [Measured(key, counts)], "ilsvrc train resnet18")
    first, line, again = note.split("\n\n")
    assert first == "`resnet18` trained."
    assert line == (
        "- top-1 error **30.43 (30.03–30.83) %**, top-5 error **10.76 (10.49–11.03) %** on val by "
        "1 crop (224 of 256); 30.43 / 10.76 in fb.resnet.torch: reproduced"
    )
    assert again == "Again: `ilsvrc train resnet18`"


def test_what_is_not_published_or_not_known_is_not_claimed() -> None:
    key = ResultKey("lenet5", "photos", "val", "whole")
    note = run_note("Words.", [Measured(key, Counts(9, 10, 10), num_classes=4)], None)
    assert note.startswith("Words.\n\n- top-1 error **10.00 (")
    assert "top-5" not in note
    assert note.endswith("nothing is published of this")
    assert run_note("Words.", (), None) == "Words."
