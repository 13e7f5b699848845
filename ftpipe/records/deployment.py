"""Records of deployments: what serves a tuned model at a host that bills for it per hour."""

from __future__ import annotations

import hashlib

from ftpipe.records.base import Record

NAME_PREFIX = "ftpipe-"
STOPPED_STATES = frozenset({"stopped", "failed"})
"""States in which a deployment costs nothing. A word that is not here may cost something."""


class DeploymentOption(Record):
    """One way to serve a tuned model."""

    id: str
    """The host's id of the configuration, for example of the hardware."""
    model: str
    """The host's own id of the model, which can differ from the name to chat with."""
    hardware: str
    price_per_hour: float | None
    """In USD for one running replica; ``None`` if it is not known."""


class Deployment(Record):
    """A deployment as its host last reported it."""

    name: str
    """Chosen by ftpipe, the same for the same model."""
    id: str
    """The host's id."""
    endpoint: str
    """Fingerprint of the endpoint and key scope that the id is valid for."""
    provider: str
    model: str
    """The tuned model, as the registry names it; empty if the host does not say."""
    chat_model: str
    """Name to chat with."""
    state: str
    """``starting``, ``ready``, ``stopping``, ``stopped``, ``failed``, or an unknown word."""
    hardware: str = ""
    price_per_hour: float | None = None
    created_at: int = 0

    @property
    def is_billed(self) -> bool:
        """Whether it may cost something now."""
        return self.state not in STOPPED_STATES


def deployment_name(model: str) -> str:
    """The name that ftpipe gives to the deployment of a tuned model: the same model always has the same one.

    At most 19 characters of a-z, 0-9 and hyphens, which is a valid name at every known host.
    """
    return f"{NAME_PREFIX}{hashlib.sha256(model.encode()).hexdigest()[:12]}"
