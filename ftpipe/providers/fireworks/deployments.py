"""Deployments of Fireworks: a tuned model merged into its base, on hardware that is scaled to zero without requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai

from ftpipe.errors import NotFoundError
from ftpipe.providers.fireworks.api import RESOURCE_ID, FireworksApi, id_of
from ftpipe.providers.fireworks.models import FireworksModels, chat_forms
from ftpipe.providers.fireworks.responses import unix_seconds
from ftpipe.records.deployment import NAME_PREFIX, Deployment, DeploymentOption

SCALE_TO_ZERO_WINDOW = "300s"
"""The shortest allowed: without requests a deployment costs nothing after it. Source: fireworks-ai 1.2.30."""
DEFAULT_SHAPE = "default"
"""The host chooses a validated shape for the model. Source: fireworks-ai 1.2.30, deployment_create_params.py."""
USD_PER_GPU_HOUR = {"NVIDIA_H100_80GB": 8.0}
"""Source: public run logs, 2026-10 (second-hand); other types are not known."""
STATES = {
    "CREATING": "starting",
    "UPDATING": "starting",
    "READY": "ready",
    "DELETING": "stopping",
    "DELETED": "stopped",
    "FAILED": "failed",
}


class FireworksDeployments:
    """The deployments of an account that ftpipe made.

    Args:
        fireworks: Makes the calls.
        models: The models of the same account.
        endpoint: Fingerprint of the endpoint.
    """

    def __init__(self, fireworks: FireworksApi, models: FireworksModels, *, endpoint: str) -> None:
        self._fireworks = fireworks
        self._api = fireworks.api
        self._models = models
        self._endpoint = endpoint

    def options(self, model: str, *, job_id: str) -> list[DeploymentOption]:
        """The shape that Fireworks would choose for a tuned model, from a request that creates nothing."""
        name = self._models.full_name(model)
        collection = self._collection
        fields = self._api.read(
            f"check how {name} can be deployed",
            lambda client: self._fireworks.post(
                client, collection, _body(name, DEFAULT_SHAPE, job_id), {"deploymentId": job_id, "validateOnly": "true"}
            ),
            dict,
        )
        hardware, price = hardware_of(fields)
        shape = str(fields.get("deploymentShape") or DEFAULT_SHAPE)
        return [DeploymentOption(id=shape, model=name, hardware=hardware, price_per_hour=price)]

    def create(
        self,
        model: str,  # noqa: ARG002 - the option has its full name
        option: DeploymentOption,
        *,
        name: str,
    ) -> Deployment:
        """Create the deployment of that id; one that exists is returned as it is, and restored if it was deleted.

        A deleted deployment is kept for a while under its id. Source: fireworks-ai 1.2.30, ``deployments.undelete``.

        Raises:
            OutcomeUnknownError: It may exist, and bill.
            ProviderError: It surely does not exist.
        """
        collection, path = self._collection, self._path(name)

        def call(client: openai.OpenAI) -> dict[str, Any]:
            try:
                body = _body(option.model, option.id, name)
                return self._fireworks.post(client, collection, body, {"deploymentId": name})
            except openai.ConflictError as conflict:
                try:
                    fields = self._fireworks.get(client, path)
                except openai.NotFoundError:
                    raise conflict from None
                if fields.get("state") in ("DELETING", "DELETED"):
                    self._fireworks.post(client, f"{path}:undelete", {})
                if fields.get("maxReplicaCount") == 0:
                    replicas = {"baseModel": option.model, "minReplicaCount": 0, "maxReplicaCount": 1}
                    self._fireworks.patch(client, path, replicas)
                return self._fireworks.get(client, path)

        return self._api.write(f"create deployment {name}", call, self._deployment, paid=True)

    def list(self) -> list[Deployment]:
        """The deployments whose ids ftpipe chose, running or not."""
        collection = self._collection
        listed = self._api.read("list the deployments", lambda client: self._fireworks.list(client, collection), list)
        return [
            self._deployment(fields)
            for fields in listed
            if str(fields.get("name")).rsplit("/", 1)[-1].startswith(NAME_PREFIX)
        ]

    def stop(self, name: str) -> Deployment:
        """Delete a deployment, so that it does not bill any more; one that is deleted already is no error.

        Raises:
            NotFoundError: There is no such deployment.
        """
        path = self._path(name)

        def call(client: openai.OpenAI) -> dict[str, Any]:
            fields = self._fireworks.get(client, path)
            if fields.get("state") not in ("DELETING", "DELETED"):
                self._fireworks.delete(client, path, ignoreChecks="true")
            try:
                return self._fireworks.get(client, path)
            except openai.NotFoundError:
                return {**fields, "state": "DELETED"}

        return self._api.call_once(f"stop deployment {name}", call, self._deployment)

    @property
    def _collection(self) -> str:
        return f"{self._fireworks.parent}/deployments"

    def _path(self, name: str) -> str:
        if not RESOURCE_ID.fullmatch(name):
            raise NotFoundError(
                f"{name[:200]!r} is not the id of a deployment of Fireworks", "`ftpipe deployments list` lists them"
            )
        return f"{self._collection}/{name}"

    def _deployment(self, fields: Mapping[str, Any]) -> Deployment:
        return deployment_of(fields, endpoint=self._endpoint, provider=self._api.profile.name)


def _body(model: str, shape: str, name: str) -> dict[str, Any]:
    return {
        "baseModel": model,
        "displayName": name,
        "deploymentShape": shape,
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleToZeroWindow": SCALE_TO_ZERO_WINDOW},
    }


def deployment_of(fields: Mapping[str, Any], *, endpoint: str, provider: str) -> Deployment:
    """A deployment; one that is scaled to zero and stays there is stopped, whatever its state is."""
    deployment_id, state = id_of(fields.get("name"), what="deployment"), str(fields.get("state") or "unknown")
    model = str(fields.get("baseModel") or "")
    hardware, price = hardware_of(fields)
    is_off = fields.get("maxReplicaCount") == 0 and state in ("READY", "UPDATING")
    return Deployment(
        name=deployment_id,
        id=str(fields["name"]),
        endpoint=endpoint,
        provider=provider,
        model=model,
        chat_model=chat_forms(model, str(fields["name"]))[0],
        state="stopped" if is_off else STATES.get(state, state.lower()[:64]),
        hardware=hardware,
        price_per_hour=price,
        created_at=unix_seconds(fields.get("createTime")) or 0,
    )


def hardware_of(fields: Mapping[str, Any]) -> tuple[str, float | None]:
    """The hardware of one replica, and its price per hour while it runs, if that is known."""
    kind = str(fields.get("acceleratorType") or "")
    count = fields.get("acceleratorCount")
    number = count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 1
    price = USD_PER_GPU_HOUR.get(kind)
    text = f"{number} × {kind.removeprefix('NVIDIA_').replace('_', ' ')}" if kind else "chosen by Fireworks"
    return text, None if price is None else price * number
