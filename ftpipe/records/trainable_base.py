"""The record of a base model that can be trained, at a provider or on the user's own machine."""

from __future__ import annotations

from typing import Literal

from ftpipe.records.base import Method, Record

Availability = Literal["installed", "downloadable", "hosted"]
"""Whether a model is on this machine, can be fetched by this machine, or is at a provider."""


class TrainableBase(Record):
    """A base model that can be trained; what is not known is ``None``."""

    name: str
    provider: str
    availability: Availability
    is_default: bool = False
    """Whether it is trained if no other one is named."""
    methods: tuple[Method, ...] = ()
    parameters: int | None = None
    download_bytes: int | None = None
    """Size of its files."""
    licence: str | None = None
    is_gated: bool = False
    """Whether the hub gives it only to accounts that have accepted its licence."""
    price_per_million: float | None = None
    """Price of one million trained tokens."""
    currency: str = "USD"
    price_as_of: str | None = None
    """Date of the price, ISO 8601."""
    context: int | None = None
    """Tokens that the model can read; at a provider, tokens of an example that are trained on."""
    last_day: str | None = None
    """Last day on which a job can be created, ISO 8601."""
    shutdown_date: str | None = None
    """Day on which it and the models tuned from it are shut down, ISO 8601."""
    memory_bytes: int | None = None
    """Estimated memory of a training process on this machine."""
    fits_in_memory: bool | None = None
    """Whether this machine has so much memory."""
    is_listed: bool | None = None
    """Whether the provider's own list has it; ``None`` if it was not asked."""
