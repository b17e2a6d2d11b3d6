"""The command line that a run is recorded with."""

import shlex

from pipeline.runtime.credentials import without_credentials


def command_line(arguments: list[str] | None) -> str | None:
    """Return the command `ilsvrc` with these arguments as a line for a shell, without credentials.

    None where there are no arguments: `main` gives them to the commands as their context's object,
    and a call from Python or a test does not.
    """
    if arguments is None:
        return None
    return shlex.join(["ilsvrc", *map(without_credentials, arguments)])
