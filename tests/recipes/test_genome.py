"""`Genome`: what it answers, and that the answers are those of the annotation and of the FASTA file."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gffutils
import pyfaidx
import pytest

import interlock
from interlock.recipes.genome import Feature, Genome
from recipes.genomes import FLY, FLY_BASES, FLY_FEATURES, WORM, WORM_BASES, add, copy, length_as_id

COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")


@pytest.fixture
def fly(tmp_path: Path) -> Genome:
    """One gene of the fly in detail, and two that were made up."""
    return Genome(copy(FLY, tmp_path))


@pytest.fixture
def worm(tmp_path: Path) -> Genome:
    """The beginnings of six chromosomes, and two genes."""
    return Genome(copy(WORM, tmp_path), copy(WORM_BASES, tmp_path))


def bases(path: str) -> dict[str, str]:
    """The sequences of a FASTA file, read line by line."""
    found: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            found[name] = ""
        else:
            found[name] += line
    return found


def test_a_feature_is_what_its_line_says(fly: Genome) -> None:
    """Every column of the annotation that a `Feature` has, attributes with several values included."""
    assert fly.feature("FBgn0031208:4") == Feature(
        "FBgn0031208:4", "exon", "chr2L", 8668, 9484, "+",
        {"ID": ("FBgn0031208:4",), "Name": ("CG11023:4",), "Parent": ("FBtr0300690",)},
    )  # fmt: skip
    assert fly.feature("five_prime_UTR_FBgn0031208:1_737").attributes["Parent"] == ("FBtr0300689", "FBtr0300690")


def test_a_gene_is_a_gene(fly: Genome) -> None:
    """An id of something else, and one of nothing, are errors that name it."""
    assert fly.gene("Fk_gene_1").strand == "-"
    with pytest.raises(KeyError, match="'FBtr0300689' is not a gene but a feature of type mRNA"):
        fly.gene("FBtr0300689")
    with pytest.raises(KeyError, match=r"no feature 'absent' in .*\.db"):
        fly.gene("absent")


def test_features_come_in_the_order_of_the_annotation(fly: Genome) -> None:
    """Of one type, of several, and all; and `counts` counts them."""
    assert [gene.id for gene in fly.features("gene")] == ["FBgn0031208", "Fk_gene_1", "Fk_gene_2"]
    everything = fly.features()
    assert len(everything) == FLY_FEATURES == sum(fly.counts().values())
    assert fly.features(("mRNA", "exon")) == tuple(found for found in everything if found.type in ("mRNA", "exon"))
    assert fly.counts()["mRNA"] == 4
    assert fly.features("absent") == ()


def test_children(fly: Genome) -> None:
    """All below a feature, of one level, of one type; asked by id or by feature."""
    assert [child.id for child in fly.children("Fk_gene_2")] == ["transcript_Fk_gene_2", "Fk_gene_2:1"]
    assert [child.id for child in fly.children("Fk_gene_2", level=1)] == ["transcript_Fk_gene_2"]
    assert [child.id for child in fly.children(fly.gene("Fk_gene_2"), "exon")] == ["Fk_gene_2:1"]


@pytest.mark.parametrize(("start", "end"), [(7529, 7529), (8116, 8117), (8589, 8668), (1, 7528), (9485, 20_000)])
def test_region_shares_a_base(fly: Genome, start: int, end: int) -> None:
    """Exactly those features that have a base of the region, both ends included."""
    expected = tuple(f for f in fly.features() if f.start and f.end and f.start <= end and f.end >= start)
    assert fly.region("chr2L", start, end) == expected
    assert fly.region("chr2L", start, end, "exon") == tuple(f for f in expected if f.type == "exon")
    assert fly.region("chr3", start, end) == ()


def test_sequence_is_what_the_file_says(worm: Genome) -> None:
    """Coordinates are 1-based with the end, over line ends, on both strands."""
    text = bases(str(worm.fasta))
    for chromosome, line in text.items():
        for start, end in ((1, 1), (1, len(line)), (len(line), len(line)), (58, min(63, len(line)))):
            if start <= end:
                assert worm.sequence(chromosome, start, end) == line[start - 1 : end]
                assert worm.sequence(chromosome, start, end, "-") == line[start - 1 : end].translate(COMPLEMENT)[::-1]


def test_sequence_of_a_feature(tmp_path: Path) -> None:
    """As its strand reads it; a feature without coordinates has none."""
    annotation = tmp_path / "genes.gff"
    rows = [("gene", "3", "60", "-", "a"), ("gene", "5", "9", "+", "b"), ("gene", ".", ".", "+", "c")]
    annotation.write_text("".join(f"chr2L\tx\t{t}\t{s}\t{e}\t.\t{d}\t.\tID={i}\n" for t, s, e, d, i in rows))
    genome = Genome(annotation, copy(FLY_BASES, tmp_path))
    line = bases(str(genome.fasta))["chr2L"]
    assert genome.sequence_of("a") == line[2:60].translate(COMPLEMENT)[::-1]
    assert genome.sequence_of(genome.gene("b")) == line[4:9]
    with pytest.raises(ValueError, match="'c' has no coordinates"):
        genome.sequence_of("c")


def test_questions_without_an_answer_are_errors(worm: Genome, fly: Genome) -> None:
    """Never a shorter sequence than asked for, and never one of a chromosome that is not there."""
    for chromosome, end in (("I", 1000), ("absent", 5)):
        with pytest.raises(pyfaidx.FetchError):
            worm.sequence(chromosome, 1, end)
    for start, end in ((0, 5), (-3, 5), (6, 5)):
        with pytest.raises(ValueError, match="both included"):
            worm.sequence("I", start, end)
        with pytest.raises(ValueError, match="both included"):
            worm.region("I", start, end)
    with pytest.raises(ValueError, match="a strand is"):
        worm.sequence("I", 1, 5, "minus")
    with pytest.raises(ValueError, match="without a FASTA"):
        fly.sequence("chr2L", 1, 5)


def test_features_are_values(fly: Genome) -> None:
    """They pickle, compare and hash, and nobody can change one that others got from the same memory."""
    gene = fly.gene("FBgn0031208")
    assert pickle.loads(pickle.dumps(gene)) == gene
    assert len({gene, pickle.loads(pickle.dumps(gene)), fly.gene("Fk_gene_1")}) == 2
    with pytest.raises(AttributeError):
        gene.start = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        gene.attributes["ID"] = ("x",)  # type: ignore[index]
    fly.counts().clear()
    assert fly.counts()


def test_answers_are_kept(fly: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question asked again does not go to the database, until that is replaced or the genome closed."""
    asked: list[str] = []
    look = gffutils.FeatureDB.__getitem__
    monkeypatch.setattr(gffutils.FeatureDB, "__getitem__", lambda self, id: asked.append(id) or look(self, id))
    for _ in range(3):
        fly.gene("Fk_gene_1")
    assert asked == ["Fk_gene_1"]
    fly.update(lambda database: None)
    fly.gene("Fk_gene_1")
    assert asked == ["Fk_gene_1"] * 2
    fly.close()
    fly.gene("Fk_gene_1")
    assert asked == ["Fk_gene_1"] * 3


