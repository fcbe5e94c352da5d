"""Genome: an annotation and its sequence, indexed once for a whole job and read by every process and thread.

gffutils turns an annotation (GFF3, GTF) into an SQLite database, and pyfaidx makes the ``.fai`` index of a FASTA file.
Both are slow, and both write where others may read at the same time. Here each file is a `Product`: made by one of all
who ask, aside, verified, and renamed into place. What fits is used, what does not is made anew, and what interlock did
not make is left alone.

Only the constructor builds. A copy that came by pickle or fork opens what is there, and every lookup looks first
whether the database was replaced; until then a reader goes on with the file it has.

Layer: a recipe, above `files` and `handles`. Needs ``pip install interlock[genome]``.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

try:
    import gffutils
    import gffutils.bins
    import pyfaidx  # noqa: F401 - so that a waiter knows its errors
except ImportError as error:
    raise ImportError(f"{error}; genomes need: pip install 'interlock[genome]'") from error

from interlock import handles
from interlock.files.atomic import StrPath
from interlock.handles import PerProcess
from interlock.objects.named import check_timeout
from interlock.recipes import _product
from interlock.recipes._database import Database, Reader
from interlock.recipes._index import Index

_DEFAULTS = {"merge_strategy": "create_unique"}  # an id is often on several lines: the parts of one CDS
_REFUSED = ("data", "dbfn", "force", "from_string")  # options of gffutils.create_db that are not the caller's
_MOST_BINS = 900  # of a region whose bins are looked up; SQLite takes 999 values in a query
_KEPT = 100_000  # features, or thousands of bases, in the answers that a process keeps

Types = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of an annotation. Pickles.

    start, end: 1-based, both included, as in the annotation; None where it has a dot.
    strand:     ``+``, ``-``, ``.`` or ``?``.
    attributes: the values of each key, in their order; read-only.
    """

    id: str
    type: str
    chromosome: str
    start: int | None
    end: int | None
    strand: str
    attributes: Mapping[str, tuple[str, ...]] = field(hash=False)

    def __post_init__(self) -> None:
        frozen = {key: tuple(values) for key, values in self.attributes.items()}
        object.__setattr__(self, "attributes", MappingProxyType(frozen))

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.id, self.type, self.chromosome, self.start, self.end, self.strand, dict(self.attributes))
        return Feature, values


