"""What a recipe or cluster is, as the comment on top of its file says."""

import re
from pathlib import Path


def first_sentence(file: Path) -> str:
    """Return the first sentence of the file's first comment, without its stop; empty without one.

    A recipe's names its network, data and paper.
    """
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:])
    found = re.match(r".*?[.?](?<!al\.)(?<!Fig\.)(?= [A-Z0-9`]|$)", " ".join(lines))
    return found[0].removesuffix(".") if found else ""
