"""Select the device and the precision: a GPU if there is one, else the CPU in the faster precision."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceConfig:
    """``device`` as torch names it, and ``dtype``: ``float32``, ``bfloat16``, or ``auto`` for that of the files."""

    device: str
    dtype: str

    @property
    def is_accelerator(self) -> bool:
        """True for a GPU."""
        return self.device != "cpu"


def select_device(preferred: DeviceConfig | None = None) -> DeviceConfig:
    """The GPU if there is one, else the CPU, each in the precision that suits it.

    Args:
        preferred: What an earlier run used; returned if this machine has the same device, so that results agree.
    """
    use_passive_omp_wait()
    import torch

    if torch.cuda.is_available():
        selected = DeviceConfig("cuda", "bfloat16" if torch.cuda.is_bf16_supported() else "float32")
    elif torch.backends.mps.is_available():
        selected = DeviceConfig("mps", "float32")
    else:
        selected = DeviceConfig("cpu", "bfloat16" if _bfloat16_is_faster() else "float32")
    return preferred if preferred is not None and preferred.device == selected.device else selected


def has_accelerator() -> bool:
    """Whether torch will find a GPU; answered without torch, so that checks of datasets know what the trainer does."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        if metadata.version("torch").endswith("+cpu"):
            return False
    except metadata.PackageNotFoundError:
        return False
    return Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def use_passive_omp_wait() -> None:
    """Let torch's threads sleep while they wait; must be called before torch is imported for the first time.

    Threads that spin cost nothing on an idle machine, but slow a busy one down to a quarter: the thread that they wait
    for does not run, because they do.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def _bfloat16_is_faster() -> bool:
    """Measure: processors without bf16 instructions emulate them, up to fifty times slower than float32."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(128, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        torch.mm(left, right)
        # the minimum of several: on a busy machine a single run may include waiting
        durations = []
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(left, right)
            durations.append(time.perf_counter() - started)
        return min(durations)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
