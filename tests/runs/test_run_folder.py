from pathlib import Path

from pipeline.runs.run_folder import RunFolder


def test_the_last_day_is_that_of_the_last_metric(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_day() == ""
    lines = ['{"step": 1, "time": 1795977336811, "metrics": {"train/time": 3}}',
             '{"step": 2, "time": 1796083199000, "metrics": {"train/loss": 0.5}}']  # fmt: skip
    folder.metrics.write_text("\n".join(lines) + "\n")
    assert folder.last_day() == "2026-11-30"  # a second before midnight, UTC
