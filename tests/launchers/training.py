"""Training as a user of torch writes it: ``torchrun ... -m launchers.training JOURNAL``.

A model learns from a real annotation of the fruit fly's genome, which gffutils ships, to tell exons from the probes of
an array by their length and strand. The index with these is built once per job: every rank and every DataLoader worker
opens it, and whoever opens it asks for it to be built.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

import interlock
from interlock.handles import PerProcess
from launchers import place
from launchers.journal import Journal

ANNOTATION = "data/dmel-all-no-analysis-r5.49_50k_lines.gff"
KINDS = ("exon", "oligonucleotide")
BATCHES = 30  # of each rank
BATCH = 32
LOADERS = {"spawn": 1, "fork": 2}  # how its workers are started, and how many: one training for each


class Features(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """As many features of both kinds as all ranks need."""

    def __init__(self, session: interlock.Session, journal: Journal) -> None:
        self.index = PerProcess(open_index, session, journal)

    def __len__(self) -> int:
        return BATCHES * BATCH * interlock.world().size

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = self.index.get()
        row = torch.from_numpy(index[number * 7919 % len(index)].copy())  # far apart in the genome
        return row[:2], row[2:]


def open_index(session: interlock.Session, journal: Journal) -> np.ndarray:
    """The index, built if need be."""
    path = session.once("index", lambda: build_index(journal))
    worker = get_worker_info()
    journal.add("opens", rank=interlock.world().rank, worker=worker and worker.id, pid=os.getpid())
    return np.load(path, mmap_mode="r")


def build_index(journal: Journal) -> str:
    """A row for each of them: the logarithm of its length, its strand, and which of the two kinds it is."""
    journal.add("builds")
    gffutils = find_spec("gffutils")
    assert gffutils is not None
    assert gffutils.origin is not None
    annotation = Path(gffutils.origin).with_name("test") / ANNOTATION
    lines = [line.split("\t") for line in annotation.read_text().splitlines()]
    features = [fields for fields in lines if len(fields) == 9 and fields[2] in KINDS]
    rows = [
        (np.log(int(end) - int(start) + 1), strand == "+", KINDS.index(kind))
        for _, _, kind, start, end, _, strand, _, _ in features
    ]
    path = journal.path.with_suffix(".npy")
    np.save(path, np.array(rows, np.float32))
    return str(path)


def main(journal: Journal) -> None:
    """One rank's part in the trainings."""
    place.main(str(journal.path))
    init_process_group("gloo")
    session = interlock.connect("job://")
    journal.add("connected", scope=session.url)
    dataset = Features(session, journal)
    dataset.index.get()  # the rank looks into it as well as its workers
    for method, workers in LOADERS.items():
        model, losses = train(dataset, workers, method)
        weights = [part.flatten().tolist() for part in model.parameters()]
        journal.add("trained", method=method, losses=losses, weights=weights)
    session.barrier("end").wait(60)
    destroy_process_group()


def train(dataset: Features, workers: int, method: str) -> tuple[torch.nn.Module, list[float]]:
    """One epoch over the rank's share of the data."""
    torch.manual_seed(interlock.world().rank)  # they begin apart; DDP makes them one
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for features, kinds in DataLoader(
        dataset, BATCH, sampler=DistributedSampler(dataset), num_workers=workers, multiprocessing_context=method
    ):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features), kinds)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


if __name__ == "__main__":
    main(Journal(sys.argv[1]))
