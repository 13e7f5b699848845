"""``/v1/models`` and chat: base models answer at once, tuned ones through the deployment named after them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ftpipe.catalog.base_models import base_hint
from ftpipe.errors import ConfigError, NotFoundError, ProviderError
from ftpipe.providers.client import ApiClient, ChatAddress
from ftpipe.providers.models import ModelsClient, losses_not_supported
from ftpipe.providers.responses import AnswerPiece, ChatCompletion, RemoteModel, as_dict, model_of
from ftpipe.providers.rest import request_json
from ftpipe.providers.together.deployments import TogetherDeployments
from ftpipe.providers.together.jobs import TogetherJobs
from ftpipe.providers.together.responses import items_of
from ftpipe.records.deployment import deployment_name
from ftpipe.records.row_losses import RowLosses

LIST_SECONDS = 60.0
"""How long the list of deployments is used; a chat with a new one finds it after so long at the latest."""


class TogetherModels:
    """The models of Together.

    Args:
        api: Calls the API's root.
        chat: Calls the address where base models answer.
        dedicated: Calls the address where deployments answer.
        jobs: For deleting a model, which is deleting its job.
        deployments: Where tuned models answer.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        chat: ApiClient,
        dedicated: ApiClient,
        jobs: TogetherJobs,
        deployments: TogetherDeployments,
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._deployments = deployments
        self._chat = ModelsClient(chat)
        self._dedicated = ModelsClient(dedicated)
        self._deployed: dict[str, str] = {}
        self._listed_until = -math.inf

    def names(self) -> list[str]:
        """The models that the key can use, sorted."""
        return sorted(model.id for model in self.all())

    def all(self) -> list[RemoteModel]:
        """The models that the key can use, in the order of the host."""
        return self._api.read(
            "list the models",
            lambda client: request_json(client, "GET", "/v1/models"),
            lambda response: [model_of(item) for item in items_of(response)],
        )

    def require_base(self, model: str) -> None:
        """Refuse a base that is not in the list of bases for fine-tuning."""
        try:
            names = self._api.read(
                "list the bases for fine-tuning",
                lambda client: request_json(client, "GET", "/v1/fine-tunes/models/supported"),
                lambda response: [str(name) for name in items_of(as_dict(response).get("models"))],
            )
        except ProviderError:
            return  # the limits of the base are read before anything is uploaded
        if model not in names:
            title = self._api.profile.title or self._api.profile.name
            raise NotFoundError(f"{title} does not fine-tune {model!r}; nothing was sent", base_hint(model, names))

    def delete(self, model: str) -> None:
        """Delete a tuned model with its job: the weights belong to the job."""
        job = next((job for job in self._jobs.recent() if job.fine_tuned_model == model), None)
        if job is None:
            raise NotFoundError(f"Together has no model {model}", "`ftpipe models list` lists the models")
        self._jobs.delete(job.id)

    def shutdown_date(self, model: str) -> str | None:  # noqa: ARG002 - a part of every host's models
        """``None``: Together announces no dates in its API."""
        return None

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> ChatCompletion:
        """One chat completion; a tuned model answers under the name of its deployment."""
        client, name = self._route(model)
        try:
            return client.chat(name, messages, **sampling)
        except NotFoundError as exc:
            raise _not_deployed(model, exc) from exc

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[AnswerPiece]:
        """One chat completion, piece by piece; a tuned model answers under the name of its deployment."""
        client, name = self._route(model)
        try:
            yield from client.stream(name, messages, **sampling)
        except NotFoundError as exc:
            raise _not_deployed(model, exc) from exc

    def losses(
        self,
        path: Path,  # noqa: ARG002
        models: Sequence[str],  # noqa: ARG002
        *,
        on_rows: Callable[[int, int], None],  # noqa: ARG002
    ) -> list[RowLosses]:
        """Refuse: only ftpipe's own server computes losses."""
        raise losses_not_supported(self._api.profile.title or self._api.base_url)

    def token_logprobs(self, model: str, ids: Sequence[int]) -> list[float | None]:  # noqa: ARG002
        """Refuse: only ftpipe's own server is asked for them."""
        raise losses_not_supported(self._api.profile.title or self._api.base_url, "tokens")

    def chat_address(self, model: str) -> ChatAddress:
        """Where chats with a model go; a tuned model answers under the name of its deployment."""
        client, name = self._route(model)
        return client.chat_address(name)

    def _route(self, model: str) -> tuple[ModelsClient, str]:
        """Who answers for a model, and under which name."""
        if time.monotonic() >= self._listed_until:
            try:
                deployments = self._deployments.list()
            except (ProviderError, ConfigError):
                deployments = []  # a base model answers without
            self._deployed = {one.name: one.chat_model for one in deployments if one.is_billed}
            self._listed_until = time.monotonic() + LIST_SECONDS
        name = self._deployed.get(deployment_name(model))
        return (self._dedicated, name) if name else (self._chat, model)


def _not_deployed(model: str, error: NotFoundError) -> NotFoundError:
    return NotFoundError(error.message, f"a tuned model answers after `ftpipe deployments create {model}`")
