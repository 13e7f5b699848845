"""The record of what the training of an adapter on one's own machine needs: memory, time and money."""

from __future__ import annotations

from pydantic import Field

from ftpipe.records.base import Record


class TrainingEstimate(Record):
    """Memory, time and price of a job before it runs; what is not known is ``None``."""

    base: str
    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    devices: int = 1
    """How many devices share the job."""
    is_sharded: bool = False
    """Whether the devices share the base model's weights as well."""
    precision: str
    quantization: str
    gradient_checkpointing: bool
    batch_size: int
    n_epochs: int
    max_length: int
    """Tokens per sequence."""
    micro_batch_tokens: int
    """Tokens that are computed together at most."""
    longest_row: int
    """Tokens of the longest row that is trained."""
    tokens_per_epoch: int | None = None
    """``None`` without data."""
    memory_bytes: int | None = None
    """Peak memory of a device, or of the process on a CPU; ``None`` for an unknown architecture."""
    memory_parts: dict[str, int] = Field(default_factory=dict)
    """The peak by what needs it."""
    mapped_bytes: int | None = None
    """Pages of the model's files that count as well in what systems report, and that they take back when they must."""
    available_bytes: int | None = None
    """What a job can have of the device's memory."""
    fits: bool | None = None
    reasons: tuple[str, ...] = ()
    """What was chosen because the memory is small."""
    remedies: tuple[str, ...] = ()
    """Settings with which it fits, if it does not."""
    tokens_per_second: float | None = None
    speed_source: str = ""
    """Where the speed comes from."""
    seconds: float | None = None
    price: float | None = None
    currency: str = "USD"
