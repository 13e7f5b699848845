"""Requests generated from OpenAI's API description: no server error, and every response matches the description."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.fuzz_description import fuzz, run_schemathesis
from tests.examples import examples

DESCRIPTION = Path(__file__).parent / "contract" / "openapi.json"
CHECKS = "not_a_server_error,response_schema_conformance"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_contract_matches_openai_description(tmp_path: Path) -> None:
    """A bounded run of schemathesis over all 27 operations, against a real process whose database has rows."""
    pytest.importorskip("schemathesis")
    options = ["--checks", CHECKS, "--phases", "examples,fuzzing,stateful"]
    options += ["--max-examples", str(examples(2, 5)), "--seed", "1"]
    ran = run_schemathesis(tmp_path, options, description=DESCRIPTION, timeout=260)
    assert ran.code == 0, ran.report[-6000:]
    assert ran.operations == 27
    assert ran.cases > examples(50, 100)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_contract_matches_own_description(tmp_path: Path) -> None:
    """The same over all operations of ``/openapi.json``, with keys; ``fuzz_description`` sends 5,000 requests."""
    pytest.importorskip("schemathesis")
    ran = fuzz(tmp_path, max_examples=examples(1, 2), seed=1, phases="fuzzing,stateful", timeout=260)
    assert ran.code == 0, ran.report[-6000:]
    assert ran.operations > 50
    assert ran.cases > 50
