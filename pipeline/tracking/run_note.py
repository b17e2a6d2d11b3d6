"""What MLflow shows as the description of a run: what it is, its result, how to repeat it."""

from collections.abc import Iterable

from pipeline.results.measured import Measured
from pipeline.results.published import Published, protocol_words
from pipeline.results.reproduction import check_reproduction
from pipeline.runtime.plain_text import markdown_code

NOTE = "mlflow.note.content"


def run_note(what: str, results: Iterable[Measured], command: str | None) -> str:
    """Return the description, in Markdown.

    what: a sentence in Markdown. results: each gets a line with its verdict against the published
    number.
    """
    lines = [f"- {_words(result)}" for result in results]
    repeat = [f"Again: {markdown_code(command)}"] if command else []
    return "\n\n".join([what, *(["\n".join(lines)] if lines else []), *repeat])


def _words(result: Measured) -> str:
    errors = ", ".join(f"{error.name} error **{error} %**" for error in result.errors)
    key = result.key
    line = f"{errors} on {key.split} by {protocol_words(key.protocol)}"
    if reproduction := check_reproduction(result):
        reference = reproduction.reference
        return f"{line}; {reference.errors} in {reference.citation}: {reproduction.words}"
    return f"{line}; nothing is published of this"


def published_note(result: Published) -> str:
    """Return the description of a published result, as that of a run."""
    named = {"top-1": result.top1_error, "top-5": result.top5_error}
    errors = ", ".join(
        f"{name} error **{error} %**" for name, error in named.items() if error is not None
    )
    what = f"`{result.network}` trained on {result.training_data}, as published."
    words = f"- {errors} on {result.split} by {protocol_words(result.protocol)}"
    return "\n\n".join([what, words, f"Source: {result.citation}."])
