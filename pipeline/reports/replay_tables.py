"""A step that was run again, as a table for a terminal."""

from rich.table import Table
from rich.text import Text

from pipeline.reports.tables import titled_table
from pipeline.training.step_inspection import InspectedStep

_MOST = 10


def replay_line(replayed: InspectedStep) -> str:
    """Return what the step was as a whole."""
    return (
        f"step {replayed.step}: loss {replayed.loss:.4g}, gradient norm "
        f"{replayed.gradient_norm:.4g}, learning rate {replayed.learning_rate:.3g}, "
        f"{len(replayed.images):,} images"
    )


def replay_table(replayed: InspectedStep) -> Table:
    """Return the images of the step with the highest loss."""
    table = titled_table("worst images")
    table.add_column("image")
    table.add_column("class")
    table.add_column("loss", justify="right")
    for image in replayed.images[:_MOST]:
        # Text, since a key may hold what rich reads as markup.
        table.add_row(Text(image.key), Text(image.class_name), f"{image.loss:.4g}")
    return table
