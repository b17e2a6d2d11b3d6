"""The command `ilsvrc`.

Nothing is imported before `main` can answer Ctrl-C, not even the commands.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer


def main() -> None:
    """Run the command; Ctrl-C at any time ends it in one line, or without one while it exits."""
    try:
        import atexit
        import signal

        from pipeline.runtime.interrupts import interrupt

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        from pipeline.cli.commands import app
        from pipeline.cli.console import one_line_errors

        with one_line_errors():
            try:
                _run(app)
            finally:  # before what others have registered, in which it would be a traceback
                atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        print("ilsvrc: interrupted", file=sys.stderr)
        sys.exit(130)


def _run(app: "Typer") -> None:
    try:
        app(obj=sys.argv[1:])
    except SystemExit as end:
        if end.code == 130:  # Typer's answer to Ctrl-C, which says nothing
            raise KeyboardInterrupt from None
        raise
