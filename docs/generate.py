"""Fill the documentation's pages with what code and recipes know: a hook of MkDocs (`mkdocs.yml`).

A line `<!-- table: NAME -->` of a page becomes the table of that name (`TABLES`), a line
`<!-- function: DOTTED.NAME -->` the signature and the docstring of a function or class. The first
page is README.md, and CONTRIBUTING.md is a page too: both live at the root, where others look. A
notebook becomes a page of its cells with their stored outputs.
"""

import base64
import inspect
import json
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from pipeline.cli.commands import app
from pipeline.config.cluster import Cluster
from pipeline.config.first_sentence import first_sentence
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.config.yaml import Section
from pipeline.data.loading.sampler import BatchSampler
from pipeline.models.summary import summarize_zoo
from pipeline.planning.hardware import read_hardware
from pipeline.results.published import protocol_passes, protocol_words, published
from pipeline.results.released import reproductions

DOCS = Path(__file__).parent
ROOT = DOCS.parent
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))
TRAINING_IMAGES = {name: data.train for name, data in read_hardware().data.items()}
TRAINING_IMAGES |= {"digits": 898, "mnist": 60_000, "mnist1d": 4_000, "hymenoptera_data": 244}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "null": "`null`"}
WORDS |= {"boolean": "`true`, `false`"}
DIRECTIVE = re.compile(r"^<!-- (table|function): ([\w.]+) -->$", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of files at the root."""
    from mkdocs.structure.files import File

    for name, source in (("index.md", "README.md"), ("contributing.md", "CONTRIBUTING.md")):
        text = as_page((ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text))
    for notebook in DOCS.rglob("*.ipynb"):
        name = str(notebook.relative_to(DOCS).with_suffix(""))
        text, pictures = notebook_page(notebook)
        files.append(File.generated(config, f"{name}.md", content=text))
        for picture, content in pictures.items():
            files.append(File.generated(config, f"{Path(name).parent}/{picture}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the directives of a page; links to a notebook lead to its page."""
    return DIRECTIVE.sub(_replace, re.sub(r"(\]\([\w./-]+)\.ipynb(?=[)#])", r"\1.md", markdown))


def notebook_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names of their files beside it."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    heading = ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [heading])[-1]
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{notebook.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{heading}]({name})")
            elif "text/html" in data:
                parts.append(_site_table("".join(data["text/html"])))
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    download = f'<a href="{notebook.name}" download>Download the notebook</a>'
    return "\n\n".join([*parts, download]) + "\n", pictures


def _site_table(html: str) -> str:
    """Return a table of pandas to be styled as those of the site, its head in one row."""
    found = re.search(r"<table.*</table>", html, re.DOTALL)
    assert found, "an output in HTML is no table"
    plain = re.sub(r' (class|border|style)="[^"]*"', "", found[0])
    return re.sub(
        r"<th></th>(.*?)</tr>\s*<tr>\s*<th>(\w+)</th>.*?</tr>(?=\s*</thead>)",
        r"<th>\2</th>\1</tr>",
        plain,
        flags=re.DOTALL,
    )


def as_page(text: str) -> str:
    """Return a text of the root with its links as a page of the site needs them."""
    text = re.sub(r"\]\(configs/recipes/(\w+)\.yaml\)", r"](recipes.md#\1)", text)
    text = text.replace("](CONTRIBUTING.md", "](contributing.md").replace(
        "](README.md", "](index.md"
    )
    return re.sub(r'(\]\(|src=")docs/', r"\1", text)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def recipes_table() -> str:
    rows = []
    for path in RECIPES:
        recipe = load_recipe(str(path))
        network, expect = recipe.network.name, recipe.expect
        errors = f"{_error(expect.top1_error)} / {_error(expect.top5_error)}" if expect else ""
        rows.append(
            (
                f"[{path.stem}](#{path.stem})" + f"<br>`{network}`" * (network != path.stem),
                first_sentence(path),
                f"{errors}<br>`{expect.protocol}`" if expect else "",
                f"{num_steps(recipe):,}",
                training_command(path),
            )
        )
    heads = ("Recipe, and its network", "Paper", "Expected, by", "Steps", "`ilsvrc train …`")
    return table(heads, rows)


def recipe_texts() -> str:
    parts = [
        f"## {path.stem} {{#{path.stem}}}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n"
        for path in RECIPES
    ]
    return "\n".join(parts)


def num_steps(recipe: Recipe) -> int:
    """Return the optimizer steps of a whole training."""
    num_images = TRAINING_IMAGES[recipe.data.name]
    return recipe.epochs * BatchSampler.of(recipe.batch, num_images, world_size=1).num_steps


def training_command(recipe: Path) -> str:
    """Return what stands behind `ilsvrc train` in a recipe's comment, name and options."""
    found = re.search(r"ilsvrc train (\w+) *([^\n&]*)", recipe.read_text(encoding="utf-8"))
    assert found, f"{recipe} names no command"
    name, options = found.groups()
    return f"`{name}`" + f"<br>`{options.strip()}`" * bool(options)


def networks_table() -> str:
    rows = [
        (
            f"`{network.name}`",
            "×".join(map(str, network.input_shape)),
            f"{network.num_classes:,}",
            network.profile.depth,
            f"{network.profile.trained_parameters:,}",
            f"{network.profile.multiply_adds:,}",
            "×".join(map(str, network.profile.receptive_field)),
        )
        for network in summarize_zoo().networks
    ]
    heads = ("Network", "Input", "Classes", "Layers", "Parameters", "Multiply-adds")
    return table((*heads, "Receptive field"), rows)


def protocols_table() -> str:
    names = dict.fromkeys(result.protocol for result in published())
    rows = [
        (
            f"`{name}`",
            protocol_words(name),
            protocol_passes(name) or "",
            sum(result.protocol == name for result in published()),
        )
        for name in sorted(names)
    ]
    return table(("Name", "In words", "Passes", "Published results"), rows)


def published_table() -> str:
    """Return all published results, network by network in the order of the file."""
    parts = []
    for network in dict.fromkeys(result.network for result in published()):
        rows = [
            (
                result.training_data,
                result.split,
                protocol_words(result.protocol),
                result.ensemble_size or "?",
                "" if result.extra_data == "none" else result.extra_data,
                _error(result.top1_error),
                _error(result.top5_error),
                f"{result.source} ({result.variant})" if result.variant else result.source,
                result.certainty,
            )
            for result in published()
            if result.network == network
        ]
        heads = ("Data", "Split", "Protocol", "Networks", "Extra data", "Top-1", "Top-5")
        parts.append(f"## {network}\n\n" + table((*heads, "Source", "Certainty"), rows) + "\n")
    return "\n".join(parts)


def released_table() -> str:
    """Return every published result that a released file reaches, with its command."""
    rows = [
        (
            f"`{each.result.network}`, [{each.file.file}]({each.file.page})<br>`{each.command}`",
            f"{_error(each.result.top1_error)} / {_error(each.result.top5_error)}",
            each.result.citation,
            f"{each.file.sees}<br>{protocol_words(each.result.protocol)}"
            + f"<br>*but for:* {each.file.differs}" * bool(each.file.differs),
        )
        for each in reproductions()
    ]
    return table(("Network, file, command", "Expected", "Source", "Preprocessing"), rows)


def commands() -> str:
    """Return every command with its arguments and options, as `--help` has them."""
    root = typer.main.get_command(app)
    context = root.make_context("ilsvrc", [], resilient_parsing=True)
    return "\n".join(_command_texts("ilsvrc", root, context))


def _command_texts(name: str, group: Any, context: Any) -> Iterator[str]:
    for key, command in group.commands.items():
        title = f"{name} {key}"
        inner = command.make_context(key, [], parent=context, resilient_parsing=True)
        yield f"{'#' * len(title.split())} `{title}`\n\n{command.help}\n"
        records = [parameter.get_help_record(inner) for parameter in command.params]
        rows = [(f"`{what}`", text) for what, text in filter(None, records)]
        yield table(("Argument or option", "What it is"), rows) + "\n" if rows else ""
        if hasattr(command, "commands"):
            yield from _command_texts(title, command, inner)


def keys(document: type[Section]) -> str:
    """Return every section of a YAML document with its keys, as its model checks them."""
    schema = document.model_json_schema()
    parts = []
    for path, section in _sections("", schema, schema["$defs"]):
        kind = section["properties"].get("kind", {}).get("const")
        title = f"`{path}`, of kind `{kind}`" if kind else f"`{path}`" if path else "The document"
        required = section.get("required", ())
        rows = [
            (f"`{key}`", _values(value), "*needed*" if key in required else _default(value))
            for key, value in section["properties"].items()
            if key != "kind"
        ]
        parts.append(f"### {title}\n\n{section['description']}\n")
        parts.append(table(("Key", "Values", "Without it"), rows) + "\n" if rows else "")
    return "\n".join(parts)


def _sections(path: str, section: Any, known: Any) -> Iterator[tuple[str, Any]]:
    yield path, section
    for key, value in section["properties"].items():
        for name in _references(value):
            yield from _sections(f"{path}.{key}" if path else key, known[name], known)


def _references(value: Any) -> list[str]:
    """Return the sections that a key may hold."""
    options = [value, *value.get("anyOf", ()), *value.get("oneOf", ())]
    return [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]


def _values(value: Any) -> str:
    """Say in words what a key of a JSON schema may hold."""
    if options := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_values, options)))
    if "$ref" in value:
        return "a section"
    if choices := value.get("enum", [value["const"]] if "const" in value else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "items" in value:
        return f"a list; each {_values(value['items'])}"
    if "prefixItems" in value:
        return f"{len(value['prefixItems'])} values; each {_values(value['prefixItems'][0])}"
    limits = [f"{sign} {value[name]}" for name, sign in LIMITS.items() if name in value]
    return ", ".join([WORDS.get(value.get("type"), value.get("type", "anything")), *limits])


def _default(value: Any) -> str:
    match value.get("default"):
        case None:
            return "`null`" if "default" in value else ""
        case dict() as section:
            return f"`{{kind: {section['kind']}, …}}`" if "kind" in section else "its defaults"
        case bool() as flag:
            return f"`{str(flag).lower()}`"
        case default:
            return f"`{default}`" if default != "" else ""


def function(name: str) -> str:
    """Return the signature and the docstring of what stands at a dotted name."""
    found = pydoc.locate(name)
    assert callable(found), f"{name}: no such function or class"
    signature = str(inspect.signature(found)).replace("'", "")
    signature = re.sub(r"(?:\b[a-z_]\w*\.)+(?=[A-Z])", "", signature)
    signature = re.sub(r"= <.*?>+(?=[,)])", "= …", signature)
    short = ".".join(re.findall(r"[A-Z]\w*|\w+$", name))
    if len(short + signature) > 80:
        signature = re.sub(r"\((.*)\)", r"(\n    \1,\n)", signature)
        signature = re.sub(r", (?=\w+:)", ",\n    ", signature)
    return f"`{name}`\n\n```python\n{short}{signature}\n```\n\n{inspect.getdoc(found)}"


def _replace(directive: re.Match[str]) -> str:
    kind, name = directive.groups()
    return TABLES[name]() if kind == "table" else function(name)


def _error(value: float | None) -> str:
    return "–" if value is None else str(value)


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipes_table,
    "recipe_texts": recipe_texts,
    "networks": networks_table,
    "protocols": protocols_table,
    "published": published_table,
    "released": released_table,
    "commands": commands,
    "recipe_keys": lambda: keys(Recipe),
    "cluster_keys": lambda: keys(Cluster),
}
