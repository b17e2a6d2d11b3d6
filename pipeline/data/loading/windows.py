"""Windows: small batches in a row that are loaded together, as one, and cut apart afterwards."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from traceback import clear_frames
from typing import Protocol

import numpy as np
from torch import Tensor

from pipeline.data.loading.quarantine import Quarantine, damage_of
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


class Backend(Protocol):
    """Executes views: tensors of images or 1-D inputs, in the order of the views.

    Colour jitter is left to the `Loader`.
    """

    def __next__(self) -> Tensor: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LoadedBatch:
    """The images of `views`, in their order."""

    views: Views
    images: Tensor


def in_windows(views: Iterable[Views], max_views: int) -> Iterator[list[Views]]:
    """Gather consecutive batches of one shape, as many as have `max_views` views, or a single one.

    They must be alike in `boxes_per_image`.
    """
    window: list[Views] = []
    num_views = 0
    for batch in views:
        num_views += len(batch.images)
        if window and (num_views > max_views or batch.shape != window[0].shape):
            yield window
            window, num_views = [], len(batch.images)
        window.append(batch)
    if window:
        yield window


class WindowLoader:
    """Yields the batches of one window after another.

    With a quarantine, views that can't be decoded are left out of their batches. Without one, and
    where nothing of a batch is left, raises `UserError` that names the first image of the batch
    that can't be decoded, once all batches before have come.
    """

    def __init__(
        self,
        split: Split,
        views: Iterable[Views],
        execute: Callable[[Iterator[Views]], Backend],
        quarantine: Quarantine | None,
        max_views: int,
    ) -> None:
        self._split = split
        self._execute = execute
        self._quarantine = quarantine
        self._max_views = max_views
        self._windows: Iterator[list[Views]] = in_windows(views, max_views)
        self._in_flight: deque[list[Views]] = deque()
        self._failure: UserError | None = None  # comes after the last window
        self._backend = execute(self._begin())

    def __next__(self) -> list[LoadedBatch]:
        try:
            images = next(self._backend)
        except StopIteration:
            if self._failure:
                raise self._failure from self._failure.__cause__
            raise
        except UserError:
            raise
        except Exception as error:
            if not self._leave_out_damaged(error):
                raise
            return next(self)
        batches, start = [], 0
        for views in self._in_flight.popleft():
            end = start + len(views.images)
            batches.append(LoadedBatch(views, images[start:end]))
            start = end
        return batches

    def close(self) -> None:
        """Release threads and memory."""
        self._backend.close()

    def _begin(self) -> Iterator[Views]:
        for window in self._windows:
            self._in_flight.append(window)
            yield Views.joined(window)

    def _leave_out_damaged(self, error: Exception) -> bool:
        """Begin the batches in flight again without what can't be decoded, if there is such.

        A backend does not say which image it was, and can't be used after an error.
        """
        begun = list(chain.from_iterable(self._in_flight))
        damages = self._damages(begun)
        kept = []
        following = self._windows
        for views in begun:
            try:
                kept.append(views.take(self._rows_to_show(views, damages, error)))
            except UserError as failure:
                self._failure = failure
                following = iter(())
                break
        if sum(len(views.images) for views in kept) == sum(len(views.images) for views in begun):
            return False
        self._backend.close()
        clear_frames(error.__traceback__)  # they would keep its threads and memory
        self._in_flight.clear()
        # What isn't begun stays in its windows: one of them may be gathered in part.
        self._windows = chain(in_windows(kept, self._max_views), following)
        self._backend = self._execute(self._begin())
        return True

    def _damages(self, begun: list[Views]) -> dict[int, str]:
        """Return what is wrong with each damaged image; where PIL finds none, ask the backend.

        An error that every image alone gives too is no image's.
        """
        images = {image for views in begun for image in views.images.tolist()}
        found = {image: damage_of(self._split, image) for image in images}
        if damages := {image: damage for image, damage in found.items() if damage}:
            return damages
        unreadable = {
            image
            for views in begun
            for image in set(views.images.tolist())
            if not self._can_be_shown(views.take(np.flatnonzero(views.images == image).tolist()))
        }
        if unreadable == images:
            return {}
        return dict.fromkeys(unreadable, "the image can't be decoded here, though PIL reads it")

    def _rows_to_show(
        self, views: Views, damages: Mapping[int, str], error: Exception
    ) -> list[int]:
        rows = []
        for row, image in enumerate(views.images.tolist()):
            damage = damages.get(image)
            # A part of a damaged image may well be decoded, which must not depend on what else is
            # in flight: its view is tried alone.
            if damage is None or self._can_be_shown(views.take([row])):
                rows.append(row)
            elif self._quarantine is None:
                raise UserError(
                    f"{self._split.location(image)}: {damage}; run `ilsvrc prepare` again"
                ) from error
            else:
                self._quarantine.add(image, damage)
        if not rows:
            raise UserError(
                f"{self._split.location(int(views.images[0]))}: no image of its batch can be "
                "decoded; run `ilsvrc prepare` again"
            ) from error
        return rows

    def _can_be_shown(self, view: Views) -> bool:
        backend = self._execute(iter([view]))
        try:
            next(backend)
        except Exception:  # backends have errors of their own
            return False
        finally:
            backend.close()
        return True
