"""When a collection is kept in its file while it goes on, and how it goes on from there."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.stats.collection import Collection, Plan

EVERY = 30.0  # seconds of collecting that may be lost
SHARE = 0.05  # of the time may go into writing

_log = logging.getLogger(__name__)


class Checkpoint:
    """A collection's file: written every EVERY seconds, or less often where writing would take more than SHARE."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = time.monotonic()
        self._took = 0.0

    def offer(self, collection: Collection) -> None:
        """Write the collection if it is time. Raises StorageError; the file of before is whole then."""
        passed = time.monotonic() - self._written
        if passed < EVERY or passed * SHARE < self._took:
            return
        began = time.monotonic()
        collection.save(self.path)
        self._written = time.monotonic()
        self._took = self._written - began


def resumed(path: Path, plan: Plan) -> Collection | None:
    """The collection of this plan that was left in the file, None where there is none.

    One that is damaged or of another plan is logged as a warning and not used.
    """
    if not path.exists():
        return None
    try:
        found = Collection.load(path)
    except (StatisticsError, StorageError) as error:
        _log.warning("the checkpoint cannot be used, collecting from the start: %s", error)
        return None
    if found.plan.key != plan.key:
        _log.warning("the checkpoint %s is of another collection, collecting from the start", path)
        return None
    _log.info("going on from %s at %d of %d tokens", path, found.tokens, plan.about.tokens)
    return found


def remove(path: Path) -> None:
    """Remove a checkpoint that is not needed any more, and what a killed process left of one."""
    for left in (path, *path.parent.glob(f".{path.name}.*.tmp")):
        left.unlink(missing_ok=True)
