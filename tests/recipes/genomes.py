"""Small real genomes, and hooks for `gffutils.create_db` that tell who builds, stop the first builder, or fail.

The hooks are functions at module level, as options of a `Genome` must be; they find their places in the environment.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gffutils

import interlock
from interlock import inspection
from patience import until

FLY, WORM, WORM_BASES, FLY_BASES = (
    "FBgn0031208.gff",
    "c_elegans_WS199_shortened_gff.txt",
    "c_elegans_WS199_dna_shortened.fa",
    "dm6-chr2L.fa",
)
FLY_FEATURES = 27
NEW = "chr2L\ttest\tgene\t20001\t20100\t.\t+\t.\tID={id}\n"


def copy(name: str, directory: Path) -> Path:
    """One of the files that gffutils ships, in a directory of ours."""
    return Path(shutil.copy(gffutils.example_filename(name), directory))


def add(id: str) -> Callable[[Any], object]:
    """An update that adds a gene."""
    return lambda database: database.update(NEW.format(id=id), from_string=True, make_backup=False)


def waiting(directory: Path, name: str = FLY) -> int:
    """How many processes wait for somebody who builds the database of an annotation."""
    store = interlock.connect(f"file://{directory}/.interlock").store
    return len(inspection.look(store, f"build {name}.db").waiters)


def told(feature: Any) -> Any:
    """A transform that writes down who reads a feature."""
    with open(os.environ["BUILDERS"], "a") as log:
        log.write(f"{os.getpid()}\n")
    return feature


def builders() -> dict[int, int]:
    """How many features each builder has read."""
    try:
        return Counter(map(int, Path(os.environ["BUILDERS"]).read_text().split()))
    except FileNotFoundError:
        return {}


def stuck_first(feature: Any) -> Any:
    """A transform in which the first of all builders stops for ever, in the middle."""
    told(feature)
    if list(builders().values()) == [FLY_FEATURES // 2]:
        signal.pause()
    return feature


def failing(feature: Any) -> Any:
    """A transform that fails as soon as 15 others wait for it."""
    told(feature)
    until(lambda: waiting(Path(os.environ["BUILDERS"]).parent) == 15)
    raise ValueError("this line is not GFF", 7)


def length_as_id(feature: Any) -> str:
    """An id_spec that is a function."""
    return f"{feature.seqid}:{feature.end - feature.start}"
