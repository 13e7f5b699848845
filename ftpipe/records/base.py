"""The base of every record, and the words that several of them use."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """The base of every record: frozen, and closed against fields that it does not have."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", ser_json_inf_nan="null")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from ftpipe.records.html_repr import html_of

        return html_of(self)


class Severity(StrEnum):
    """How bad a finding is for the chosen target."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Method(StrEnum):
    """Fine-tuning methods, in the words of the API."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


class DatasetFormat(StrEnum):
    """What the lines of a dataset look like."""

    CHAT = "chat"
    """Supervised: ``messages``, and nothing but its companions."""
    DPO = "dpo"
    """Preference: ``input``, ``preferred_output``, ``non_preferred_output``."""
    RFT = "rft"
    """Reinforcement: ``messages`` that end with the user, and reference keys."""
    LEGACY = "legacy"
    """Prompt/completion, Alpaca or ShareGPT: to be converted first."""
    UNKNOWN = "unknown"
