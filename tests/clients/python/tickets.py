"""The structured answer and the tool that clients with pydantic get; their values are those of ``SCHEMA``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Ticket(BaseModel):
    """Where a ticket goes."""

    queue: Literal["billing", "bug"]
    urgent: bool


def route(queue: Literal["billing", "bug"], urgent: bool) -> str:
    """Route a ticket."""
    return f"routed to {queue}"
