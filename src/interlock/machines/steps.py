"""Steps: what the machines have in common, which is that each is a table of pure functions over a named tuple.

A machine names its kind, its record (whose first field is its largest token, or the floor that it only carries) and,
for each type of op, the function that takes one step. Layer: under the machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from interlock.abc import Outcome

Step = Callable[[Any, Any], tuple[Any, Outcome]]


class Steps:
    """Base of the machines; see `interlock.abc.Machine` for what each method means."""

    kind: str
    record: Callable[[int], Any]
    steps: dict[type, Step]

    def initial(self, floor: int) -> Any:
        return self.record(floor)

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        return self.steps[type(op)](record, op)

    def token(self, record: Any) -> int:
        return int(record[0])

    def encode(self, record: Any) -> str:
        return json.dumps(record._asdict(), separators=(",", ":"))
