"""What a comparison says in words and tables; the terminal and the page say the same.

The verdict claims nothing that its interval does not hold, and nothing at all on few frauds or few
days. The notes say what the numbers cannot: which labels are missing, and why.
"""

from collections.abc import Callable, Iterator, Sequence

from pipeline.comparison.compare import Comparison
from pipeline.comparison.parts import FRAUDS_MIN, Overlap, Part, Side
from pipeline.quality.intervals import DAYS_MIN, Interval
from pipeline.reporting.words import Table, number, percent

SIDES = ("we", "incumbent")
CAUGHT_BY = (
    ("both", "both"),
    ("only_we", "only we"),
    ("only_they", "only the incumbent"),
    ("none", "nobody"),
)


def verdict(found: Comparison) -> str:
    """Say who catches more fraud money at the same number of alerts, if that can be said."""
    part = found.equal_budget
    if not part.frauds:
        return "No fraud of the period is labelled yet, so nothing can be said of who catches more."
    ours, theirs = (percent(side.value_detected or 0.0) for side in (part.we, part.they))
    budget = f"At the same number of alerts ({part.they.alerts_a_day:,.1f} a day)"
    caught = f"we catch {ours} of the labelled fraud money, the incumbent {theirs}"
    difference = part.differences.get("value_detected")
    if difference is None:
        return (
            f"{budget} {caught}. That is no verdict: it stands on {part.frauds:,} labelled frauds "
            f"of {part.fraud_days:,} days, and {FRAUDS_MIN} frauds on {DAYS_MIN} days are needed."
        )
    points = f"{points_text(difference)} (95 % interval)"
    if difference.low > 0.0:
        return f"{budget} {caught}: we catch more, by {points}.{_if_blocked_were_fraud(found)}"
    if difference.high < 0.0:
        return f"{budget} {caught}: the incumbent catches more; ours less theirs is {points}."
    return f"{budget} {caught}. The difference of {points} may be chance: neither is better."


def _if_blocked_were_fraud(found: Comparison) -> str:
    """Say whether it would still hold, had all been fraud that the incumbent blocked."""
    part, hidden = found.equal_budget, found.hidden
    if not found.their_declines_unlabelled:
        return ""
    whole = part.fraud_minor + hidden.minor
    ours = (part.we.caught_minor + hidden.we_stop_minor) / whole
    theirs = (part.they.caught_minor + hidden.minor) / whole
    holds = (
        "it would still hold"
        if ours > theirs
        else "it would not hold, so these labels cannot settle it"
    )
    return (
        f" Had all {found.their_declines_unlabelled:,} events been fraud that the incumbent "
        f"declined and that have no label, {holds}: {percent(ours)} against {percent(theirs)}."
    )


def notes(found: Comparison) -> Iterator[str]:
    """Say what must be known to read the numbers."""
    part = found.equal_budget
    if found.their_declines:
        yield (
            f"The incumbent declined {found.their_declines:,} events; of "
            f"{found.their_declines_unlabelled:,} nobody knows what they were, since a payment "
            "that is blocked is never complained of. They count as alerts and as nothing else. "
            "That hides frauds that it caught and customers that it turned away: value detected, "
            "false positives, false declines and money saved are those of the labelled events."
        )
    yield (
        f"{part.labelled:,} of {part.decisions:,} compared decisions have a label"
        f"{f' ({percent(part.labelled_share)})' if part.labelled_share is not None else ''}, "
        f"{part.matured:,} of them by silence; young weeks will still change."
    )
    if found.without_incumbent:
        yield (
            f"{found.without_incumbent:,} of {found.decisions:,} decisions say nothing of the "
            "incumbent and are in no number."
        )
    for name, count in sorted(found.unread.items()):
        yield (
            f"{count:,} times the incumbent's {name} did not fit the schema ([incumbent]) and was "
            "left out."
        )
    if found.acted is None:
        yield (
            f"The incumbent gave scores and no actions: both stop the {found.k:,} highest scores "
            "of each day."
        )
    if len(found.currencies) > 1:
        yield (
            f"Amounts in {', '.join(found.currencies)} are added up as they stand: look at one "
            "currency, or at counts."
        )


def side_table(title: str, part: Part, minor_digits: int) -> Table:
    """Give both systems side by side."""

    def money(minor: float) -> str:
        return money_text(minor, minor_digits)

    rows = [
        _row(part, "alerts a day", lambda side: f"{side.alerts_a_day:,.1f}"),
        _row(part, "value detected", value_text, points_text, "value_detected"),
        _row(part, "frauds caught", lambda side: number(side.caught), _counts_text, "caught"),
        _row(part, "recall", lambda side: _ratio_text(side.recall, side.recall_interval)),
        _row(part, "precision", lambda side: _ratio_text(side.precision, side.precision_interval)),
        _row(part, "false positives", lambda side: number(side.false_positives), _counts_text,
             "false_positives"),
        _row(part, "false positives a fraud caught",
             lambda side: "-" if side.false_positive_ratio is None
             else f"{side.false_positive_ratio:,.2f}"),
        _row(part, "false declines", lambda side: number(side.false_declines)),
        _row(part, "alerts without a label", lambda side: number(side.unlabelled)),
        _row(part, "money saved", lambda side: money(side.saved_minor),
             lambda found: f"{money(found.low)} to {money(found.high)}", "saved_minor"),
    ]  # fmt: skip
    return Table((title, *SIDES, "difference (95 %)"), tuple(rows))


