"""A journal that many processes write: what happened, in the order in which it happened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of lines; each is one write, so that none is torn and none is lost."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(self, event: str, **details: Any) -> None:
        """Write down an event."""
        line = json.dumps({"event": event, **details}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def read(self, event: str = "") -> list[dict[str, Any]]:
        """All that was written down, or the entries of one event; oldest first."""
        text = self.path.read_text() if self.path.exists() else ""
        entries = [json.loads(line) for line in text.splitlines()]
        return [entry for entry in entries if event in ("", entry["event"])]
