"""The table of a replayed training step for a terminal."""

from rich.table import Table
from rich.text import Text

from pipeline.reports.tables import titled_table
from pipeline.training.step_inspection import InspectedStep

_MAX_IMAGES = 10


def replay_line(step: InspectedStep) -> str:
    """Return the figures of the whole step, in one line."""
    return (
        f"step {step.step}: loss {step.loss:.4g}, gradient norm "
        f"{step.gradient_norm:.4g}, learning rate {step.learning_rate:.3g}, "
        f"{len(step.images):,} images"
    )


def replay_table(step: InspectedStep) -> Table:
    """Return the images of the step with the highest loss."""
    table = titled_table("worst images")
    table.add_column("image")
    table.add_column("class")
    table.add_column("loss", justify="right")
    for image in step.images[:_MAX_IMAGES]:
        # Text, since a key may hold what rich reads as markup.
        table.add_row(Text(image.key), Text(image.class_name), f"{image.loss:.4g}")
    return table
