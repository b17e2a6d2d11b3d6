"""Text that comes from data, shown as text: in a terminal, in a page, in Markdown.

Names of classes, images and runs may hold what a terminal takes for a command, a browser for a tag,
or a reader for another order of the letters.
"""

import re

# Control characters of ASCII and Latin-1, line separators, halves of characters, and what changes
# the direction of the text that follows (Unicode Bidirectional Algorithm, table 4).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What begins code, emphasis, a tag, a cell, an entity, or the address of a link.
_MARKDOWN = re.compile(r"[\\`*<|]|&(?=#?\w+;)|\](?=[(\[:])")


def printable(text: str) -> str:
    """Return `text` on one line, with `_` in place of each character that isn't shown itself."""
    return _UNPRINTABLE.sub("_", text)


def printable_lines(text: str) -> str:
    """Return `text` without these characters, but with its line breaks and tabs.

    So it is as wide as before for who counts the columns of a terminal, where they take none.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else "", text)


def markdown_text(text: str) -> str:
    """Return Markdown that shows `text` as it is."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", printable(text))


def markdown_code(text: str) -> str:
    """Return Markdown that shows `text` as code, whatever backticks it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{printable(text)}{space}{fence}"
