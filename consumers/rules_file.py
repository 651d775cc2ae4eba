"""The rules in force: those of a file that may change while the worker runs.

The file is looked at once a second. What it says is taken whole with the next batch, or refused
whole: then the rules before stay in force, one line says where the file is wrong, and
`fraud_rules_file_broken` stays 1 until it is mended.
"""

import asyncio
import logging
from pathlib import Path

from pipeline.counts import WorkerCounts
from pipeline.errors import RulesError
from pipeline.rules import Rules, load_rules, parse_rules, read_rules
from pipeline.schema import Schema
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class RulesFile:
    """The rules of a worker; `current` is what the next batch is judged by.

    Raises
    ------
    RulesError
        Where the file is broken at the start: then there are no rules to keep.
    """

    def __init__(self, settings: Settings, schema: Schema, counts: WorkerCounts) -> None:
        self._path = Path(settings.rules) if settings.rules else None
        self._schema, self._counts = schema, counts
        self._seen = None if self._path is None else read_rules(self._path)
        self.current: Rules = load_rules(settings, schema)

    async def follow(self) -> None:
        """Look at the file again and again; without one of its own, nothing can change."""
        while self._path is not None:
            await asyncio.sleep(LOOK_SECONDS)
            self.take(await asyncio.to_thread(_text_or_error, self._path))

    def take(self, found: str | RulesError) -> None:
        """Take the text of the file, or keep the rules in force where it is none."""
        said = str(found) if isinstance(found, RulesError) else found
        if said == self._seen:
            return
        self._seen = said
        try:
            if isinstance(found, RulesError):
                raise found
            rules = parse_rules(found, self._schema, place=str(self._path))
        except RulesError as error:
            self._counts.rules_refused += 1
            self._counts.rules_are_broken = True
            logger.error("rules refused: %s; in force stays %s", error, self.current.version)
            return
        self._counts.rules_taken += 1
        self._counts.rules_are_broken = False
        logger.warning("rules taken: %s instead of %s", rules.version, self.current.version)
        self.current = rules


def _text_or_error(path: Path) -> str | RulesError:
    try:
        return read_rules(path)
    except RulesError as error:
        return error
