"""The one family of errors that a user can mend."""


class UserError(Exception):
    """A mistake or a missing thing outside the program; the command prints it in one line.

    The message names what is wrong, where (file and key), and how to mend it. Everything else
    that is raised is a defect of this program and keeps its traceback.
    """
