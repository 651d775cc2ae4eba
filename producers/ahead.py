"""Work done ahead on a thread of its own, so that a schedule is not held up by it.

Making a day or reading a chunk takes tens of milliseconds. While records leave at a set pace, the
next ones are prepared meanwhile, and never more than a few.

>>> list(ahead(iter([1, 2, 3]), items_max=2))
[1, 2, 3]
"""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
# How soon the thread notices that nobody takes its items any more.
POLL_SECONDS = 0.1


class _End:
    """Comes after the last item; `error` is what ended the iteration, if anything did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def ahead(items: Iterable[Item], *, items_max: int) -> Generator[Item]:
    """Give the items, with up to `items_max` prepared before they are asked for.

    What the items raise is raised here, after those before it.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(items_max)
    abandoned = threading.Event()
    worker = threading.Thread(target=_prepare, args=(items, ready, abandoned), daemon=True)
    worker.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        abandoned.set()
        worker.join()


def _prepare(
    items: Iterable[Item], ready: "queue.Queue[Item | _End]", abandoned: threading.Event
) -> None:
    end = _End()
    try:
        for item in items:
            if not _handed_over(item, ready, abandoned):
                return
    except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
        end = _End(error)
    _handed_over(end, ready, abandoned)


def _handed_over(
    item: Item | _End, ready: "queue.Queue[Item | _End]", abandoned: threading.Event
) -> bool:
    while not abandoned.is_set():
        try:
            ready.put(item, timeout=POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
