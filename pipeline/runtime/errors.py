"""How a command can end other than well, each told in one line."""


class UserError(Exception):
    """A mistake or a missing thing outside the program, which the user can mend.

    The message names what is wrong, where (file and key), and how to mend it.
    """

    exit_code = 2


class DiskFullError(UserError):
    """There is no room for a file; what was there before stays."""


class TrainingStoppedError(UserError):
    """Going on makes no sense; all workers find that at the same step, so that none is retried."""


class WorkerFailedError(Exception):
    """A worker died, or met a defect; the message names the file with its traceback."""

    exit_code = 1


class InterruptedByUserError(Exception):
    """Ctrl-C or a scheduler's signal, after the work has been put in order.

    The message says how to go on.
    """

    exit_code = 130
