"""``/v2/projects/…/endpoints``: the deployments that serve tuned models, billed by the minute.

An endpoint has the name that callers use, and a deployment below it the hardware. ftpipe gives both one name, made of
the tuned model's, so that a call whose response was lost can be made again: what exists is found by its name.

Source: ``together`` 3.1.1, ``resources/endpoints`` and ``resources/models/configs.py``; docs.together.ai, 2026-08.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ftpipe.errors import ConfigError, InvalidResponseError, NotFoundError, ProviderError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import as_dict, checked_id, number, text
from ftpipe.providers.rest import request_json
from ftpipe.providers.together.responses import items_of, seconds_of
from ftpipe.records.deployment import NAME_PREFIX, Deployment, DeploymentOption

STATES = {
    "DEPLOYMENT_STATE_PROVISIONING": "starting",
    "DEPLOYMENT_STATE_SCALING": "starting",
    "DEPLOYMENT_STATE_READY": "ready",
    "DEPLOYMENT_STATE_DEGRADED": "ready",
    "DEPLOYMENT_STATE_STOPPING": "stopping",
    "DEPLOYMENT_STATE_STOPPED": "stopped",
    "DEPLOYMENT_STATE_FAILED": "failed",
}
IDLE_MINUTES = 60
"""After so long without a request a deployment stops by itself; 30 to 1440 are accepted."""
MAX_STOP_SECONDS = 600.0
STOP_POLL_SECONDS = 5.0
MAX_PAGES = 100


class TogetherDeployments:
    """The deployments of a project.

    Args:
        api: Makes the calls.
        endpoint: Fingerprint for which ids are valid.
        project: Id of the project; empty for that of the key.
        sleep: Waits for a deployment to stop.
    """

    def __init__(
        self, api: ApiClient, *, endpoint: str, project: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._api = api
        self._endpoint = endpoint
        self._project = project
        self._sleep = sleep
        self._prices: dict[str, float] = {}

    def options(self, model: str, *, job_id: str) -> list[DeploymentOption]:
        """Configurations that can serve the model of a job, the cheapest first; empty if none can."""
        fields = self._read(f"get job {job_id}", f"/v1/fine-tunes/{job_id}")
        object_id = text(fields.get("model_object_id"))
        if not object_id:
            return []
        resource = f"projects/{self.project}/models/{object_id}"
        configs = self._pages(f"list what can serve {model}", self._path("configs"), {"referenceModel": resource})
        options = [self._option_of(config, resource) for config in configs]
        return sorted(options, key=lambda option: (option.price_per_hour is None, option.price_per_hour or 0.0))

    def can_serve_base(self, base: str) -> bool | None:
        """Whether models tuned from a base can be served; ``None`` if that cannot be found out."""
        try:
            listed = self._pages(f"look up {base}", "/v2/supported-models", {"search": base})
            resource = next((text(one.get("baseModel")) for one in listed if text(one.get("name")) == base), "")
            if not resource:
                return None
            query = {"referenceModel": resource}
            return next(self._pages(f"list what can serve {base}", self._path("configs"), query), None) is not None
        except (ProviderError, ConfigError):
            return None

    def create(self, model: str, option: DeploymentOption, *, name: str) -> Deployment:
        """Create endpoint, deployment and route, as far as they do not exist under this name."""
        found = self._find(name)
        endpoint_id = found[0] if found else self._create_endpoint(name)
        deployments = self._deployments_of(endpoint_id)
        if not deployments:
            body = {
                "name": name,
                "model": option.model,
                "config": option.id,
                "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
                "inactiveTimeout": IDLE_MINUTES,
            }
            path = self._path(f"endpoints/{endpoint_id}/deployments")
            # a check of the request that creates nothing
            self._api.call_once(
                f"check the deployment of {model}",
                lambda client: request_json(client, "POST", path, body=body, query={"validateOnly": "true"}),
                lambda _response: None,
            )
            created = self._api.write(
                f"create the deployment of {model}",
                lambda client: request_json(client, "POST", path, body=body),
                as_dict,
                paid=True,
            )
            deployments = (created,)
        deployment_id = checked_id(deployments[0], "deployment")
        route = f"endpoints/{endpoint_id}/deployments/{deployment_id}"
        if self._deployment_of(deployments[0], endpoint={}, model=model).state == "stopped":
            self._scale(f"start the deployment of {model}", route, replicas=1)
        self._api.call_once(
            f"route requests to the deployment of {model}",
            lambda client: request_json(
                client,
                "PATCH",
                self._path(f"endpoints/{endpoint_id}"),
                body={"trafficSplit": [{"deploymentId": deployment_id, "weight": 1}]},
            ),
            lambda _response: None,
        )
        endpoint = self._read(f"get endpoint {name}", self._path(f"endpoints/{endpoint_id}"))
        current = self._deployment_of(self._read(f"get deployment {name}", self._path(route)), endpoint, model=model)
        return current.model_copy(update={"hardware": option.hardware, "price_per_hour": option.price_per_hour})

    def list(self) -> list[Deployment]:
        """The deployments whose endpoints have a name of ftpipe's."""
        return [
            self._deployment_of(deployment, endpoint, model="")
            for endpoint in self._own_endpoints()
            for deployment in self._deployments_of(checked_id(endpoint, "endpoint"))
        ]

    def stop(self, name: str) -> Deployment:
        """Scale to zero, wait until it is stopped, then delete deployment and endpoint."""
        found = self._find(name)
        if found is None:
            raise NotFoundError(f"Together has no deployment {name}", "`ftpipe deployments list` lists them")
        endpoint_id, endpoint = found
        last: Deployment | None = None
        for fields in self._deployments_of(endpoint_id):
            deployment_id = checked_id(fields, "deployment")
            last = self._stop_one(endpoint, f"endpoints/{endpoint_id}/deployments/{deployment_id}")
        self._delete(f"delete endpoint {name}", f"endpoints/{endpoint_id}")
        if last is None:
            last = self._deployment_of({"id": endpoint_id, "status": {}}, endpoint, model="")
        return last.model_copy(update={"state": "stopped"})

    @property
    def project(self) -> str:
        """Id of the project.

        Raises:
            ConfigError: The key belongs to several, and none is named.
        """
        if not self._project:
            fields = self._read("find out the key's project", "/v3/whoami")
            project = fields.get("project")
            self._project = text(project.get("id")) if isinstance(project, Mapping) else ""
        if not self._project:
            raise ConfigError("the key belongs to no single project", "set TOGETHER_PROJECT_ID to one of its projects")
        return quote(self._project, safe="")

    def _stop_one(self, endpoint: dict[str, Any], route: str) -> Deployment:
        """Stop a deployment and delete it; an error leaves it as it is, so that stopping can be repeated."""
        path, left = self._path(route), MAX_STOP_SECONDS
        self._scale("stop the deployment", route, replicas=0)
        deployment = self._deployment_of(self._read("get the deployment", path), endpoint, model="")
        while deployment.is_billed and left > 0:
            self._sleep(STOP_POLL_SECONDS)
            left -= STOP_POLL_SECONDS
            deployment = self._deployment_of(self._read("get the deployment", path), endpoint, model="")
        if deployment.is_billed:
            raise ProviderError(
                f"{deployment.name} is still {deployment.state} after {MAX_STOP_SECONDS:.0f} s, and is billed",
                f"run `ftpipe deployments stop {deployment.name}` again",
            )
        self._delete("delete the deployment", route)
        return deployment

    def _scale(self, what: str, route: str, *, replicas: int) -> None:
        body = {"autoscaling": {"minReplicas": replicas, "maxReplicas": replicas}}
        self._api.call_once(
            what,
            lambda client: request_json(client, "PATCH", self._path(route), body=body),
            lambda _response: None,
        )

    def _create_endpoint(self, name: str) -> str:
        return self._api.write(
            f"create endpoint {name}",
            lambda client: request_json(client, "POST", self._path("endpoints"), body={"name": name}),
            lambda response: checked_id(as_dict(response), "endpoint"),
        )

    def _own_endpoints(self) -> Iterator[dict[str, Any]]:
        for endpoint in self._pages("list the endpoints", self._path("endpoints"), {}):
            if _bare_name(endpoint).startswith(NAME_PREFIX):
                yield endpoint

    def _find(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """Id and fields of the endpoint with that name."""
        found = next((endpoint for endpoint in self._own_endpoints() if _bare_name(endpoint) == name), None)
        return (checked_id(found, "endpoint"), found) if found is not None else None

    def _deployments_of(self, endpoint_id: str) -> tuple[dict[str, Any], ...]:
        return tuple(self._pages("list the deployments", self._path(f"endpoints/{endpoint_id}/deployments"), {}))

    def _delete(self, what: str, route: str) -> None:
        try:
            self._api.call_once(
                what, lambda client: request_json(client, "DELETE", self._path(route)), lambda _response: None
            )
        except NotFoundError:
            return

    def _option_of(self, config: dict[str, Any], model: str) -> DeploymentOption:
        selectors = {
            "".join(filter(str.isalnum, text(one.get("key")).lower())): text(one.get("value"))
            for one in config.get("selectors") or []
            if isinstance(one, Mapping)
        }
        hardware = f"{selectors.get('gpucount', '1')}x {selectors.get('gputype', 'GPU')}"
        owner = text(config.get("projectId")) or self.project
        return DeploymentOption(
            id=f"projects/{owner}/configs/{checked_id(config, 'config')}",
            model=model,
            hardware=hardware,
            price_per_hour=self._price_of(hardware),
        )

    def _price_of(self, hardware: str) -> float | None:
        """USD per hour of one replica, from the public list of hardware."""
        if not self._prices:
            try:
                fields = self._read("get the prices of hardware", "/v2/public/inference-instance-types")
            except ProviderError:
                return None
            for item in items_of(fields):
                row = as_dict(item)
                cents = number(row.get("priceCentsPerHour"))
                if cents is not None:
                    self._prices[f"{row.get('gpuCount')}x {row.get('gpuType')}".lower()] = cents / 100
        return self._prices.get(hardware.lower())

    def _deployment_of(self, fields: dict[str, Any], endpoint: dict[str, Any], *, model: str) -> Deployment:
        status = fields.get("status")
        state = text(status.get("state")) if isinstance(status, Mapping) else ""
        hardware = text(fields.get("hardware"))
        return Deployment(
            name=_bare_name(endpoint),
            id=checked_id(fields, "deployment"),
            endpoint=self._endpoint,
            provider=self._api.profile.name,
            model=model,
            chat_model=text(endpoint.get("name")),
            state=STATES.get(state, state.lower() or "unknown"),
            hardware=hardware,
            price_per_hour=self._price_of(hardware) if hardware else None,
            created_at=seconds_of(fields.get("createdAt")),
        )

    def _path(self, route: str) -> str:
        return f"/v2/projects/{self.project}/{route}"

    def _read(self, what: str, path: str) -> dict[str, Any]:
        return self._api.read(what, lambda client: request_json(client, "GET", path), as_dict)

    def _pages(self, what: str, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """All items of a list with cursors; it ends in any case."""
        after: str | None = None
        for _ in range(MAX_PAGES):
            cursor = {**query, **({"after": after} if after else {})}
            page = self._api.read(
                what,
                lambda client, cursor=cursor: request_json(  # type: ignore[misc]  # bound in each round
                    client, "GET", path, query=cursor
                ),
                as_dict,
            )
            for item in items_of(page):
                yield as_dict(item)
            following = text(page.get("next_cursor") or page.get("nextCursor"))
            if not following or following == after:
                return
            after = following
        raise InvalidResponseError(f"could not {what}: the list does not end")


def _bare_name(endpoint: Mapping[str, Any]) -> str:
    """The name without the project before it."""
    return text(endpoint.get("name")).rsplit("/", 1)[-1]
