import io

from rich.table import Table
from rich.text import Text

from pipeline.cli.console import Console, say


def test_a_terminal_shows_styles_and_no_command_from_data() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    table = Table("Class")
    table.add_row(Text("a\x1b[31mb\x9bc\u202ed\rx", style="bold"))
    console.print(table)
    say(console, "[red]two\nlines\x1b]0;title\x07")
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1ma[31mbcd" in printed
    assert "[red]two\nlines]0;title" in printed
    assert not {"\x9b", "\u202e", "\x07", "\r"} & set(printed)
