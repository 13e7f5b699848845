"""What this machine trains with, read without torch: the processor or its GPUs, and their memory."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftpipe.child_environment import child_environment
from ftpipe.errors import UsageError
from ftpipe.modeling.device import has_accelerator, has_bfloat16_instructions

QUERY_TIMEOUT_SECONDS = 10
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Memory limit of a container, version 2 and 1.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, 2026-11-29."""
USABLE_PART = 0.9
"""Part of a device's memory that a plan uses; the system and other programs need some, too."""
_UNITS = {"mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine to train on.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        memory_bytes: Memory of one device; ``None`` if the system does not say.
        count: How many of them share a job.
        has_bfloat16: Whether the device computes in bfloat16 faster than in float32.
    """

    device: str
    memory_bytes: int | None
    count: int = 1
    has_bfloat16: bool = False

    @property
    def precision(self) -> str:
        """The precision of base models that suits the device."""
        return "bfloat16" if self.has_bfloat16 else "float32"

    @property
    def usable_bytes(self) -> int | None:
        """The memory of a device that a job can have."""
        return None if self.memory_bytes is None else int(USABLE_PART * self.memory_bytes)


def this_machine() -> Machine:
    """The machine that this process runs on."""
    if sys.platform == "darwin":
        return Machine("mps" if has_accelerator() else "cpu", physical_memory())
    memories = gpu_memories() if has_accelerator() else []
    if memories:
        return Machine("cuda", min(memories), len(memories), has_bfloat16=True)
    return Machine("cpu", available_memory(), has_bfloat16=has_bfloat16_instructions())


def machine_with_gpus(memory_bytes: int, count: int) -> Machine:
    """A machine with GPUs that may not exist yet."""
    return Machine("cuda", memory_bytes, count, has_bfloat16=True)


def parse_memory(text: str) -> int:
    """Bytes of ``24GB`` or ``24GiB``.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip(), re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]):
        raise UsageError(f"{text[:40]!r} is not an amount of memory", "write it like 24GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def gpu_memories() -> list[int]:
    """The memory of each NVIDIA GPU in bytes; empty if the driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(
            query, capture_output=True, text=True, timeout=QUERY_TIMEOUT_SECONDS, check=False, env=child_environment()
        )
        return [int(line) << 20 for line in result.stdout.split() if line.isdecimal()]
    return []


def available_memory() -> int | None:
    """Memory that processes can have: that of the machine, or the limit of the container if it is lower."""
    limits = [limit for path in CGROUP_LIMITS if (limit := _read_limit(Path(path))) is not None]
    return min(filter(None, (physical_memory(), *limits)), default=None)


def physical_memory() -> int | None:
    """Memory of the machine; ``None`` if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system has these
        return None


def can_quantize() -> bool:
    """Whether the package for 4-bit and 8-bit weights is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None
