"""The user and password in a URL, which nothing that is shown or stored may hold."""

import re

# To the last @ of the host, since a password may hold one.
_CREDENTIALS = re.compile(r"(?<=://)[^/?#]+@")


def credentials_of(text: str) -> str:
    """Return the `user:password@` of the first URL in `text` that has them, else nothing."""
    found = _CREDENTIALS.search(text)
    return found[0] if found else ""


def without_credentials(text: str) -> str:
    """Return `text` without the `user:password@` of its URLs, as it may be shown and stored."""
    return _CREDENTIALS.sub("", text)
