"""Whether a packed data set's files are what was written, for tests that kill and repair."""

from pipeline.data.sources.verify import verify
from pipeline.data.store.store import Store


def is_intact(store: Store) -> bool:
    return verify(store, 0, lambda done, total: None).is_intact
