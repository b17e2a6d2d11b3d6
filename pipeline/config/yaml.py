"""Typed YAML documents: read strictly, override by key, flatten, digest.

YAML as such keeps the last of two repeated keys, and PyYAML reads `1e-4` as a string; both have
cost people trainings. Here a repeated key is refused and every value is checked against a frozen
pydantic model that knows its own fields and no others.
"""

import copy
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.runtime.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of a document that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Document = TypeVar("Document", bound=Section)


_TAG = "tag:yaml.org,2002:"


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error and a date is a word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # as PyYAML leaves `0x_` to Python
            problem = f"'{node.value}' is no {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"the key '{key}' on line {line} is not a word")
            if key in seen:
                raise UserError(
                    f"key '{key}' stands on line {seen[key]} and again on line {line}; keep one"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; `UserError` names the file, and the line where YAML itself is wrong."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}{where}: not valid YAML: {problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    return content


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """Read a YAML mapping that is given as text, as strictly as a file; `UserError` says where."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except (UserError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{where} {text}: not a YAML mapping, as {{key: value}}")
    return content


def find_document(name: str, folder: str) -> Path:
    """Find a document by path or by name in `configs/<folder>`.

    The working directory's own `configs/` comes before the project's, so that a user can keep
    recipes of their own beside their data.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path.absolute()
    known = {path.stem: path for path in documents(folder)}
    if name in known:
        return known[name]
    raise UserError(
        f"no {folder.removesuffix('s')} '{name}' in {Path.cwd() / 'configs' / folder}; there are: "
        f"{', '.join(known) or 'none'}, or give the path of a .yaml file"
    )


def documents(folder: str) -> list[Path]:
    """Return what there is in `configs/<folder>`, by name; the working directory's comes first."""
    project = Path(__file__).parents[2]
    found: dict[str, Path] = {}
    for base in (Path.cwd(), project):
        for path in sorted((base / "configs" / folder).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return [found[name] for name in sorted(found)]


def override(content: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return `content` with each `section.key=value` applied; values are read as YAML."""
    result = copy.deepcopy(content)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {assignment}: write it as section.key=value")
        try:
            value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
        except (UserError, yaml.YAMLError):
            raise UserError(f"--set {assignment}: '{text}' is not a YAML value") from None
        target = result
        for key in keys[:-1]:
            if target.get(key) is None:  # as a resolved document has a section that is left out
                target[key] = {}
            target = target[key]
            if not isinstance(target, dict):
                raise UserError(f"--set {assignment}: '{key}' holds a value, not a section")
        target[keys[-1]] = value
    return result


def validate(model: type[Document], content: dict[str, Any], where: str | Path) -> Document:
    """Make `model` of `content`; `UserError` names the first wrong key of `where` and its mend."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(model, error, content)}") from None


def flatten(document: Section) -> dict[str, Any]:
    """Return `{"section.key": value}` for every leaf; lists count as leaves."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", document.model_dump(mode="json"))
    return flat


def digest(document: Section) -> str:
    """Return the SHA-256 of the document's content, as 64 hexadecimal digits.

    Key order, comments and defaults written out or left out make no difference.
    """
    canonical = json.dumps(document.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def to_yaml(document: Section) -> str:
    """Return the resolved document as YAML, in the model's own field order."""
    return yaml.safe_dump(document.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _first_problem(model: type[Section], error: ValidationError, content: dict[str, Any]) -> str:
    problem = error.errors()[0]
    place = ".".join(_keys(problem["loc"], content)) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    match problem["type"]:
        case "extra_forbidden":
            known = ", ".join(_known_keys(model, problem["loc"]))
            return f"'{place}' is not a known key; there are: {known}{more}"
        case "missing":
            return f"'{place}' is missing; add it{more}"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            if not problem["loc"]:
                return f"{message}{more}"
            return f"'{place}': {message}, got {problem['input']!r}{more}"


def _keys(place: tuple[int | str, ...], content: object) -> Iterator[str]:
    """The keys that a user writes: a union adds its tag to the place, ("schedule", "step", …)."""
    for part in place:
        if isinstance(content, dict):
            if content.get("kind") == part:
                continue
            content = content.get(part)
        yield str(part)


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields beside the unknown key at `place`, tags of unions resolved."""
    candidates: list[type[BaseModel]] = [model]
    for part in place[:-1]:
        inner = [
            kind
            for candidate in candidates
            if part in candidate.model_fields
            for kind in _sections_in(candidate.model_fields[str(part)].annotation)
        ]
        if inner:
            candidates = inner
        else:
            candidates = [
                candidate
                for candidate in candidates
                if "kind" in candidate.model_fields
                and candidate.model_fields["kind"].default == part
            ] or candidates
    return list(dict.fromkeys(name for kind in candidates for name in kind.model_fields))


def _sections_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [section for part in inner for section in _sections_in(part)]
