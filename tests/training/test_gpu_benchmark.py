"""The script for GPUs runs where there is none, so that it works on the day when there is one."""

from __future__ import annotations

import json
import sys

import pytest

from tests.benchmarks import gpu


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses agree, and the table has a row for each base."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--tiny"])
    monkeypatch.setattr("ftpipe.modeling.machine.can_quantize", lambda: False)
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    same, measured = (json.loads(line) for line in lines[:2])
    assert same["is_equal"]
    assert measured["tokens_per_second"] > 0
    assert measured["share_of_peak"] > 0
    assert any(line.startswith("| tiny | bfloat16 |") for line in lines)
