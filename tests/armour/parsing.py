"""Parsing and encoding: what is JSON in UTF-8, to the byte."""

from pipeline.strict_json import JSON_DEPTH_MAX
from tests.armour.cases import AMOUNT, GOOD, SECRET, Case


def _malformed(name: str, value: bytes | None, said: str = "") -> Case:
    return Case(name, value, "malformed", "$", said)


def _added(text: bytes) -> bytes:
    return GOOD[:-1] + b"," + text + b"}"


_NOT_JSON = (
    _malformed("null value", None, "a null value"),
    _malformed("nothing", b""),
    _malformed("blanks", b"   "),
    _malformed("half an object", b"{"),
    _malformed("no quotes", b"{transaction_id: 1}"),
    _malformed("single quotes", GOOD.replace(b'"', b"'")),
    _malformed("cut off in a text", GOOD[:-3]),
    _malformed("cut off before the end", GOOD[:-1]),
    _malformed("something after it", GOOD + b" x"),
    _malformed("two in one record", GOOD + GOOD),
    _malformed("comma before the end", GOOD[:-1] + b",}"),
    _malformed("comment", b"/* */" + GOOD),
    _malformed("NaN", GOOD.replace(AMOUNT, b"NaN")),
    _malformed("Infinity", GOOD.replace(AMOUNT, b"Infinity")),
    _malformed("minus Infinity", GOOD.replace(AMOUNT, b"-Infinity")),
    _malformed("NaN in an unknown field", _added(b'"x":NaN')),
    _malformed("leading zero", GOOD.replace(AMOUNT, b"09.50")),
    _malformed("leading plus", GOOD.replace(AMOUNT, b"+9.50")),
    _malformed("hexadecimal", GOOD.replace(AMOUNT, b"0x10")),
    _malformed("raw control character", GOOD.replace(b"c1", b"c\n1")),
    _malformed("raw control character in an unknown field", _added(b'"x":"a\nb"')),
    _malformed("unknown escape in an unknown field", _added(rb'"x":"\q"')),
    _malformed("compressed", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
)
_ENCODING = (
    _malformed("byte that is no UTF-8", GOOD.replace(b"c1", b"\xff")),
    _malformed("byte that is no UTF-8 in an unknown field", _added(b'"x":"\xff"'), "no UTF-8"),
    _malformed("byte that is no UTF-8 in an unknown key", _added(b'"\xff":1'), "no UTF-8"),
    _malformed("surrogate in UTF-8 in an unknown field", _added(b'"x":"\xed\xa0\x80"')),
    _malformed("cut UTF-8", GOOD.replace(b"c1", b"\xc3")),
    _malformed("overlong UTF-8", GOOD.replace(b"c1", b"\xc0\xaf")),
    _malformed("overlong UTF-8 in an unknown field", _added(b'"x":"\xc0\xaf"')),
    _malformed("lone surrogate", GOOD.replace(b"c1", rb"\ud800")),
    _malformed("lone surrogate in an unknown field", _added(rb'"x":"\ud800"')),
    _malformed("UTF-16", GOOD.decode().encode("utf-16")),
    _malformed("byte order mark", b"\xef\xbb\xbf" + GOOD),
    Case("text beyond ASCII in an unknown field", _added('"x":"ключ \U0001f600"'.encode())),
    Case("escaped key", GOOD.replace(b'"card_id"', rb'"card\u005fid"')),
    Case("blanks around everything", b"\r\n\t " + GOOD.replace(b":", b" : ") + b" \n"),
)
_DEEP = (
    _malformed("arrays without end", GOOD[:-1] + b',"x":' + b"[" * 16_000),
    _malformed("objects without end", b'{"a":' * 3_000),
    _malformed("arrays that end", _added(b'"x":' + b"[" * 5_000 + b"]" * 5_000)),
    _malformed(
        "one level too many", _added(b'"x":' + b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX),
        f"at most {JSON_DEPTH_MAX} levels, got {JSON_DEPTH_MAX + 1} levels",
    ),
    Case("deepest that is allowed",
         _added(b'"x":' + b"[" * (JSON_DEPTH_MAX - 1) + b"]" * (JSON_DEPTH_MAX - 1))),
    Case("many brackets side by side", _added(b'"x":[' + b"[]," * 50 + b"[]]")),
    Case("brackets in a text", _added(b'"x":"' + b"[{" * 50 + rb"\"]" + b'"')),
)  # fmt: skip
_TWICE = (
    _malformed("key twice", _added(b'"card_id":"c2"'), "every key once, got card_id twice"),
    _malformed("key twice, equal", _added(b'"card_id":"c1"'), "card_id twice"),
    _malformed("time twice", _added(b'"event_time":"2021-01-04T00:00:00Z"'), "event_time twice"),
    _malformed("key twice, once escaped", _added(rb'"card\u005fid":"c2"'), "card_id twice"),
    _malformed(
        "unknown key twice", _added(f'"{SECRET}":1,"{SECRET}":2'.encode()), "got a key twice"
    ),
    _malformed("key twice inside", _added(b'"x":{"a":1,"a":2}'), "got a key twice"),
    _malformed("key twice inside an array", _added(b'"x":[[{"a":1,"a":2}]]'), "a key twice"),
    # As many colons as a record without the escaped ones would have.
    _malformed(
        "key twice behind escaped colons",
        GOOD.replace(b"1609718400000", rb'"2021-01-04T00\u003a00\u003a00Z"')[:-1]
        + b',"x":1,"x":2}',
        "a key twice",
    ),
    Case("same key at two places", _added(b'"x":{"card_id":"c2"},"y":[{"a":1},{"a":1}]')),
    Case("keys that differ in case", _added(b'"Card_id":"c2","CARD_ID":"c3"')),
    Case("colons in a text", _added(b'"x":"a:b::c"')),
)
_NO_OBJECT = tuple(
    Case(f"{name} for an object", value, "schema", "$", "expected object")
    for name, value in {
        "array": b"[]",
        "array of objects": b"[" + GOOD + b"]",
        "null": b"null",
        "number": b"17",
        "text": b'"text"',
        "true": b"true",
    }.items()
)
PARSING = (*_NOT_JSON, *_ENCODING, *_DEEP, *_TWICE, *_NO_OBJECT)
