"""A step that was run again, as a table for a terminal."""

from rich.table import Table

from pipeline.reports.tables import titled_table
from pipeline.training.sight import Replayed

_MOST = 10


def replay_table(replayed: Replayed) -> Table:
    """Return the images of the step with the highest loss, under what the step was as a whole."""
    table = titled_table(
        f"step {replayed.step}: loss {replayed.loss:.4g}, gradient norm "
        f"{replayed.gradient_norm:.4g}, learning rate {replayed.learning_rate:.3g}, "
        f"{len(replayed.images):,} images"
    )
    table.add_column(f"worst {min(_MOST, len(replayed.images))} images")
    table.add_column("class")
    table.add_column("loss", justify="right")
    for image in replayed.images[:_MOST]:
        table.add_row(image.key, image.class_name, f"{image.loss:.4g}")
    return table
