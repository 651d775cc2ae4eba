"""No card number leaves a process in what it says: log lines, tracebacks, uncaught errors.

>>> import io
>>> page = io.StringIO()
>>> handler = logging.StreamHandler(page)
>>> handler.setFormatter(MaskingFormatter(handler.formatter))
>>> handler.handle(logging.makeLogRecord({"msg": "refused: %s", "args": ("4111111111111111",)}))
True
>>> page.getvalue().rstrip()
'refused: ****************'
"""

import logging
import sys
import threading
from traceback import format_exception
from types import TracebackType

from pipeline.card_numbers import mask_card_numbers_in_text


class MaskingFormatter(logging.Formatter):
    """Says what another formatter says, its traceback too, with card numbers masked."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return mask_card_numbers_in_text(self._inner.format(record))


def mask_logs() -> None:
    """Mask what every handler of the root logger writes; once is enough."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, MaskingFormatter):
            handler.setFormatter(MaskingFormatter(handler.formatter))


def mask_uncaught() -> None:
    """Mask the traceback of an error that nobody caught, in any thread."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(format_exception(kind, error, trace))
        sys.stderr.write(mask_card_numbers_in_text(text))

    def show_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None and found.exc_type is not SystemExit:
            show(found.exc_type, found.exc_value, found.exc_traceback)

    sys.excepthook, threading.excepthook = show, show_thread
