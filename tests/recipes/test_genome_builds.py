"""`Genome`: one build among all who ask, whatever dies on the way, and only of what does not fit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import gffutils
import pyfaidx
import pytest

import interlock
from interlock.files import fenced_replace
from interlock.recipes._index import Index
from interlock.recipes.genome import Genome
from processes import FORK, become_nobody, finish, kill, open_directory, run, start
from recipes.genomes import (
    FLY,
    FLY_BASES,
    FLY_FEATURES,
    WORM,
    WORM_BASES,
    add,
    builders,
    copy,
    failing,
    stuck_first,
    told,
    until,
    waiting,
)

DROSOPHILA = "dmel-all-no-analysis-r5.49_50k_lines.gff"


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where builders are written down."""
    monkeypatch.setenv("BUILDERS", str(tmp_path / "builders.log"))


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    return copy(FLY, tmp_path)


def three_genes(genome: Genome) -> None:
    assert [gene.id for gene in genome.features("gene")] == ["FBgn0031208", "Fk_gene_1", "Fk_gene_2"]


def aside(directory: Path) -> list[Path]:
    """Files of builds that did not end."""
    return list(directory.glob(".*building*"))


# -- many at once


def test_sixteen_processes_start_cold(annotation: Path) -> None:
    """All get the genome; the builders' log shows one process that read every feature once."""
    bases, gate = copy(FLY_BASES, annotation.parent), FORK.Barrier(16)

    def work() -> None:
        gate.wait()
        genome = Genome(annotation, bases, transform=told)
        three_genes(genome)
        assert genome.sequence("chr2L", 1, 10) == "Cgacaatgca"

    finish(*[start(work) for _ in range(16)])
    assert list(builders().values()) == [FLY_FEATURES]
    assert not aside(annotation.parent)


def test_sixteen_processes_start_cold_on_drosophila(tmp_path: Path) -> None:
    """The same with 50,000 lines, whose ids are often on several of them; every line is a feature."""
    annotation, gate = copy(DROSOPHILA, tmp_path), FORK.Barrier(16)

    def work() -> None:
        gate.wait()
        genome = Genome(annotation, transform=told)
        assert (len(genome.features("gene")), sum(genome.counts().values())) == (631, 49_981)
        gene = genome.gene("FBgn0031208")
        assert gene in genome.region("2L", gene.start or 0, gene.start or 0)

    finish(*[start(work) for _ in range(16)])
    assert list(builders().values()) == [49_981]


def test_threads_start_cold(annotation: Path) -> None:
    """Threads that make a genome each, and threads that share one, read the same; one of them built."""
    found: list[int] = []

    def work() -> None:
        genome = Genome(annotation, transform=told)
        others = [threading.Thread(target=lambda: found.append(len(genome.features()))) for _ in range(2)]
        for other in others:
            other.start()
        for other in others:
            other.join()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FLY_FEATURES] * 16
    assert list(builders().values()) == [FLY_FEATURES]


