"""Distributed training on a genome: one rank builds the database, all ranks and their workers read it.

    torchrun --nproc-per-node 2 examples/ddp_genome.py                   # once, and then again
    torchrun --nproc-per-node 2 examples/ddp_genome.py --fail-rank 1     # all ranks fail together, and say for whom
    python examples/ddp_genome.py                                        # alone; or with srun

A model learns to tell exons from introns on a chromosome arm of the fruit fly, by their lengths and by what else the
annotation has there: array probes, RNAi reagents, transposon insertions, binding sites. It learns on four fifths of
the arm and is tried on the rest.

Needs ``pip install interlock[genome,torch]``; the annotation comes with gffutils. Exit code 0 if the verdict is good.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import gffutils
import numpy as np
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate, get_worker_info

import interlock
from interlock.files import atomic_write
from interlock.recipes.genome import Genome

ANNOTATION = "dmel-all-no-analysis-r5.49_50k_lines.gff"
KINDS = ("intron", "exon")
SIGNS = ("oligonucleotide", "RNAi_reagent", "transposable_element_insertion_site", "TF_binding_site")
EPOCHS = 4
PATIENCE_S = 60.0
GOOD = "VERDICT: good. No build too many, every process opened the database for itself, one model on all ranks."
logger = logging.getLogger("ddp_genome")


class Reader(NamedTuple):
    """A process that read the genome: its number among the rank's workers, or -1 for the rank, its pid, the pid of who
    opened what it read, and whether it built the database."""

    worker: int
    pid: int
    opener: int
    built: int


class Opened:
    """The genome as one process has it open."""

    lines_read = 0  # of the annotation, in this process: none, unless it builds the database

    def __init__(self, annotation: Path) -> None:
        before = Opened.lines_read
        self.genome = Genome(annotation, transform=Opened.read_line)
        self.built = Opened.lines_read > before
        self.pid = os.getpid()

    @staticmethod
    def read_line(feature: Any) -> Any:
        """What gffutils calls for each line while it builds."""
        Opened.lines_read += 1
        return feature


class Parts(Dataset[tuple[torch.Tensor, ...]]):
    """The exons and introns in their order on the chromosome, each with a note of who read it."""

    def __init__(self, opened: interlock.PerProcess[Opened], index: Mapping[str, Any]) -> None:
        self.opened = opened  # each DataLoader worker opens its own, whether it is forked or spawned
        self.index = index

    def __len__(self) -> int:
        return len(self.index["ids"])

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        opened, worker = self.opened.get(), get_worker_info()
        part = opened.genome.feature(self.index["ids"][number])
        overlaps = [  # those that begin before it ends, but for those that end before it begins
            np.searchsorted(starts, part.end, "right") - np.searchsorted(ends, part.start)
            for starts, ends in zip(self.index["starts"], self.index["ends"], strict=True)
        ]
        told = np.log1p([part.end - part.start, *overlaps])
        reader = Reader(worker.id if worker else -1, os.getpid(), opened.pid, opened.built)
        return torch.from_numpy(told).float(), torch.tensor([float(KINDS.index(part.type))]), torch.tensor(reader)


class Report(NamedTuple):
    """How the training went for one rank."""

    losses: list[float]
    readers: list[Reader]
    weights: list[float]


def prepare(opened: interlock.PerProcess[Opened], annotation: Path, rank: int) -> dict[str, Any]:
    """What one rank does for all: copy the annotation, build the database, make an index of what is where."""
    found = os.path.exists(f"{annotation}.db")
    if not annotation.exists():
        with open(gffutils.example_filename(ANNOTATION), "rb") as source, atomic_write(annotation, "wb") as copy:
            shutil.copyfileobj(source, copy)
    genome = opened.get().genome
    signs = [genome.features(sign) for sign in SIGNS]
    return {
        "ids": [part.id for part in sorted(genome.features(KINDS), key=lambda part: part.start)],
        "starts": [np.sort([sign.start for sign in some]) for some in signs],
        "ends": [np.sort([sign.end for sign in some]) for some in signs],
        "made by": rank,
        "found": found,
    }


@contextmanager
def together(session: interlock.Session) -> Iterator[None]:
    """All ranks come out of the block, or none: who fails in it breaks the barrier at its end for the others."""
    ready = session.barrier("ready")
    try:
        yield
    except Exception as error:
        ready.abort(f"rank {session.rank} raised {type(error).__name__}: {error}")
        raise
    ready.wait(PATIENCE_S)


def train(parts: Parts, session: interlock.Session, workers: int) -> tuple[nn.Module, Report]:
    """Learn from the first four fifths, of which every rank has its share."""
    torch.manual_seed(session.rank)  # the ranks begin apart; DDP makes them one
    model = nn.Sequential(nn.Linear(1 + len(SIGNS), 32), nn.ReLU(), nn.Linear(32, 1))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = Subset(parts, range(len(parts) * 4 // 5))
    sampler = DistributedSampler(seen, session.size, session.rank)
    loader = DataLoader(seen, 64, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    losses, readers = [], [parts[0][-1]]
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        batches = []
        for inputs, kinds, read_by in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(parallel(inputs), kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batches.append(loss.item())
            readers.extend(read_by)
        losses.append(sum(batches) / len(batches))
        if session.rank == 0:
            logger.info("epoch %d of %d: loss %.3f", epoch + 1, EPOCHS, losses[-1])
    weights = nn.utils.parameters_to_vector(model.parameters()).tolist()
    return model, Report(losses, [Reader(*row) for row in torch.stack(readers).unique(dim=0).tolist()], weights)


def accuracies(model: nn.Module, parts: Parts) -> tuple[float, float]:
    """How often the model is right about the last fifth, and how often one answer for all would be."""
    inputs, kinds, _ = default_collate([parts[number] for number in range(len(parts) * 4 // 5, len(parts))])
    right = (model(inputs) > 0) == (kinds > 0)
    return right.float().mean().item(), max(kinds.mean().item(), 1 - kinds.mean().item())


def table(reports: Sequence[Report], accuracy: float, baseline: float, seconds: float) -> str:
    """What happened, as those tell it who did it."""
    builders = [rank for rank, report in enumerate(reports) for reader in report.readers if reader.built]
    workers = sum(reader.worker >= 0 for report in reports for reader in report.readers)
    losses = [sum(each) / len(each) for each in zip(*(report.losses for report in reports), strict=True)]
    rows = {
        "builds": f"{len(builders)}" + "".join(f", by rank {rank}" for rank in builders),
        "opened by": f"{sum(len(report.readers) for report in reports) - workers} ranks + {workers} workers",
        "loss": " ".join(f"{loss:.3f}" for loss in losses),
        "accuracy": f"{accuracy:.3f} on what was held out; one answer for all: {baseline:.3f}",
        "seconds": f"{seconds:.0f}",
    }
    return "\n".join(f"{name:<12}{row}" for name, row in rows.items())


def judge(reports: Sequence[Report], workers: int, builds: int, accuracy: float, baseline: float) -> list[str]:
    """Everything that is wrong, in words; nothing if all is well."""
    readers = [reader for report in reports for reader in report.readers]
    built, numbers = sum(reader.built for reader in readers), [*range(-1, workers)]
    wanted = {
        f"the database was built {built} times, not {builds}": built == builds,
        "a reader is missing, or came twice": all(
            [reader.worker for reader in report.readers] == numbers for report in reports
        ),
        "a process read what another one had opened": all(reader.pid == reader.opener for reader in readers),
        "the loss did not fall": all(report.losses[-1] < 0.95 * report.losses[0] for report in reports),
        "the model has learned nothing": accuracy > baseline + 0.05,
        "the ranks have different models": all(report.weights == reports[0].weights for report in reports),
    }
    return [fault for fault, absent in wanted.items() if not absent]


def run(session: interlock.Session, options: argparse.Namespace) -> list[str]:
    """One rank's part from beginning to end. Returns the faults, which rank 0 finds."""
    annotation = options.out.resolve() / ANNOTATION
    opened = interlock.PerProcess(Opened, annotation)
    began = time.monotonic()
    with together(session):
        index = session.single("index", lambda: prepare(opened, annotation, session.rank))
        if session.rank != index["made by"]:
            logger.info("waited %.1f s for rank %d", time.monotonic() - began, index["made by"])
        opened.get()
        if session.rank == options.fail_rank:
            raise RuntimeError("told to fail")

    # Where torch's ranks meet is agreed upon in the same way, so that every launcher will do.
    meeting = session.single("meeting", lambda: str(annotation.with_name(f"meeting-{uuid.uuid4().hex}")))
    store = distributed.FileStore(meeting, session.size)
    distributed.init_process_group("gloo", store=store, rank=session.rank, world_size=session.size)
    parts = Parts(opened, index)
    model, report = train(parts, session, options.workers)
    reports = [report] * session.size
    distributed.all_gather_object(reports, report)
    distributed.destroy_process_group()
    if session.rank > 0:
        return []
    accuracy, baseline = accuracies(model, parts)
    print(f"\n{table(reports, accuracy, baseline, time.monotonic() - began)}\n", flush=True)
    return judge(reports, options.workers, 0 if index["found"] else 1, accuracy, baseline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/ddp_genome"), help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers of each rank; default: %(default)s")
    parser.add_argument("--fail-rank", type=int, help="a rank that raises during the start-up")
    options = parser.parse_args()

    session = interlock.connect("job://")
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {session.rank}: %(message)s", datefmt="%X")
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        faults = run(session, options)
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, getattr(error, "reason", error))
        with suppress(interlock.InterlockError):  # torchrun ends all ranks as soon as one has ended: let each say why
            session.barrier("last words").wait(10)
        sys.exit(1)
    if session.rank == 0:
        print("\n".join(["VERDICT: something went wrong.", *faults]) if faults else GOOD)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
