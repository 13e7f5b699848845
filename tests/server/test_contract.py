"""Requests generated from OpenAI's API description: no server error, and every response matches the description."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.fuzz_description import run_schemathesis
from tests.examples import examples
from tests.server.contract.seed import Seeder
from tests.server.processes import ServerProcess

SCHEMA = Path(__file__).parent / "contract" / "openapi.json"
CHECKS = "not_a_server_error,response_schema_conformance"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_contract_matches_openai_description(tmp_path: Path) -> None:
    """A bounded run of schemathesis over all 27 operations, against a real process whose database has rows."""
    pytest.importorskip("schemathesis")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server = ServerProcess(data_dir)
    server.start()
    Seeder(data_dir).plant()
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(SCHEMA), "--url", server.note["base_url"]]
    command += ["--checks", CHECKS, "--phases", "examples,fuzzing,stateful"]
    command += ["--max-examples", str(examples(2, 5)), "--seed", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=260, check=False)
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"Tested: 27", done.stdout)
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases is not None
    assert int(cases[1]) > examples(50, 100)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_contract_matches_own_description(tmp_path: Path) -> None:
    """The same over all operations of ``/openapi.json``, with keys; ``fuzz_description`` sends 5,000 requests."""
    pytest.importorskip("schemathesis")
    done = run_schemathesis(tmp_path, max_examples=examples(1, 2), seed=1, phases="fuzzing,stateful", timeout=260)
    assert done.code == 0, done.report[-6000:]
    assert done.operations > 50
    assert done.cases > 50
