"""What a run shows: a progress bar, or lines where there is no terminal; the summary and the verdict; the plot."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typefaces import glyphs
from typefaces.glyphs import Glyphs

from interlock.compat.copairs import get_null_dists
from interlock.entries import Note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from null_distributions import Run

COUNTS = ("hits", "misses", "computed", "waited", "seconds_saved")  # of the cache's statistics, for every analysis
FALSE_DISCOVERIES = 0.05
LETTERS, SHOWN = "Latin letters", "R"  # the character in the plot
GRIDS = (1, 2, 4, 8, 16)  # on which its scores are shown


class Progress:
    """Two bars of tqdm on a terminal; anywhere else, or without tqdm, a line whenever a quarter more is done."""

    def __init__(self, distributions: int, analyses: int, began: float) -> None:
        self._totals = distributions, analyses
        self._began = began
        self._quarters = 0, 0
        self._bars: list[Any] = []
        with suppress(ImportError):
            if sys.stderr.isatty():
                from tqdm import tqdm

                names = "null distributions", "analyses          "
                self._bars = [tqdm(total=total, desc=name) for total, name in zip(self._totals, names, strict=True)]

    def show(self, *done: int) -> None:
        """Show how many distributions are on the disk, and how many analyses are finished."""
        for bar, number in zip(self._bars, done, strict=bool(self._bars)):
            bar.n = number
            bar.refresh()
        quarters = tuple(4 * number // total for number, total in zip(done, self._totals, strict=True))
        if quarters != self._quarters and not self._bars:
            parts = [f"{number:4} of {total}" for number, total in zip(done, self._totals, strict=True)]
            self.say(f"{parts[0]} null distributions, {parts[1]} analyses")
        self._quarters = quarters

    def say(self, text: str) -> None:
        """Show a line, above the bars."""
        line = f"{time.monotonic() - self._began:5.1f} s  {text}"
        if self._bars:
            self._bars[0].write(line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        for bar in self._bars:
            bar.close()


@dataclass(frozen=True)
class Share:
    """What one process did: analyses finished, and where the null distributions came from that they asked for."""

    name: str
    pid: int
    analyses: int
    asked: int
    computed: int
    waited: int
    saved: float

    @property
    def found(self) -> int:
        return self.asked - self.computed - self.waited


def shares(run: Run) -> list[Share]:
    """What each process of each worker did, as the results tell."""
    found = []
    for number, worker in enumerate(run.workers, 1):
        for pid in worker.pids:
            then = ", killed" if pid == run.killed else ", started again" if pid != worker.pids[0] else ""
            counts = [result["counts"] for result in run.results() if result["pid"] == pid]
            asked, computed, waited, saved = (
                sum(count[name] for count in counts for name in names)
                for names in (("hits", "misses"), ("computed",), ("waited",), ("seconds_saved",))
            )
            found.append(Share(f"{number}{then}", pid, len(counts), asked, computed, waited, saved))
    return found


def author(note: Note) -> int:
    """The pid of the process that computed an entry."""
    told = re.search(r" pid (\d+)", note.by)
    return int(told[1]) if told else 0


def table(run: Run, seconds: float) -> str:
    """What each process did, and what all did together."""
    done, new = shares(run), run.new()
    lines = [f"{'worker':18} {'analyses':>8} {'computed':>9} {'found':>9} {'waited for':>11}"]
    lines += [f"{one.name:18} {one.analyses:8} {one.computed:9} {one.found:9} {one.waited:11}" for one in done]
    left = sum(author(note) == run.killed for note in new) - sum(one.computed for one in done if one.pid == run.killed)
    asked, saved = sum(one.asked for one in done), sum(one.saved for one in done)
    rows = [
        ("null distributions needed", len(run.needed), f"asked for {asked:,} times by {len(run.results())} analyses"),
        ("on the disk before", len(run.before), ""),
        ("computed", len(new), f"{left} of them in the analysis that was cut short" if run.killed else ""),
        ("time computing", f"{sum(note.seconds for note in new):.1f} s", "of all workers together"),
        ("time saved", f"{saved:.1f} s", "what it took to compute those that were found"),
        ("wall time", f"{seconds:.1f} s", ""),
    ]
    return "\n".join([*lines, "", *(f"{name:26} {value:>9}  {remark}".rstrip() for name, value, remark in rows)])


def faults(run: Run) -> list[str]:
    """What was lost, damaged or done twice, judged by the files."""
    wrote = Counter(author(note) for note in run.new())
    twice = [one for one in shares(run) if one.pid != run.killed and one.computed != wrote[one.pid]]
    missing = len(run.analyses) - len(run.results())
    lost = len(run.needed) - len(run.distributions())
    said = {
        f"{missing} analyses have no result": missing,
        f"{lost} null distributions are missing": lost,
        f"{len(run.cache.verify())} entries of the cache are damaged": run.cache.verify(),
        f"of what {', '.join(one.name for one in twice)} computed, others computed something too": twice,
    }
    return [f"  {fault}" for fault, true in said.items() if true]


def plot(run: Run, seed: int, path: Path) -> None:
    """What is to be recognised, what chance can do, and what was recognised of each alphabet on each grid."""
    from matplotlib.figure import Figure  # not above: the workers draw nothing

    results = run.results()
    limit = _limit([p for result in results for _, p in result["characters"].values()])
    scores, known = (np.zeros((len(run.alphabets), len(glyphs.GRIDS))) for _ in range(2))
    for result in results:
        place = run.alphabets.index(result["alphabet"]), glyphs.GRIDS.index(result["grid"])
        found = list(result["characters"].values())
        scores[place] = np.mean([score for score, _ in found])
        known[place] = 100 * np.mean([p <= limit for _, p in found])

    figure = Figure(figsize=(15, 9.5), layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(4, 5.5))
    latin = glyphs.draw(LETTERS)
    _show_letter(axes[0, 0], latin)
    _show_chance(axes[0, 1], run, seed, latin)
    _show_table(axes[1, 0], known, run.alphabets, "{:.0f}", 100)
    rate = f"false discovery rate {100 * FALSE_DISCOVERIES:.0f} %"
    axes[1, 0].set_title(f"Recognised better than by chance, in % ({rate})", loc="left")
    _show_table(axes[1, 1], scores, run.alphabets, "{:.2f}", scores.max())
    axes[1, 1].set_title("Mean average precision of all characters", loc="left")
    figure.savefig(path, dpi=110)


def _show_letter(axes: Axes, latin: Glyphs) -> None:
    """One letter: a row for each typeface, a column for each grid."""
    rows = []
    for face in range(len(glyphs.FACES)):
        first = latin.picture[(latin.character == ord(SHOWN)) & (latin.face == face)][:1]
        tiles = [np.kron(glyphs.shrink(first, grid)[0], np.ones((glyphs.CANVAS // grid,) * 2)) for grid in glyphs.GRIDS]
        rows.append(np.hstack([np.pad(tile, ((2, 2), (10, 10))) for tile in tiles]))
    width, height = len(glyphs.GRIDS), len(glyphs.FACES)
    axes.imshow(np.vstack(rows), cmap="gray_r", extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto")
    axes.set_yticks(range(height), glyphs.FACES)
    axes.set_xticks([])
    axes.set_title(f"The letter {SHOWN} as a query, and as it is to be found", loc="left")


def _show_chance(axes: Axes, run: Run, seed: int, latin: Glyphs) -> None:
    """The null distribution of that letter, and its scores."""
    conf = glyphs.configurations(latin)[latin.character == ord(SHOWN)][0]
    (null,) = get_null_dists([conf], run.null_size, seed, run.out / "cache", progress_bar=False)
    axes.hist(null, bins=50, color="tab:gray")
    axes.set_yscale("log")
    scores = {one["grid"]: one["characters"][SHOWN][0] for one in run.results() if one["alphabet"] == LETTERS}
    for grid in GRIDS:
        axes.axvline(scores[grid], color="tab:red")
        name = f"{grid} x {grid}"
        axes.text(scores[grid], 1.01, name, color="tab:red", ha="center", transform=axes.get_xaxis_transform())
    axes.set_xlabel("average precision")
    axes.set_ylabel(f"draws of {run.null_size:,}")
    axes.set_title(
        f"How well chance finds {conf[0]} of {conf[1]}, and in red how well {SHOWN} does", loc="left", pad=20
    )


def _show_table(axes: Axes, table: NDArray[np.float64], names: Sequence[str], form: str, most: float) -> None:
    axes.imshow(table, cmap="viridis", vmin=0, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, form.format(value), ha="center", va="center", color="w" if value < most / 2 else "k")
    axes.set_yticks(range(len(table)), names)
    axes.set_xticks(range(len(glyphs.GRIDS)), [f"{grid} x {grid}" for grid in glyphs.GRIDS])
    axes.set_xlabel("pixels")


def _limit(p_values: Sequence[float]) -> float:
    """The largest p-value that is significant (Benjamini and Hochberg 1995)."""
    ordered = np.sort(p_values)
    good = ordered <= FALSE_DISCOVERIES * np.arange(1, len(ordered) + 1) / len(ordered)
    return float(ordered[good].max(initial=0.0))