def _row(
    part: Part,
    name: str,
    text: Callable[[Side], str],
    difference: Callable[[Interval], str] | None = None,
    key: str = "",
) -> tuple[str, ...]:
    found = part.differences.get(key)
    said = "" if difference is None or found is None else difference(found)
    return (name, text(part.we), text(part.they), said)


def overlap_table(found: Comparison, minor_digits: int) -> Table:
    """Give the labelled frauds by who stops them, as acted and at equal budget."""
    views = [part for part in (found.acted, found.equal_budget) if part is not None]
    rows = [
        (title, *(cell for part in views for cell in _cells(part.overlap, name, minor_digits)))
        for name, title in CAUGHT_BY
    ]
    header = [cell for part in views for cell in (f"frauds {part.name}", "money")]
    return Table(("caught by", *header), tuple(rows))


def _cells(overlap: Overlap, name: str, minor_digits: int) -> tuple[str, str]:
    count, minor = getattr(overlap, name), getattr(overlap, f"{name}_minor")
    return number(count), money_text(minor, minor_digits)


def ranking_table(found: Comparison) -> Table:
    """Give how well the scores order events; no rows where the incumbent has no score."""
    header = ("scores", *SIDES, "difference (95 %)")
    ranking = found.ranking
    if ranking is None:
        return Table(header, ())
    rows = (
        ("ROC AUC", number(ranking.our_auc), number(ranking.their_auc),
         _plain_text(ranking.auc_difference)),
        ("average precision", number(ranking.our_average_precision),
         number(ranking.their_average_precision),
         _plain_text(ranking.average_precision_difference)),
    )  # fmt: skip
    return Table(header, rows)


def parts_table(head: str, parts: Sequence[Part], minor_digits: int) -> Table:
    """Give parts of the events, at equal budget, each with its counts."""

    def both(part: Part, text: Callable[[Side], str]) -> str:
        return f"{text(part.we)} / {text(part.they)}"

    header = (
        head, "decisions", "labelled", "frauds", "alerts, we / incumbent", "caught",
        "value detected", "points (95 %)", "false positives", "money saved",
    )  # fmt: skip
    rows = [
        (
            part.name, number(part.decisions), _share_text(part.labelled_share),
            number(part.frauds),
            both(part, lambda side: number(side.alerts)),
            both(part, lambda side: number(side.caught)),
            both(part, value_text), _points_of(part),
            both(part, lambda side: number(side.false_positives)),
            both(part, lambda side: money_text(side.saved_minor, minor_digits)),
        )
        for part in parts
    ]  # fmt: skip
    return Table(header, tuple(rows))


def views_of(found: Comparison) -> list[Part]:
    """Give the ways to stop events that were looked at, the equal budget first."""
    # Where scores alone decide, the equal budget is the top of each day.
    top = found.top_k if found.acted is not None else None
    return [part for part in (found.equal_budget, found.acted, top) if part is not None]


def tables(found: Comparison, minor_digits: int) -> Iterator[Table]:
    """Give all tables, in the order in which they are read."""
    for part in views_of(found):
        yield side_table(part.name, part, minor_digits)
    yield ranking_table(found)
    yield overlap_table(found, minor_digits)
    yield parts_table("week from", [week.part for week in found.weeks], minor_digits)
    for field in dict.fromkeys(item.field for item in found.segments):
        parts = [item.part for item in found.segments if item.field == field]
        yield parts_table(field, parts, minor_digits)


def money_text(minor: float, minor_digits: int) -> str:
    """Write money in its major unit."""
    return f"{minor / 10**minor_digits:,.{minor_digits}f}"


def points_text(found: Interval) -> str:
    """Write a difference of two shares in points of a hundred."""
    return f"{100 * found.low:+.1f} to {100 * found.high:+.1f} points"


def _points_of(part: Part) -> str:
    found = part.differences.get("value_detected")
    return "" if found is None else f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"


def _counts_text(found: Interval) -> str:
    return f"{found.low:+,.0f} to {found.high:+,.0f}"


def _plain_text(found: Interval | None) -> str:
    return "" if found is None else f"{found.low:+.4f} to {found.high:+.4f}"


def value_text(side: Side) -> str:
    """Write the share of the fraud money that a system catches."""
    return _share_text(side.value_detected)


def _share_text(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _ratio_text(share: float | None, interval: Interval | None) -> str:
    if share is None or interval is None:
        return "-"
    return f"{percent(share)} ({100 * interval.low:.3g} to {100 * interval.high:.3g})"
