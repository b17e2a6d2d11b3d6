"""What is wrong in a configuration, in one line and in the words of this project."""

import reprlib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from pipeline.runtime.names import suggest

# By the types of pydantic's errors; in braces, their context.
_MUST = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "tuple_type": "must be a list, as [1, 2]",
    "list_type": "must be a list, as [1, 2]",
    "too_short": "must have at least {min_length} values",
    "too_long": "must have at most {max_length} values",
    "dict_type": "must be a section, as {{key: value}}",
    "model_type": "must be a section, as {{key: value}}",
    "model_attributes_type": "must be a section, as {{key: value}}",
    "none_required": "must be null",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 3


def first_problem(error: ValidationError, content: dict[str, Any]) -> str:
    """Name the first wrong key of `content` and what mends it, and how many more are wrong."""
    problem = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{_words(problem, content)}{more}"


def _words(problem: Any, content: dict[str, Any]) -> str:
    key = ".".join(_keys(problem["loc"], content))
    given, context = problem["input"], problem.get("ctx", {})
    if unspaced := _without_space(given):
        name, _, value = unspaced.partition(":")
        where = f"'{key}': " if key else ""
        return f"{where}'{unspaced}' has no space after the colon; write `{name}: {value}`"
    match problem["type"]:
        case "unknown_key":
            unknown, known = context["key"], context["known"].split(", ")
            whole = f"{key}.{unknown}".removeprefix(".")
            elsewhere = (place for place in _places(unknown, content) if place != whole)
            if deeper := next(elsewhere, None):
                return f"'{whole}' is not a known key; did you mean `{deeper}`?"
            return f"'{whole}' is not a known key; {suggest(unknown, known)}"
        case "missing":
            return f"'{key}' is missing; add it"
        case "union_tag_not_found":
            return f"'{key}' needs the key kind, as {{kind: …}}"
        case "union_tag_invalid":
            known = context["expected_tags"].replace("'", "").split(", ")
            tag = context["tag"]
            return f"'{key}.kind': '{tag}' is not known; {suggest(tag, known)}"
        case "literal_error":
            known = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            return f"'{key}': {_SHORT.repr(given)} is not known; {suggest(str(given), known)}"
        case "value_error":
            message = str(context["error"])
            return f"'{key}': {message}" if key else message
        case kind:
            message = _MUST.get(kind, "is of no kind that is known here").format(**context)
            return f"'{key}': {message}, got {_SHORT.repr(given)}"


def _without_space(given: object) -> str:
    """Return the key of `{a:1}`, which YAML reads as the key `a:1` without a value."""
    for key, value in given.items() if isinstance(given, dict) else ():
        if isinstance(key, str) and ":" in key and value is None:
            return key
    return ""


def _places(name: str, content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the places of the key `name` inside the sections of `content`."""
    for key, value in content.items():
        if isinstance(value, dict):
            if name in value:
                yield f"{prefix}{key}.{name}"
            yield from _places(name, value, f"{prefix}{key}.")


def _keys(location: tuple[int | str, ...], content: object) -> Iterator[str]:
    """Yield the keys that a user writes: pydantic adds a union's tag, ("schedule", "step", …)."""
    for part in location:
        if isinstance(content, dict):
            if content.get("kind") == part:
                continue
            content = content.get(part)
        yield str(part)
