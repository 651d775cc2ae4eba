"""What a decoder of typed records passes over: the text, the depth and the keys of what it skips.

A key that comes twice means two things to two readers, so it is refused, wherever it stands.

>>> shape_problem(b'{"card_id":"c1","x":{"a":1,"a":2}}', frozenset({"card_id"}))
('every key once', 'a key twice')
>>> shape_problem(b'{"card_id":"c1","card_id":"c2"}', frozenset({"card_id"}))
('every key once', 'card_id twice')
>>> shape_problem(b'{"x":' + b"[" * 8 + b"]" * 8 + b"}", frozenset())
('at most 8 levels', '9 levels')
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

JSON_DEPTH_MAX = 8

# Texts, so that brackets in them are not counted, and brackets.
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]')


class _KeyTwice(Exception):  # noqa: N818 - it never leaves this module
    """A key came twice; the key is its argument."""


def colons_are_known(value: bytes, fields: int, *, has_time_in_text: bool) -> bool:
    """Say whether a record that was decoded holds so many known fields and nothing else.

    It has a colon for each at least, and a time as text two more. A text could hide its colons
    behind backslashes.
    """
    colons = value.count(b":")
    return colons == fields or (has_time_in_text and colons == fields + 2 and b"\\" not in value)


def shape_problem(value: bytes, known: Collection[str]) -> tuple[str, str] | None:
    """Say what was expected and what came instead, of JSON that a decoder has read to its end.

    Only `known` keys are named: any other may hold what must not be written down.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "a JSON object in UTF-8", "bytes that are no UTF-8"
    # Without so many brackets it cannot be so deep.
    if value.count(b"{") + value.count(b"[") > JSON_DEPTH_MAX:
        levels = _depth(value)
        if levels > JSON_DEPTH_MAX:
            return f"at most {JSON_DEPTH_MAX} levels", f"{levels} levels"
    try:
        _KEYS.decode(text)
    except _KeyTwice as error:
        key = error.args[0]
        return "every key once", f"{key if key in known else 'a key'} twice"
    except ValueError:
        return "a JSON object in UTF-8", "something else"
    return None


def _depth(value: bytes) -> int:
    deepest = level = 0
    for token in _TOKENS.findall(value):
        if token in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif token in b"]}":
            level -= 1
    return deepest


def _distinct(pairs: Sequence[tuple[str, Any]]) -> None:
    seen = {key for key, _ in pairs}
    if len(seen) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _KeyTwice(next(key for key in keys if keys.count(key) > 1))


# Numbers are not made: a long one would take its time, or be refused.
_KEYS = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_int=len, parse_float=len, parse_constant=len
)
