"""The errors that end a command, each shown to the user as one line."""


class UserError(Exception):
    """A mistake or a missing thing outside the program, which the user can fix.

    The message names what is wrong, where (file and key), and how to fix it.
    """

    exit_code = 2


class DiskFullError(UserError):
    """The disk has no room for a file; the file that was there before is unchanged."""


class TrainingStoppedError(UserError):
    """Continuing is pointless; all workers find out at the same step, so that none is retried."""


class WorkerFailedError(Exception):
    """A worker died or raised an exception; the message names the file with its traceback."""

    exit_code = 1


class InterruptedByUserError(Exception):
    """Ctrl-C or a scheduler's signal, raised after the state has been saved.

    The message says how to continue.
    """

    exit_code = 130
