"""The proofs hold, and each property fails when the hardware is broken where it looks."""

from pathlib import Path
import re

import pytest

from hwgen.errors import ToolError

pytest.importorskip("amaranth")

from hwgen.tools import symbiyosys
from hwgen_sim.formal import CLAIMS
from hwgen_sim.formal.claims import Fault

ROOT = Path(__file__).resolve().parent.parent.parent
FAULTS = [(claim, name) for claim in CLAIMS for name in claim.faults]


@pytest.fixture(autouse=True)
def tools():
    try:
        symbiyosys.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_it_is_proved(claim):
    verdict = claim.verdict()
    assert verdict.proved, verdict.log
    asserted = re.findall(r"(\w+): assert", claim.files()["claim.sv"])
    assert asserted and set(claim.faults) == set(asserted), "a fault for every property"


@pytest.mark.parametrize(("claim", "name"), FAULTS, ids=[f"{claim.name}-{name}" for claim, name in FAULTS])
def test_a_fault_breaks_it(claim, name):
    verdict = claim.verdict(claim.faults[name])
    assert not verdict.proved and name in verdict.failed, verdict.log


@pytest.mark.parametrize("fault", [Fault("axi.py", "no such text", ""), Fault("axi.py", "self", "")], ids=["nowhere", "in many places"])
def test_a_fault_is_one_edit(fault):
    with pytest.raises(ValueError, match=r"axi\.py has \d+ times"):
        CLAIMS[1].files(fault)


def test_a_tool_that_fails_is_no_proof(monkeypatch):
    monkeypatch.setattr(symbiyosys, "find", lambda: {"PATH": ""})
    with pytest.raises(ToolError):
        CLAIMS[0].verdict()


def test_the_document_says_what_is_proved():
    text = (ROOT / "docs" / "explanation" / "proofs.md").read_text()
    for claim in CLAIMS:
        row, = (line for line in text.splitlines() if line.startswith(f"| {claim.name} |"))
        reach = "for all time" if claim.induction else f"{claim.depth} cycles"
        assert f"| {reach} | {', '.join(name.replace('_', ' ') for name in claim.faults)} |" in row
