"""Typed YAML files: read strictly, override by key, flatten, digest.

YAML itself keeps the last of two repeated keys, and PyYAML reads `1e-4` as a string; both have
spoiled trainings. Here a repeated key is refused, and every value is checked against a frozen
pydantic model that refuses unknown keys.
"""

import copy
import hashlib
import json
from collections.abc import Hashable, Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.config_errors import first_problem
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of a configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, content: object) -> object:
        """Name the known keys, which pydantic's own refusal doesn't."""
        for key in content if isinstance(content, dict) else ():
            if key not in cls.model_fields:
                known = {"key": key, "known": ", ".join(cls.model_fields)}
                raise PydanticCustomError("unknown_key", "{key} is not among {known}", known)
        return content


AnySection = TypeVar("AnySection", bound=Section)

_TAG = "tag:yaml.org,2002:"
_MOST_LEVELS = 50
_MOST_VALUES = 100_000  # once every alias is replaced by what it stands for


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error and a date is a string.

    Levels and values are bounded, since a few lines of nested aliases stand for a billion values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._num_values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        first = self.peek_event()
        self._level += 1
        if self._level > _MOST_LEVELS:
            self._refuse(f"more than {_MOST_LEVELS} levels", first)
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(first, yaml.AliasEvent):
            if node not in self._num_values:
                self._refuse("an alias of what it is a part of", first)
            return node
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in children for part in pair]
        assert node is not None
        self._num_values[node] = 1 + sum(self._num_values[child] for child in children)
        if self._num_values[node] > _MOST_VALUES:
            self._refuse(f"its aliases stand for more than {_MOST_VALUES:,} values", first)
        return node

    def _refuse(self, problem: str, event: yaml.Event) -> NoReturn:
        mark: Any = event.start_mark  # typed as if the loader could be the one in C
        raise yaml.composer.ComposerError(problem=problem, problem_mark=mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # as Python raises for `0x_`
            problem = f"'{node.value}' is no {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"the key '{key}' on line {line} is not a word")
            if key in lines:
                raise UserError(
                    f"key '{key}' stands on line {lines[key]} and again on line {line}; keep one"
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; `UserError` names the file, and the line of a syntax error."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except UserError as error:
        raise UserError(f"{path}: {shortened(str(error))}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {shortened(str(error.problem))}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    return content


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """Read a YAML mapping from `text`, as strictly as a file; `UserError` begins with `where`."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except (UserError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{where} {shortened(text)}: not a YAML mapping, as {{key: value}}")
    return content


def find_config_file(name: str, folder: str) -> Path:
    """Return the file with the path `name`, or with that name in `configs/<folder>`.

    The working directory's own `configs/` comes before the one that is installed with the package,
    so that users can keep their recipes beside their data. Raises `UserError` where there is no
    such file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path.absolute()
    known = {path.stem: path for path in config_files(folder)}
    if name in known:
        return known[name]
    kind = folder.removesuffix("s")
    raise UserError(
        f"no {kind} '{name}' in {Path.cwd() / 'configs' / folder} or installed; "
        f"{suggest(name, known)}; or give the path of a .yaml file"
    )


def config_files(folder: str) -> list[Path]:
    """Return the files of `configs/<folder>` by name, the working directory's before others."""
    installed = Path(str(resources.files("pipeline"))) / "configs"  # in a clone, a link to it
    found: dict[str, Path] = {}
    for base in (Path.cwd() / "configs", installed.resolve()):
        for path in sorted((base / folder).glob("*.yaml")):
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
            where = shortened(assignment)
            raise UserError(f"--set {where}: '{shortened(text)}' is not a YAML value") from None
        target = result
        for key in keys[:-1]:
            if target.get(key) is None:  # a section that is left out is null in resolved files
                target[key] = {}
            target = target[key]
            if not isinstance(target, dict):
                raise UserError(f"--set {assignment}: '{key}' holds a value, not a section")
        target[keys[-1]] = value
    return result


def validate(model: type[AnySection], content: dict[str, Any], where: str | Path) -> AnySection:
    """Make a `model` of `content`; `UserError` names `where`, the first wrong key and the fix."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {shortened(first_problem(error, content))}") from None


def flatten(config: Section) -> dict[str, Any]:
    """Return `{"section.key": value}` for every leaf; lists count as leaves."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", config.model_dump(mode="json"))
    return flat


def digest(config: Section) -> str:
    """Return the SHA-256 of the values, as 64 hexadecimal digits.

    Key order, comments and whether defaults are written out make no difference.
    """
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def to_yaml(config: Section) -> str:
    """Return all values, defaults included, as YAML in the model's field order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def shortened(text: str) -> str:
    """Return the beginning of a text that is too long for a message."""
    return text if len(text) <= 1000 else f"{text[:1000]}… ({len(text):,} characters)"
