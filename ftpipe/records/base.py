"""The base class of records, and enums that several of them use."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """The base class of records: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", ser_json_inf_nan="null")

    def _repr_html_(self) -> str:
        """The record as HTML, for notebooks."""
        from ftpipe.records.html_repr import html_of

        return html_of(self)


class Severity(StrEnum):
    """How serious a finding is for the chosen target."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Method(StrEnum):
    """Fine-tuning methods, as the API names them."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


class DatasetFormat(StrEnum):
    """The format of a dataset's lines."""

    CHAT = "chat"
    """Supervised: ``messages``, and optionally tools."""
    DPO = "dpo"
    """Preference: ``input``, ``preferred_output``, ``non_preferred_output``."""
    RFT = "rft"
    """Reinforcement: ``messages`` that end with the user, and reference keys."""
    LEGACY = "legacy"
    """Another format, such as Alpaca, ShareGPT or chosen/rejected: ``ftpipe convert`` reads it."""
    UNKNOWN = "unknown"
