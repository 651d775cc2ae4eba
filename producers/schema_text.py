"""A proposed schema as TOML: each line with its evidence, unsure ones marked for a person.

>>> toml_text('ta"b\\x7f'), comment("a\\nb")
('"ta\\\\"b\\\\u007F"', '# a b')
"""

from collections.abc import Sequence

from producers.present_columns import PresentSystem
from producers.schema_infer import Choice, Item, Need, Proposal

UNSURE = "unsure: "


def rendered(proposal: Proposal, *, file: str, looked_at: str) -> str:
    """Give the whole file; `looked_at` says which rows the proposal rests on."""
    lines = [
        comment(f"Proposed by `fraudstream schema infer` from {file}: {looked_at}."),
        comment(f"Look at each line marked {UNSURE.strip()} docs/schemas.md says what is what."),
        *(
            comment(f"needs: column {toml_text(item.column)}: {item.what}")
            for item in proposal.needs
        ),
        f"name = {toml_text(proposal.name)}",
        "version = 1",
        "",
        "[event]",
        _line("id", proposal.event_id),
        _line("time", proposal.time),
        *_amount(proposal),
    ]
    for item in sorted(proposal.items, key=lambda item: TABLES.index(item.table)):
        lines += _item(item)
    lines += _present(proposal.present)
    if proposal.label:
        lines += ["", "[label]", _line("field", proposal.label)]
    lines += _list("Leakage suspects, in no schema: known only after the event?", proposal.suspects)
    lines += _list("Left out:", proposal.left_out)
    return "\n".join(lines) + "\n"


TABLES = ("entity", "category", "number")


def _amount(proposal: Proposal) -> list[str]:
    if proposal.amount is None:
        return [comment("No amount was found: then no feature is made of amounts.")]
    lines = [_line("amount", proposal.amount)]
    if proposal.currency:
        lines.append(_line("currency", proposal.currency))
    if proposal.currency_default:
        lines.append(_line("currency_default", proposal.currency_default))
    digits = proposal.minor_digits
    said = f"  {_said(digits)}" if digits.why else ""
    return [*lines, f"minor_digits = {digits.field}{said}"]


def _item(item: Item) -> Sequence[str]:
    choice = Choice(item.field, item.why, item.is_sure)
    return ["", f"[[{item.table}]]", f"name = {toml_text(item.name)}", _line("field", choice)]


def _present(found: PresentSystem) -> list[str]:
    if not found.columns:
        return []
    lines = ["", "[incumbent]"]
    if found.score is not None:
        lines.append(_line("score", Choice(found.score.name, found.score.evidence(), False)))
        why = f"{UNSURE}its least and its most suspicious score"
        lines.append(f"scale = [{found.scale[0]}, {found.scale[1]}]  {comment(why)}")
    if found.action is not None:
        lines.append(_line("action", Choice(found.action.name, found.action.evidence(), False)))
        words = [
            f"{action} = [{', '.join(map(toml_text, words))}]"
            for action, words in found.actions.items()
        ]
        lines.append(f"actions = {{ {', '.join(words)} }}")
    return lines


def _line(key: str, choice: Choice) -> str:
    return f"{key} = {toml_text(choice.field)}  {_said(choice)}"


def _said(choice: Choice) -> str:
    return comment(choice.why if choice.is_sure else UNSURE + choice.why)


def _list(head: str, choices: Sequence[Choice]) -> list[str]:
    if not choices:
        return []
    return [
        "",
        comment(head),
        *(comment(f"  {toml_text(item.field)}: {item.why}") for item in choices),
    ]


def comment(text: str) -> str:
    """Give a comment of one line."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"# {plain}"


def toml_text(text: str) -> str:
    """Give a text as a TOML string."""
    return '"' + "".join(map(_letter, text)) + '"'


def _letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    number = ord(letter)
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"  # noqa: PLR2004


def needs_text(needs: Sequence[Need]) -> str:
    """Give what must be done before replay can read the file, a line for each column."""
    return "\n".join(f"needs: column {toml_text(item.column)}: {item.what}" for item in needs)
