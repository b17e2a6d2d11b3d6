"""The usual mistakes in YAML files, and the messages that name them."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from pipeline.config.yaml import (
    Section,
    digest,
    find_config_file,
    flatten,
    override,
    read_mapping,
    read_yaml,
    to_yaml,
    validate,
)
from pipeline.runtime.errors import UserError


class Round(Section):
    kind: Literal["round"] = "round"
    radius: float = 1.0


class Square(Section):
    kind: Literal["square"] = "square"
    side: float


class Drawing(Section):
    shape: Annotated[Round | Square, Field(discriminator="kind")]
    title: str = "untitled"
    sizes: tuple[int, ...] = ()


def write(folder: Path, text: str) -> Path:
    path = folder / "drawing.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\ntitle: b\n", "key 'title' stands on line 1 and again on line 2"),
        ("shape:\n  kind: round\n  kind: square\n", "'kind' stands on line 2 and again on line 3"),
        ("title: [a\n", "line 2: not valid YAML"),
        ("- a\n- b\n", "expected `key: value` lines"),
        ("", "expected `key: value` lines"),
        ("title: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("shape:\n  radius: 0x_\n", "line 2: not valid YAML: '0x_' is no int"),
        ("title: !!timestamp 2012-99-99\n", "'2012-99-99' is no timestamp"),
        ("title: !!timestamp today\n", "'today' is no timestamp"),
        ("title: !!bool maybe\n", "'maybe' is no bool"),
    ],
)
def test_bad_yaml_is_refused_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shape": {"kind": "round", "radus": 2}}, "'shape.radus' is not a known key; "
         "did you mean `radius`? there are: kind, radius"),
        ({"shape": {"kind": "round"}, "titel": "x"}, "'titel' is not a known key; "
         "did you mean `title`? there are: shape, title, sizes"),
        ({"shape": {"kind": "round"}, "radius": 2}, "'radius' is not a known key; there are: "
         "shape, title, sizes"),
        ({"shape": {"kind": "round", "radius": 1}, "radius": 2}, "'radius' is not a known key; "
         "did you mean `shape.radius`?"),
        ({"shape": {"kind": "square"}}, "'shape.side' is missing"),
        ({"shape": {"kind": "rund"}}, "'shape.kind': 'rund' is not known; did you mean `round`? "
         "there are: round, square"),
        ({"shape": {"kind:round": None}}, "'shape': 'kind:round' has no space after the colon; "
         "write `kind: round`"),
        ({"shape": {"kind": "square", "side:2": None}}, "write `side: 2`"),
        ({"shape": {"radius": 2}}, "'shape' needs the key kind"),
        ({"shape": 3}, "'shape': must be a section, as {key: value}, got 3"),
        ({"shape": {"kind": "round"}, "sizes": [1.5]}, "'sizes.0': must be a whole number, "
         "got 1.5"),
        ({"shape": {"kind": "round"}, "sizes": 3}, "'sizes': must be a list, as [1, 2], got 3"),
        ({"shape": {"kind": "round"}, "title": 3}, "'title': must be text; put it in quotes, "
         "got 3"),
        ({"shape": {"kind": "round", "radius": "wide"}}, "got 'wide'"),
        ({"shape": {"kind": "round", "radius": float("nan")}}, "got nan"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named(content: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(Drawing, content, "here.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("here.yaml: ")


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    content = read_yaml(write(tmp_path, "shape: {kind: square, side: 1e-4}\n"))
    assert validate(Drawing, content, "x").shape == Square(side=1e-4)


@pytest.mark.parametrize("date", ["2012-12-12", "2012-99-99"])
def test_a_date_is_a_string(tmp_path: Path, date: str) -> None:
    expected = {"title": date}
    assert read_yaml(write(tmp_path, f"title: {date}\n")) == expected
    assert read_mapping(f"{{title: {date}}}", "--set") == expected
    assert override({}, [f"title={date}"]) == expected
    drawing = Drawing(shape=Round(), title=date)
    assert validate(Drawing, read_yaml(write(tmp_path, to_yaml(drawing))), "x") == drawing


def test_an_override_fills_a_section_that_is_null() -> None:
    assert override({"shape": None}, ["shape.radius=2"]) == {"shape": {"radius": 2}}


def test_overrides_reach_into_sections_and_leave_the_original_alone() -> None:
    content = {"shape": {"kind": "round"}}
    changed = override(content, ["shape.radius=1e-3", "title=a b", "sizes=[1, 2]"])
    assert validate(Drawing, changed, "x") == Drawing(
        shape=Round(radius=1e-3), title="a b", sizes=(1, 2)
    )
    assert content == {"shape": {"kind": "round"}}


@pytest.mark.parametrize("assignment", ["title", "=3", ".a=3", "title.x=3", "sizes=[1", "a=0x_"])
def test_a_wrong_override_is_quoted(assignment: str) -> None:
    with pytest.raises(UserError, match="--set"):
        override({"title": "a"}, [assignment])


def test_a_wrong_mapping_is_quoted() -> None:
    with pytest.raises(UserError, match=r"--input \{a: 0x_\}: not a YAML mapping"):
        read_mapping("{a: 0x_}", "--input")


def test_the_digest_depends_on_values_only(tmp_path: Path) -> None:
    drawing = Drawing(shape=Round())
    same = read_yaml(
        write(tmp_path, "# a comment\ntitle: untitled\nshape: {radius: 1, kind: round}")
    )
    assert digest(validate(Drawing, same, "x")) == digest(drawing)
    assert digest(drawing.model_copy(update={"title": "other"})) != digest(drawing)


def test_a_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    drawing = Drawing(shape=Square(side=0.1), sizes=(3, 4))
    assert validate(Drawing, read_yaml(write(tmp_path, to_yaml(drawing))), "x") == drawing
    assert flatten(drawing) == {
        "shape.kind": "square", "shape.side": 0.1, "title": "untitled", "sizes": [3, 4],
    }  # fmt: skip


def test_an_unknown_name_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no recipe 'alexnett'.*alexnet"):
        find_config_file("alexnett", "recipes")
    with pytest.raises(UserError, match="no such file"):
        find_config_file("mine.yaml", "recipes")


def test_the_working_directory_comes_before_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "configs" / "recipes" / "alexnet.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config_file("alexnet", "recipes") == own


NINES = "x0: &x0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NINES, r"line 6: not valid YAML: its aliases stand for more than 100,000 values"),
        (NINES.replace("[", "{").replace("]", "}"), "not valid YAML"),
        (f"title: {'[' * 5000}{']' * 5000}\n", "line 1: not valid YAML: more than 50 levels"),
        ("sizes: &sizes [1, *sizes]\n", "line 1: not valid YAML: an alias of what it is a part"),
        (f"title: !!bool {'maybe ' * 10_000}\n", "is no bool|maybe"),
        (f"{'title' * 200}: a\n" * 2, r"titletitle.*… \("),
    ],
    ids=["sequences", "mappings", "levels", "recursive", "scalar", "key"],
)
def test_a_bomb_is_refused_in_a_short_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_yaml(write(tmp_path, text))
    assert len(str(error.value)) < 1500
    with pytest.raises(UserError) as error:
        override({}, [f"title={text}", "title.a=b"])
    assert len(str(error.value)) < 3500
    with pytest.raises(UserError) as error:
        read_mapping(text if "&" in text else "[]" + text, "--preprocessing")
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "value", ["x" * 100_000, list(range(100_000)), {"kind": "x" * 100_000}], ids=type
)
def test_a_long_value_is_shown_by_its_beginning(value: object) -> None:
    with pytest.raises(UserError) as error:
        validate(Drawing, {"shape": value}, "--set")
    assert len(str(error.value)) < 1500


def test_aliases_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "sizes: &sizes [1, 2]\nagain: *sizes\n")
    assert read_yaml(path) == {"sizes": [1, 2], "again": [1, 2]}
