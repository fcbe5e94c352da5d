"""Panels and targets as tables for people and as JSON for programs."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from measure import Panel
from peers import FILE


class Target(NamedTuple):
    """What interlock is to reach in a panel's column: a limit, or a ratio to a peer of the same run.

    `than` names the peer and `limit` is then how many times better we are to be; which way is better follows `most`:
    True if the column's numbers are to be small. `ours` is the store that is judged.
    """

    panel: str
    column: str
    limit: float
    most: bool = True
    than: str = ""
    ours: str = FILE


class Verdict(NamedTuple):
    """A target as it came out: `ratio` is 1 or more if it is met."""

    text: str
    ratio: float

    @property
    def met(self) -> bool:
        return self.ratio >= 1

    def __str__(self) -> str:
        if self.met:
            return f"  met     {self.text}" + (f" (a factor of {self.ratio:.2f} to spare)" if self.ratio > 1 else "")
        return f"  MISSED  {self.text} (by a factor of {_over(1.0, self.ratio):.2f})"


def judge(target: Target, panel: Panel) -> Verdict | None:
    """The verdict, or None where the peer or the column was not measured."""
    ours = panel.rows.get(target.ours, {}).get(target.column)
    theirs = panel.rows.get(target.than, {}).get(target.column)
    if not ours or (target.than and not theirs):
        return None
    value = median(ours)
    if theirs:
        other = median(theirs)
        better = _over(other, value) if target.most else _over(value, other)
        wanted = "no worse than" if target.limit == 1 else f"{target.limit:g} times as good as"
        text = f"{target.column} {wanted} {target.than}; it is {_shown(better)} times as good"
        return Verdict(text, better / target.limit)
    sign = "<=" if target.most else ">="
    text = f"{target.column} {sign} {_shown(target.limit)}; it is {_shown(value)}"
    ratio = _over(target.limit, value) if target.most else _over(value, target.limit)
    return Verdict(text, ratio)


def _over(value: float, by: float) -> float:
    if by:
        return value / by
    return float("inf") if value else 1.0


def verdicts(panels: list[Panel], targets: tuple[Target, ...]) -> dict[str, list[Verdict]]:
    """The verdicts of each panel."""
    found: dict[str, list[Verdict]] = {panel.title: [] for panel in panels}
    for panel in panels:
        judged = (judge(target, panel) for target in targets if target.panel == panel.title)
        found[panel.title] = [verdict for verdict in judged if verdict is not None]
    return found


def table(panel: Panel) -> str:
    """The panel's medians, a row for each peer, and how each compares with the reference."""
    columns = list(dict.fromkeys(column for row in panel.rows.values() for column in row))
    reference = panel.rows.get(panel.reference, {}).get(panel.compare)
    lines = [["", *columns, f"{panel.compare}: times as good as {panel.reference}"]]
    for peer, row in panel.rows.items():
        cells = [_shown(median(row[column])) if row.get(column) else "-" for column in columns]
        lines.append([peer, *cells, _ratio(row.get(panel.compare), reference, panel.more_is_better)])
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    rendered = ["  ".join(_justified(line, widths)).rstrip() for line in lines]
    return "\n".join([panel.title, *(f"  {line}" for line in rendered)])


def _justified(line: list[str], widths: list[int]) -> list[str]:
    first, *others = line
    return [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]


def _ratio(values: list[float] | None, reference: list[float] | None, more: bool) -> str:
    if not values or not reference:
        return "-"
    ours, theirs = median(values), median(reference)
    if ours == theirs == float("inf"):
        return "-"
    return _shown(_over(ours, theirs) if more else _over(theirs, ours))


def _shown(value: float) -> str:
    """A number with three digits that mean something."""
    if value == float("inf"):
        return "never"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def document(panels: list[Panel], judged: dict[str, list[Verdict]]) -> list[dict[str, Any]]:
    """The same as JSON: every sample, not only the medians."""
    return [
        {
            "title": panel.title,
            "peers": {
                peer: {
                    column: {"median": _plain(median(values)), "samples": [_plain(value) for value in values]}
                    for column, values in row.items()
                }
                for peer, row in panel.rows.items()
            },
            "targets": [
                {"target": verdict.text, "met": verdict.met, "ratio": _plain(verdict.ratio)}
                for verdict in judged[panel.title]
            ],
        }
        for panel in panels
    ]


def _plain(value: float) -> float | None:
    """JSON has no infinity: what never happened is null."""
    return None if value == float("inf") else value
