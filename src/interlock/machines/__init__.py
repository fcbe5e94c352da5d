"""The machines, by the kind that their records carry."""

from interlock.abc import Machine
from interlock.machines.admission import LOCK, SEMAPHORE
from interlock.machines.barrier import BARRIER
from interlock.machines.event import EVENT
from interlock.machines.fence import FENCE
from interlock.machines.once import ONCE

BY_KIND: dict[str, Machine] = {machine.kind: machine for machine in (LOCK, SEMAPHORE, BARRIER, EVENT, ONCE, FENCE)}
