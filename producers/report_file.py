"""Where a report goes: found out before a long run begins, written whole or not at all.

The page is written beside its place and then renamed, so that a reader, or an interrupt, never
meets half of it; a report that was there before stays until then.
"""

import os
from pathlib import Path

from pipeline.errors import SettingError

SUFFIXES = (".html", ".htm")


class ReportFile:
    """The file of a report; making one refuses a place that could not be written.

    Examples
    --------
    >>> ReportFile(Path("report.pdf"))
    Traceback (most recent call last):
    pipeline.errors.SettingError: report 'report.pdf': expected a name that ends in .html
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise SettingError(f"report {str(path)!r}: expected a name that ends in .html")
        self.path = path
        # Of this process alone: another run may write the same report.
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._write("")
        self._beside.unlink()

    def save(self, page: str) -> None:
        """Put the page in its place."""
        try:
            self._write(page)
            self._beside.replace(self.path)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            self._beside.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        try:
            # Line ends as they are: the page is the same on every system.
            self._beside.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> SettingError:
        reason = error.strerror or type(error).__name__
        return SettingError(f"report {str(self.path)!r} cannot be written: {reason.lower()}")
