"""The checks are checked: each broken machine is caught, and the machines themselves pass the same scrutiny."""

from __future__ import annotations

from types import ModuleType

import pytest

from interlock.machines import admission, barrier, event, fence, once
from machines.laws import Violation
from machines.mutants import MUTANTS, mutate, scrutinise

LARGE = [pytest.param(module, marks=pytest.mark.slow) for module in (admission, barrier, fence)]


@pytest.mark.parametrize("module", [event, once, *LARGE], ids=lambda module: module.__name__)
def test_the_machine_itself_passes(module: ModuleType) -> None:
    """What catches the mutants finds nothing in the machine they were made from."""
    scrutinise(module)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    """One changed line breaks a law, a belief, or the way to the end."""
    with pytest.raises(Violation):
        scrutinise(mutate(MUTANTS[name]))
