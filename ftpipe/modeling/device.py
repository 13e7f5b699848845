"""Select the device and the precision: a GPU if there is one, else the CPU in the faster precision."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_FLAGS = re.compile(r"(flags|Features)\s*:")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class DeviceConfig:
    """Where and how a model computes.

    Attributes:
        device: As torch names it.
        dtype: ``float32``, ``bfloat16``, or ``auto`` for that of the files.
        quantization: ``4bit`` or ``8bit`` for the weights of the linear layers, else ``none``.
    """

    device: str
    dtype: str
    quantization: str = "none"

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
        selected = DeviceConfig("cpu", "bfloat16" if has_bfloat16_instructions() else "float32")
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


def has_bfloat16_instructions(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bfloat16; others emulate it, up to fifty times slower than float32.

    Source: flags of the Linux kernel, arch/x86/include/asm/cpufeatures.h and arch/arm64/include/uapi/asm/hwcap.h,
    https://github.com/torvalds/linux, read 2026-11-29. Other systems do not say, and compute in float32.
    """
    try:
        with cpu_info.open(encoding="utf-8", errors="replace") as lines:
            flags = next((line.split(":", 1)[1].split() for line in lines if _FLAGS.match(line)), [])
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(flags)


def peak_memory(device: str) -> int | None:
    """The most memory that this process has had so far in bytes: of a GPU what was allocated there."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved())
    try:
        with Path("/proc/self/status").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):
        return None  # a system without it