def test_a_killed_builder_is_taken_over(annotation: Path) -> None:
    """It is killed in the middle while seven wait: one of them builds, all go on, and its remains are gone."""
    built = FORK.SimpleQueue()

    def work() -> None:
        three_genes(Genome(annotation, transform=stuck_first))
        built.put(os.getpid())

    first = start(work)
    until(lambda: builders() == {first.pid: FLY_FEATURES // 2})
    others = [start(work) for _ in range(7)]
    until(lambda: waiting(annotation.parent) == 7)
    assert aside(annotation.parent)
    assert not Path(f"{annotation}.db").exists()
    kill(first)
    finish(*others)
    log = builders()
    assert log.pop(first.pid or 0) == FLY_FEATURES // 2
    assert list(log.values()) == [FLY_FEATURES]
    assert {built.get() for _ in others} == {other.pid for other in others}
    assert not aside(annotation.parent)


def test_a_builder_killed_at_the_very_end(annotation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies when the database is in place, but before it could tell: whoever waits uses it, and builds nothing."""

    def publish_and_die(*args: object, **options: object) -> None:
        until(lambda: waiting(annotation.parent) == 1)
        fenced_replace(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("interlock.recipes._product.fenced_replace", publish_and_die)
        builder = start(lambda: Genome(annotation, transform=told))
    until(lambda: bool(builders()))
    three_genes(Genome(annotation, transform=told))
    builder.join(30)
    assert builder.exitcode == -signal.SIGKILL
    assert builders() == {builder.pid: FLY_FEATURES}


def test_a_failing_build_fails_for_all(annotation: Path) -> None:
    """Sixteen get the same error, with its type and arguments, from one attempt; a later one may succeed."""

    def work() -> None:
        with pytest.raises(ValueError, match="this line is not GFF") as caught:
            Genome(annotation, transform=failing)
        assert caught.value.args == ("this line is not GFF", 7)

    finish(*[start(work) for _ in range(16)])
    assert list(builders().values()) == [1]
    assert not aside(annotation.parent)
    three_genes(Genome(annotation))


def test_waiting_for_a_builder_ends_at_the_timeout(annotation: Path) -> None:
    """The error names who builds."""
    builder = start(lambda: Genome(annotation, transform=stuck_first))
    until(lambda: bool(builders()))
    with pytest.raises(interlock.AcquireTimeout, match=rf"pid {builder.pid}\b"):
        Genome(annotation, transform=stuck_first, timeout=0)
    kill(builder)


# -- one genome, shared


def check(genome: Genome, sentence: str) -> None:
    three_genes(genome)
    assert genome.sequence("chr2L", 1, 10) == sentence


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shared_genome(annotation: Path, method: str) -> None:
    """Children use a genome of their parent, open or not; none of them builds."""
    genome = Genome(annotation, copy(FLY_BASES, annotation.parent), transform=told)
    check(genome, "Cgacaatgca")
    context = multiprocessing.get_context(method)
    children: list[BaseProcess] = [context.Process(target=check, args=(genome, "Cgacaatgca")) for _ in range(2)]
    for child in children:
        child.start()
    finish(*children)
    check(genome, "Cgacaatgca")
    assert builders() == {os.getpid(): FLY_FEATURES}


SCRIPT = """
import multiprocessing, sys
from interlock.recipes._index import Index
from interlock.recipes.genome import Genome
from recipes.genomes import told

def transform(feature):
    return told(feature)

def work():
    Genome(sys.argv[1], transform=transform)

if __name__ == "__main__":
    work()
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def test_functions_of_a_script(annotation: Path) -> None:
    """An option that is a function of the main program is the same one in the processes which that spawns."""
    script = annotation.parent / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parent.parent
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, script, annotation], check=True, env={**os.environ, "PYTHONPATH": path})
    assert list(builders().values()) == [FLY_FEATURES]


class Genes:
    """A data set of genes."""

    def __init__(self, genome: Genome) -> None:
        self.genome = genome

    def __len__(self) -> int:
        return len(self.genome.features())

    def __getitem__(self, index: int) -> tuple[int, str, str, int]:
        feature = self.genome.features()[index]
        return index, feature.id, self.genome.sequence("chr2L", index + 1, index + 5), os.getpid()


def test_a_data_loader(annotation: Path) -> None:
    """Two workers of torch read what the parent reads, without building."""
    from torch.utils.data import DataLoader

    data = Genes(Genome(annotation, copy(FLY_BASES, annotation.parent), transform=told))
    expected = [data[k][:3] for k in range(len(data))]
    loaded = [item for batch in DataLoader(data, batch_size=4, num_workers=2, collate_fn=list) for item in batch]
    assert [item[:3] for item in loaded] == expected
    assert len({item[3] for item in loaded} - {os.getpid()}) == 2
    assert list(builders()) == [os.getpid()]


def test_unpickling_builds_nothing(annotation: Path) -> None:
    """A copy keeps paths and options, and opens what is there, whatever became of the annotation."""
    genome = Genome(annotation, timeout=5, transform=told)
    again = pickle.loads(pickle.dumps(genome))
    assert (again.annotation, again.database, again.timeout) == (str(annotation), genome.database, 5)
    annotation.write_text("changed")
    three_genes(again)
    os.unlink(genome.database)
    with pytest.raises(FileNotFoundError, match=FLY):
        pickle.loads(pickle.dumps(genome)).features()
    assert list(builders().values()) == [FLY_FEATURES]


def test_an_update_is_seen_by_other_processes(annotation: Path) -> None:
    """By one that has the database open, and answers in memory, at its next question."""
    genome, (here, there) = Genome(annotation), FORK.Pipe()

    def child() -> None:
        three_genes(genome)
        there.send("read")
        assert there.recv() == "updated"
        assert "new" in [gene.id for gene in genome.features("gene")]

    reader = start(child)
    assert here.recv() == "read"
    genome.update(add("new"))
    here.send("updated")
    finish(reader)


def test_readers_take_no_locks(annotation: Path) -> None:
    """Not even somebody who locks the database for himself alone, as SQLite does, keeps them from reading."""
    genome = Genome(annotation)
    with closing(sqlite3.connect(genome.database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        three_genes(genome)


def test_a_killed_update_changes_nothing(annotation: Path) -> None:
    """The old database stays, the lock is free, and the next update clears away what it left."""
    genome, ready = Genome(annotation), FORK.Event()

    def stuck(database: object) -> None:
        add("half")(database)
        ready.set()
        threading.Event().wait()

    updater = start(lambda: genome.update(stuck))
    assert ready.wait(30)
    assert aside(annotation.parent)
    kill(updater)
    three_genes(genome)
    genome.update(add("new"))
    assert "half" not in [gene.id for gene in genome.features("gene")]
    assert not aside(annotation.parent)


# -- what is built again


def damage_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


def damage_bit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Fk_gene_2", b"Fk_gene_3", 1))


def damage_record(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE interlock SET record = '{'")
    connection.close()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "header": lambda path: os.truncate(path, 80),
    "beginning": lambda path: os.truncate(path, 20),
    "nothing": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "page": damage_page,
    "bit": damage_bit,
    "record": damage_record,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_healed(annotation: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happened to a database of ours, the next genome builds it again, and the log says why."""
    genome = Genome(annotation, transform=told)
    DAMAGES[kind](Path(genome.database))
    with caplog.at_level(logging.INFO, "interlock"):
        three_genes(Genome(annotation, transform=told))
    assert list(builders().values()) == [2 * FLY_FEATURES]
    assert f"building {genome.database}: it is " in caplog.text


def plain(path: Path) -> None:
    gffutils.create_db(gffutils.example_filename(FLY), str(path)).conn.close()


@pytest.mark.parametrize(
    "write", [plain, lambda path: path.write_text("notes"), lambda path: path.write_bytes(b"\0" * 500)]
)
def test_a_foreign_file_is_left_alone(annotation: Path, write: Callable[[Path], object]) -> None:
    """A database that somebody made with gffutils, or any other file, is an error that says what to do."""
    path = Path(f"{annotation}.db")
    write(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(interlock.RecordInvalid, match="give another database=") as caught:
            Genome(annotation)
        assert caught.value.path == str(path)
    assert path.read_bytes() == before
    three_genes(Genome(annotation, database=annotation.parent / "other.db"))


def test_a_sound_database_is_used(annotation: Path) -> None:
    """Also when the annotation was copied or touched; its content decides."""
    Genome(annotation, transform=told)
    os.utime(annotation, (1, 1))
    Genome(annotation, transform=told)
    assert list(builders().values()) == [FLY_FEATURES]


def test_another_annotation_is_built_again(annotation: Path) -> None:
    """Of another size, and of the same size; the readers of the old one see the new one."""
    genome = Genome(annotation)
    for old, new in (("Fk_gene_2", "Fk_gene_3"), ("Fk_gene_3", "Fk_gene_three")):
        annotation.write_text(annotation.read_text().replace(old, new))
        assert Genome(annotation).gene(new) == genome.gene(new)
        with pytest.raises(KeyError):
            genome.gene(old)


def test_other_options_are_built_again(annotation: Path) -> None:
    """A genome of the old options says so, and never reads what was made with others."""
    genome = Genome(annotation)
    assert Genome(annotation, id_spec="Name").feature("CG11023")
    with pytest.raises(interlock.Mismatch, match="made with other options"):
        genome.gene("Fk_gene_1")
    three_genes(Genome(annotation))
    three_genes(genome)


def grow(feature: gffutils.Feature) -> gffutils.Feature:
    """A transform during which the annotation is written to."""
    with open(os.environ["BUILDERS"] + ".gff", "a") as annotation:
        annotation.write("# one line more\n")
    return feature


def test_an_annotation_that_changes_meanwhile(annotation: Path) -> None:
    """A build during which the annotation changes is an error, and publishes nothing."""
    changing = shutil.copy(annotation, os.environ["BUILDERS"] + ".gff")
    with pytest.raises(ValueError, match="another content of the annotation"):
        Genome(changing, transform=grow)
    assert not Path(f"{changing}.db").exists()


def test_a_replaced_database_may_be_dropped_by_its_server(annotation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input error, as network file systems report for a file replaced elsewhere, makes a lookup start again."""
    genome, look = Genome(annotation), gffutils.FeatureDB.__getitem__
    errors = [sqlite3.OperationalError("disk I/O error")]

    def stale_once(self: gffutils.FeatureDB, id: str) -> gffutils.Feature:
        if errors:
            raise errors.pop()
        return look(self, id)

    monkeypatch.setattr(gffutils.FeatureDB, "__getitem__", stale_once)
    assert genome.gene("Fk_gene_1")
    assert not errors


# -- the index


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text[: text.index("\n") + 1],
        lambda text: text.replace("II\t", "IX\t"),
        lambda text: text.replace("\t60\t61", "\t60\t62"),
        lambda text: text.replace("\t60\t61", "\t59\t60"),
        lambda text: text.replace("I\t100", "I\t900"),
        lambda text: text.replace("I\t100\t3", "I\t99\t4"),
        lambda text: text + text,
        lambda text: "not an index\n",
    ],
)
def test_a_damaged_index_is_healed(tmp_path: Path, damage: Callable[[str], str]) -> None:
    """One that does not fit the FASTA, in any number or name, is built again; so every answer is right."""
    annotation, bases = copy(WORM, tmp_path), copy(WORM_BASES, tmp_path)
    Genome(annotation, bases)
    index = Path(f"{bases}.fai")
    sound = index.read_text()
    assert damage(sound) != sound
    index.write_text(damage(sound))
    Genome(annotation, bases)
    assert index.read_text() == sound


@pytest.mark.parametrize("text", ["", ">I\nACGT\n>II\nACGTA\nCG\n>III\nACG\n"])
def test_every_byte_and_number_of_an_index_matters(tmp_path: Path, text: str) -> None:
    """A change of any of them, but for the last line end, is found out; for records of one and of more lines."""
    bases = copy(WORM_BASES, tmp_path)
    bases.write_text(text or bases.read_text())
    index = Index(str(bases))
    index.make(index.path)
    assert index.flaw(index.path) is None
    sound = Path(index.path).read_bytes()
    changed = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in range(len(sound) - 1)]
    for number in re.finditer(rb"\d+", sound):
        for value in {0, -1, int(number[0]) - 1, int(number[0]) + 1, int(number[0]) * 10} - {int(number[0])}:
            changed.append(sound[: number.start()] + b"%d" % value + sound[number.end() :])
    for content in changed:
        Path(index.path).write_bytes(content)
        assert index.flaw(index.path), content


@pytest.mark.parametrize(
    "text", [">a\r\nACGT\r\nAC\r\n>b\r\nA\r\n", ">a\nACGT\nAC", ">a x\nACGT\n\n>b\nAC\n\n", ";c\n>a\n>b\nAC\n"]
)
def test_sound_indexes_of_unusual_files(tmp_path: Path, text: str) -> None:
    """Windows line ends, no last one, blank lines, comments and empty records: what pyfaidx indexes is accepted."""
    bases = tmp_path / "bases.fa"
    bases.write_bytes(text.encode())
    index = Index(str(bases))
    index.make(index.path)
    assert index.flaw(index.path) is None


def test_another_sequence_is_indexed_again(tmp_path: Path) -> None:
    """A FASTA file of another layout gets a new index, even if the index looks younger."""
    annotation, bases = copy(WORM, tmp_path), copy(WORM_BASES, tmp_path)
    assert Genome(annotation, bases).sequence("II", 1, 4) == "ccta"
    bases.write_text(">I\nACGTAC\nGT\n>II\nTTTT\n")
    os.utime(bases, (1, 1))
    assert Genome(annotation, bases).sequence("II", 1, 4) == "TTTT"


def test_an_index_of_others_is_used(tmp_path: Path) -> None:
    """One that fits is not touched, also if it looks older than the sequence, as after a copy."""
    bases = copy(WORM_BASES, tmp_path)
    pyfaidx.Faidx(str(bases)).close()
    index = Path(f"{bases}.fai")
    os.utime(index, (1, 1))
    assert Genome(copy(WORM, tmp_path), bases).sequence("I", 1, 4) == "gcct"
    assert index.stat().st_mtime == 1


def test_a_bad_fasta_is_an_error(tmp_path: Path) -> None:
    """The error is that of pyfaidx, and no index is left."""
    bases = tmp_path / "bad.fa"
    bases.write_text(">I\nACGT\nAC\nACGT\n")
    with pytest.raises(pyfaidx.FastaIndexingError, match="Line length"):
        Genome(copy(WORM, tmp_path), bases)
    assert not list(tmp_path.glob("*.fai")) + aside(tmp_path)


# -- places


def test_a_directory_that_may_only_be_read() -> None:
    """Another user reads a finished genome where nothing may be written, and leaves nothing; a build says why not."""

    def child(directory: Path) -> None:
        become_nobody()
        genome = Genome(directory / WORM, directory / WORM_BASES)
        assert genome.features("gene")
        assert genome.sequence("I", 1, 4) == "gcct"
        with pytest.raises(interlock.Unavailable, match="permission denied"):
            Genome(directory / WORM, merge_strategy="replace")

    with open_directory() as directory:
        Genome(copy(WORM, directory), copy(WORM_BASES, directory))
        shutil.rmtree(directory / ".interlock")
        before = sorted(os.listdir(directory))
        directory.chmod(0o555)
        run(child, directory)
        assert sorted(os.listdir(directory)) == before


def test_one_file_under_several_paths(annotation: Path) -> None:
    """Relative paths, names of any kind and symbolic links lead to the same database, which is built once."""
    directory = annotation.parent / "größe [1] #?%"
    directory.mkdir()
    path = Path(shutil.move(annotation, directory))
    link = annotation.parent / "link.db"
    link.symlink_to(f"{path}.db")
    three_genes(Genome(os.path.relpath(path), transform=told))
    three_genes(Genome(path, database=link, transform=told))
    genome = Genome(path, database=link, transform=told)
    genome.update(add("new"))
    assert link.is_symlink()
    assert not (annotation.parent / ".interlock").exists()
    assert Genome(path, transform=told).gene("new")
    assert list(builders().values()) == [FLY_FEATURES]
