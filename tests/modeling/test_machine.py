"""The machine that jobs are planned for: its memory, GPUs that may not exist, and limits of containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import UsageError
from ftpipe.modeling import machine
from ftpipe.modeling.device import has_bfloat16_instructions
from ftpipe.modeling.machine import Machine, available_memory, gpu_memories, parse_memory, this_machine


@pytest.mark.parametrize(
    ("text", "memory_bytes"),
    [("24GB", 24 * 10**9), ("80 gib", 80 << 30), ("0.5TB", 5 * 10**11), ("512MB", 512 * 10**6)],
)
def test_parse_memory_reads_decimal_and_binary_units(text: str, memory_bytes: int) -> None:
    assert parse_memory(text) == memory_bytes


@pytest.mark.parametrize("text", ["", "24", "GB", "-1GB", "0GB", "1e9GB", "24GBps"])
def test_parse_memory_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match="is not an amount of memory"):
        parse_memory(text)


@pytest.mark.parametrize(("limit", "is_lower"), [("max\n", False), ("1000000\n", True), ("nonsense", False)])
def test_available_memory_is_at_most_that_of_the_container(
    limit: str, is_lower: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(limit, encoding="ascii")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "missing")))
    monkeypatch.setattr(machine, "physical_memory", lambda: 8_000_000)
    assert available_memory() == (1_000_000 if is_lower else 8_000_000)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx512f\nvmx flags\t: bf16", False),
        ("", False),
    ],
)
def test_has_bfloat16_instructions_reads_the_flags_of_the_processor(flags: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n", encoding="utf-8")
    assert has_bfloat16_instructions(tmp_path / "cpuinfo") is expected
    assert not has_bfloat16_instructions(tmp_path / "missing")


def test_this_machine_with_gpus_is_as_large_as_the_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NVIDIA's program says what the driver would say."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '24564\\n16384\\n'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    monkeypatch.setattr("sys.platform", "linux")
    assert gpu_memories() == [24564 << 20, 16384 << 20]
    assert this_machine() == Machine("cuda", 16384 << 20, 2, has_bfloat16=True)


def test_this_machine_without_gpus_is_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr("sys.platform", "linux")
    here = this_machine()
    assert (here.device, here.count) == ("cpu", 1)
    assert here.memory_bytes and here.usable_bytes and here.usable_bytes < here.memory_bytes