def test_memory_is_bounded(fly: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers used longest ago go first, and one that is larger than everything allowed is not kept at all."""
    asked: list[str] = []
    look = gffutils.FeatureDB.__getitem__
    monkeypatch.setattr(gffutils.FeatureDB, "__getitem__", lambda self, id: asked.append(id) or look(self, id))
    monkeypatch.setattr("interlock.recipes.genome._KEPT", 2)
    for id in ("FBgn0031208", "Fk_gene_1", "FBgn0031208", "Fk_gene_2", "FBgn0031208", "Fk_gene_1"):
        fly.gene(id)
    assert asked == ["FBgn0031208", "Fk_gene_1", "Fk_gene_2", "Fk_gene_1"]
    fly.features()
    fly.gene("FBgn0031208")
    assert len(asked) == 4


def test_close_and_ask_again(worm: Genome) -> None:
    """Closing gives back every file of this process, and a later question opens them again."""

    def opened() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        targets = [os.readlink(link) for link in links if os.path.lexists(link)]
        return sorted(Path(target).name for target in targets if target in (worm.database, worm.fasta))

    before = worm.features("gene"), worm.sequence("I", 1, 9)
    assert opened() == [WORM_BASES, f"{WORM}.db"]
    worm.close()
    assert opened() == []
    assert (worm.features("gene"), worm.sequence("I", 1, 9)) == before


# -- updates


def test_update(fly: Genome) -> None:
    """The copy that an update gets has everything; the old answers stand until it ends, and then the new ones."""

    def change(database: Any) -> None:
        add("new")(database)
        database.delete("Fk_gene_2", make_backup=False)
        assert [gene.id for gene in fly.features("gene")] == ["FBgn0031208", "Fk_gene_1", "Fk_gene_2"]

    fly.features("gene")
    fly.update(change)
    assert [gene.id for gene in fly.features("gene")] == ["FBgn0031208", "Fk_gene_1", "new"]
    assert [gene.id for gene in Genome(fly.annotation).features("gene")] == ["FBgn0031208", "Fk_gene_1", "new"]


def empty(database: Any) -> None:
    database.delete(list(database.all_features()), make_backup=False)


def drop(database: Any) -> None:
    database.conn.execute("DROP TABLE interlock")


def fail(database: Any) -> None:
    add("new")(database)
    raise RuntimeError("no")


@pytest.mark.parametrize(("change", "error"), [(empty, ValueError), (drop, ValueError), (fail, RuntimeError)])
def test_an_update_that_fails_changes_nothing(fly: Genome, change: Callable[[Any], None], error: type) -> None:
    """Neither one that raises nor one that leaves no sound database; and it leaves nothing behind."""
    before, files = Path(fly.database).read_bytes(), sorted(os.listdir(Path(fly.database).parent))
    with pytest.raises(error):
        fly.update(change)
    assert Path(fly.database).read_bytes() == before
    assert sorted(os.listdir(Path(fly.database).parent)) == files
    assert fly.gene("Fk_gene_2")


def test_updates_do_not_overtake_each_other(fly: Genome) -> None:
    """Of updates from several threads none is lost; one inside another is an error, not a wait for ever."""
    threads = [threading.Thread(target=fly.update, args=(add(f"new{k}"),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"new{k}" for k in range(6)} <= {gene.id for gene in fly.features("gene")}
    with pytest.raises(interlock.Deadlock):
        fly.update(lambda database: fly.update(add("inner")))


# -- kinds of annotations


def test_options_reach_gffutils(tmp_path: Path) -> None:
    """Those of `create_db`, functions included, instead of the defaults; ids on several lines are made unique."""
    annotation = copy(WORM, tmp_path)
    assert Genome(annotation).feature("CDS:B0019.1_1").start == 12759949
    merged = Genome(annotation, database=tmp_path / "merged.db", merge_strategy="warning")
    with pytest.raises(KeyError):
        merged.feature("CDS:B0019.1_1")
    assert (
        Genome(annotation, database=tmp_path / "own.db", id_spec=length_as_id).feature("I:5189").type == "PCR_product"
    )
    with pytest.raises(ValueError, match="Duplicate ID"):
        Genome(annotation, database=tmp_path / "none.db", merge_strategy="error")


def test_gtf(tmp_path: Path) -> None:
    """Genes and transcripts are inferred where a GTF file names none, and not where it does."""
    assert Genome(copy("FBgn0031208.gtf", tmp_path)).counts()["gene"] == 3
    named = Genome(copy("gencode-v19.gtf", tmp_path))
    lines = Path(named.annotation).read_text().splitlines()
    assert sum(named.counts().values()) == len([line for line in lines if not line.startswith("#")])


def test_compressed(tmp_path: Path) -> None:
    """An annotation may be compressed; bases are read where they lie, so a FASTA file may not."""
    genome = Genome(copy("gff_example1.gff3.gz", tmp_path))
    assert genome.gene("ENSMUSG00000033845").chromosome == "chr1"
    with pytest.raises(ValueError, match="unpack"):
        Genome(genome.annotation, tmp_path / "bases.fa.gz")


@pytest.mark.parametrize("options", [{"force": True}, {"dbfn": "x"}, {"transform": lambda f: f}, {"verbos": True}])
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any]) -> None:
    """What would take the building out of our hands, functions without a name, and misspelt ones: nothing is built."""
    with pytest.raises(TypeError):
        Genome(copy(FLY, tmp_path), **options)
    assert not list(tmp_path.glob("*.db")) + list(tmp_path.glob(".*building*"))