class Genome:
    """An annotation, and its sequence if there is one, for any number of processes and threads. Pickles by paths.

    The constructor sees to it that the database and the FASTA index exist, are sound and fit; all who ask at the same
    time share one build. A database that is missing, damaged, or made from another content of the annotation or with
    other options is built, and so is an index that does not fit the FASTA. Where both fit nothing is written, so that
    a directory that may only be read will do. Files must be replaced, not changed in place, while a genome reads them.

    All coordinates are those of GFF: the first base is 1, and `end` is included. Features come in the order of the
    annotation. Answers are kept in the memory of each process, the most recently used ones up to 100,000 features, and
    are always those of the database that is there now.

    Args:    annotation: a GFF3 or GTF file, also with ``.gz``. fasta: its sequences, not compressed.
             database: where the database is; ``ANNOTATION.db`` unless given.
             timeout: seconds to wait for others who build or update; None waits for ever.
             create_options: for `gffutils.create_db`, such as ``merge_strategy`` (here ``"create_unique"`` unless
             given), ``id_spec`` or ``transform``. Functions among them are known by their names, so one that changes
             needs another name. Genes and transcripts that a GTF file names itself are not inferred.
    Raises:  whatever the build raised, in everybody who waited for it; a later constructor tries again.
             RecordInvalid: something else lies where the database would be; it is left alone (definite).
             AcquireTimeout: somebody else still builds; names them (definite).
    Crash:   if the builder dies the next waiter builds, within a second on one host; what it left aside goes away.
    Cost:    a read of the whole database, to verify it; a build, for one of all who ask.
    """

    def __init__(
        self,
        annotation: StrPath,
        fasta: StrPath | None = None,
        *,
        database: StrPath | None = None,
        timeout: float | None = None,
        **create_options: Any,
    ) -> None:
        for name in _REFUSED:
            if name in create_options:
                raise TypeError(f"{name} is not an option of a Genome: it decides itself what to build, and where")
        if fasta is not None and os.fsdecode(fasta).endswith((".gz", ".bgz", ".bz2", ".zip")):
            raise ValueError(f"{os.fsdecode(fasta)} is compressed: bases are read where they lie, so unpack it first")
        self.annotation = _absolute(annotation)
        self.fasta = None if fasta is None else _absolute(fasta)
        self.timeout = check_timeout(timeout)
        self.database = _absolute(database if database is not None else self.annotation + ".db")
        self._database = Database(self.database, self.annotation, _DEFAULTS | create_options)
        self._reader = PerProcess(Reader, self._database, close=Reader.close, per_thread=True)
        self._answers = PerProcess(_Answers)
        _product.ensure(self._database, self.timeout)
        if self.fasta is not None:
            # `rebuild` builds nothing here: it keeps pyfaidx from warning of an index that fits and merely looks older
            self._sequences = handles.fasta(self.fasta, strict_bounds=True, rebuild=True)
            _product.ensure(Index(self.fasta), self.timeout)

    def __repr__(self) -> str:
        return f"Genome({self.annotation!r}, {self.fasta!r}, database={self.database!r})"

    def close(self) -> None:
        """Close what this process has open and forget its answers. Another lookup opens again."""
        self._reader.close()
        self._answers.close()
        if self.fasta is not None:
            self._sequences.close()

    # -- lookups

    def feature(self, id: str) -> Feature:
        """The feature of this id. Raises `KeyError` if there is none."""

        def look(database: Any) -> Feature:
            try:
                return _feature(database[id])
            except gffutils.FeatureNotFoundError:
                raise KeyError(f"no feature {id!r} in {self.database}") from None

        found: Feature = self._ask(("feature", id), look)
        return found

    def gene(self, id: str) -> Feature:
        """The gene of this id. Raises `KeyError` if there is none, or if that id is of something else."""
        found = self.feature(id)
        if not found.type.endswith("gene"):  # pseudogene, ncRNA_gene, ...
            raise KeyError(f"{id!r} is not a gene but a feature of type {found.type} in {self.database}")
        return found

    def features(self, type: Types = None) -> tuple[Feature, ...]:
        """All features of a type, of any of several types, or all there are."""
        return self._list(
            ("features", type), lambda database: database.all_features(featuretype=type, order_by="file_order")
        )

    def children(self, of: str | Feature, type: Types = None, *, level: int | None = None) -> tuple[Feature, ...]:
        """The features below one, at any level or at one: 1 for the children themselves, 2 for their children."""
        id = of.id if isinstance(of, Feature) else of
        return self._list(
            ("children", id, type, level),
            lambda database: database.children(id, level=level, featuretype=type, order_by="file_order"),
        )

    def region(self, chromosome: str, start: int, end: int, type: Types = None) -> tuple[Feature, ...]:
        """The features that share at least one base with a region, 1-based and with its end."""
        _check_interval(start, end)

        def look(database: Any) -> Iterable[Any]:
            rows = database.conn.execute(*_overlapping(chromosome, start, end, type))
            return (gffutils.Feature(**row) for row in sorted(rows, key=lambda row: row["file_order"]))

        return self._list(("region", chromosome, start, end, type), look)

    def counts(self) -> dict[str, int]:
        """How many features there are of each type."""
        query = "SELECT featuretype, count(*) FROM features GROUP BY featuretype ORDER BY featuretype"
        return dict(self._ask(("counts",), lambda database: tuple(map(tuple, database.execute(query)))))

    def sequence(self, chromosome: str, start: int, end: int, strand: str = "+") -> str:
        """The bases from `start` to `end`, 1-based and both included, upper and lower case as in the file.

        Args:   strand: ``-`` gives the reverse complement.
        Raises: pyfaidx.FetchError (an IndexError): no such chromosome, or `end` is beyond it. ValueError: no FASTA.
        """
        _check_interval(start, end)
        if self.fasta is None:
            raise ValueError(f"{self!r} was made without a FASTA file, so it has no sequence")
        if strand not in ("+", "-", ".", "?"):
            raise ValueError(f"a strand is '+' or '-', not {strand!r}")
        reverse = strand == "-"

        def look() -> str:
            return str(self._sequences.get().get_seq(chromosome, start, end, rc=reverse).seq)

        found: str = self._answers.get().find(("sequence", chromosome, start, end, reverse), look)
        return found

    def sequence_of(self, feature: str | Feature) -> str:
        """The bases of a feature as its strand reads them. Raises as `feature` and `sequence` do."""
        found = self.feature(feature) if isinstance(feature, str) else feature
        if found.start is None or found.end is None:
            raise ValueError(f"feature {found.id!r} has no coordinates, so it has no sequence")
        return self.sequence(found.chromosome, found.start, found.end, found.strand)

    def _list(self, question: Hashable, look: Callable[[Any], Iterable[Any]]) -> tuple[Feature, ...]:
        found: tuple[Feature, ...] = self._ask(question, lambda database: tuple(map(_feature, look(database))))
        return found

    def _ask(self, question: Hashable, look: Callable[[Any], Any]) -> Any:
        """The answer to a question about the database as it is now, from memory if it was given before."""

        def answer() -> Any:
            reader = self._reader.get()
            try:
                return look(reader.look())
            except sqlite3.OperationalError:  # a file server may drop a replaced file under those who read it
                reader.close()
                return look(reader.look())

        return self._answers.get().find((self._database.version(), question), answer)

    def update(self, fn: Callable[[Any], object]) -> None:
        """Change the database, one at a time among all; everybody sees the new one at the next lookup.

        Args:   fn: gets a `gffutils.FeatureDB` on a private copy, to call its `update`, `delete` and so on; what it
                returns is ignored, and the copy is closed afterwards.
        Raises: whatever `fn` raises, and ValueError if it left no sound database: nothing was changed.
                AcquireTimeout: others still update or build; names them (definite). Deadlock: `fn` updates as well.
                Mismatch, RecordInvalid: as for a lookup.
        Crash:  all or nothing.
        Cost:   a copy and a check of the whole database. A later build, of another content of the annotation or
                because of damage, starts from the annotation: updates are gone then.
        """
        _product.replace(self._database, partial(self._database.changed, fn), self.timeout)


def _overlapping(chromosome: str, start: int, end: int, type: Types) -> tuple[str, list[Any]]:
    """The query for a region. Every feature is filed under a bin, which spares it what gffutils' own query does, a look
    at all of the chromosome; the plus, and no ORDER BY, keep SQLite from other plans."""
    clauses, values = ["seqid = ?", "start <= ?", "end >= ?"], [chromosome, end, start]
    near = gffutils.bins.bins(start, end, one=False) if end <= gffutils.bins.MAX_CHROM_SIZE else ()
    wanted = [type] if isinstance(type, str) else type
    for column, among in (("bin", near if 0 < len(near) <= _MOST_BINS else None), ("+featuretype", wanted)):
        if among is not None:
            clauses.append(f"{column} IN ({', '.join('?' * len(among))})")
            values.extend(among)
    return f"SELECT *, rowid AS file_order FROM features WHERE {' AND '.join(clauses)}", values


def _feature(row: Any) -> Feature:
    return Feature(row.id, row.featuretype, row.seqid, row.start, row.end, row.strand, dict(row.attributes))


class _Answers:
    """The answers used last, up to a total weight. They are values that nobody changes, so all threads share them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._weight = 0
        self._mutex = threading.Lock()

    def find(self, question: Hashable, answer: Callable[[], Any]) -> Any:
        """The answer kept, or a new one."""
        with self._mutex:
            if question in self._kept:
                self._kept.move_to_end(question)
                return self._kept[question][0]
        found = answer()
        weight = 1 + (len(found) if isinstance(found, tuple) else len(found) // 1000 if isinstance(found, str) else 0)
        with self._mutex:
            if question not in self._kept and weight <= _KEPT:
                self._kept[question] = found, weight
                self._weight += weight
                while self._weight > _KEPT:
                    self._weight -= self._kept.popitem(last=False)[1][1]
        return found


def _absolute(path: StrPath) -> str:
    return str(Path(os.fsdecode(path)).absolute())


def _check_interval(start: int, end: int) -> None:
    if not 1 <= start <= end:
        raise ValueError(f"a region goes from 1 or more to its end, both included, not from {start} to {end}")
