"""Deploy a tuned model at a host that bills for it per hour: the intent is on disk before anything is created."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from ftpipe.errors import FtpipeError, OutcomeUnknownError, ProviderError, RequestRefusedError, ResponseLostError
from ftpipe.providers.interface import Deployments
from ftpipe.providers.provider import Provider
from ftpipe.records import Model
from ftpipe.records.deployment import Deployment, DeploymentOption, deployment_name
from ftpipe.registry import Registry
from ftpipe.registry.journal import OperationState

KIND = "deploy"
MAX_ATTEMPTS = 3
"""How often the calls are made; each looks for what the one before created, by its name."""
PAUSE_SECONDS = 5.0
MAX_START_SECONDS = 1800.0
"""How long a deployment may take until it answers."""
POLL_SECONDS = 10.0


@dataclass
class DeployModel:
    """Deploys a model, or finds the deployment that was made before."""

    model: Model
    provider: Provider
    registry: Registry
    on_status: Callable[[str], None] = lambda _text: None
    """Is called with what the user should know."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    """UTC Unix seconds."""

    @property
    def deployments(self) -> Deployments:
        """The host's deployments.

        Raises:
            RequestRefusedError: Nothing can be deployed there by ftpipe.
        """
        profile = self.provider.profile
        if self.provider.deployments is None:
            hint = profile.deployment_hint or f"`ftpipe chat {self.model.id}` uses the model as it is"
            raise RequestRefusedError(f"nothing is deployed at {profile.title or profile.name} with this command", hint)
        return self.provider.deployments

    @property
    def name(self) -> str:
        """The name of the model's deployment."""
        return deployment_name(self.model.id)

    def options(self) -> list[DeploymentOption]:
        """Ways to serve the model, the cheapest first.

        Raises:
            RequestRefusedError: There is none.
        """
        options = self.deployments.options(self.model.id, job_id=self.model.job_id)
        if not options:
            raise RequestRefusedError(
                f"{self.provider.profile.title or self.provider.profile.name} cannot serve {self.model.id}",
                f"`ftpipe models download {self.model.id}` gives you its adapter, to be served elsewhere",
            )
        return options

    def existing(self) -> Deployment | None:
        """The deployment that runs already, as the host says."""
        found = next((one for one in self.deployments.list() if one.name == self.name and one.is_billed), None)
        return self._confirm(self._open_key(), found) if found is not None else None

    def run(self, option: DeploymentOption) -> Deployment:
        """Create the deployment; it is billed from now on.

        Raises:
            OutcomeUnknownError: It may exist, and is billed then; running this again finds out.
        """
        key, attempt = self._open_key(), 1
        while True:
            self._record_intent(key, option)
            try:
                return self._confirm(key, self.deployments.create(self.model.id, option, name=self.name))
            except (OutcomeUnknownError, ResponseLostError) as exc:
                self.registry.journal.mark_unknown(key, exc.message)
                if attempt == MAX_ATTEMPTS:
                    raise OutcomeUnknownError(
                        f"the deployment {self.name} may exist, and is billed then: {exc.message}",
                        f"run `ftpipe deployments create {self.model.id}` again; it looks for {self.name} first",
                    ) from exc
                self.on_status(f"{exc.message}; looking for {self.name} before anything is sent again")
            except FtpipeError as exc:
                self._settle(key, option, exc)
                raise
            attempt += 1
            self.sleep(PAUSE_SECONDS)

    def _settle(self, key: str, option: DeploymentOption, error: FtpipeError) -> None:
        """Record after an error whether anything exists: the error can be of a step after the one that is billed."""
        try:
            found = self.existing()
        except FtpipeError as exc:
            self.registry.journal.mark_unknown(key, exc.message)
            return
        if found is None:
            self.registry.journal.reject(key, error.message)
            self._save(self._requested(option).model_copy(update={"state": "failed"}))

    def _record_intent(self, key: str, option: DeploymentOption) -> None:
        self.registry.journal.record_intent(
            key=key,
            run_id=self.model.run_id or self.model.id,
            kind=KIND,
            endpoint=self.provider.endpoint,
            request_digest=hashlib.sha256(self.model.id.encode()).hexdigest(),
            estimated_cost=option.price_per_hour,
        )
        self._save(self._requested(option))

    def _requested(self, option: DeploymentOption) -> Deployment:
        """What is known before the host has answered, so that a lost deployment is listed as one that may be billed."""
        return Deployment(
            name=self.name,
            id="",
            endpoint=self.provider.endpoint,
            provider=self.provider.profile.name,
            model=self.model.id,
            chat_model="",
            state="requested",
            hardware=option.hardware,
            price_per_hour=option.price_per_hour,
            created_at=int(self.clock()),
        )

    def _confirm(self, key: str, deployment: Deployment) -> Deployment:
        if self.registry.journal.find(key) is not None:
            self.registry.journal.confirm(key, deployment.id)
        return self._save(deployment)

    def wait_until_ready(self, deployment: Deployment) -> Deployment:
        """Wait until the deployment answers; it is billed meanwhile.

        Raises:
            ProviderError: It failed, or takes too long.
        """
        left = MAX_START_SECONDS
        while deployment.state not in ("ready", "failed", "stopped"):
            if left <= 0:
                raise ProviderError(
                    f"{self.name} is billed, and still {deployment.state} after {MAX_START_SECONDS / 60:.0f} minutes",
                    f"`ftpipe deployments list` shows it, `ftpipe deployments stop {self.name}` ends the costs",
                )
            self.sleep(POLL_SECONDS)
            left -= POLL_SECONDS
            current = next((one for one in self.deployments.list() if one.name == self.name), None)
            if current is not None:
                deployment = self._save(current)
        if deployment.state != "ready":
            raise ProviderError(
                f"{self.name} is {deployment.state}; it does not answer",
                f"`ftpipe deployments stop {self.name}` removes it, then deploy again",
            )
        return deployment

    def stop(self) -> Deployment:
        """Stop the deployment, so that it costs nothing any more."""
        return self._save(self.deployments.stop(self.name))

    def _save(self, deployment: Deployment) -> Deployment:
        """Save what the host says, with what only this registry knows."""
        known = self.registry.deployments.find(self.provider.endpoint, self.name)
        deployment = deployment.model_copy(
            update={
                "model": self.model.id,
                "hardware": deployment.hardware or (known.hardware if known else ""),
                "price_per_hour": deployment.price_per_hour
                if deployment.price_per_hour is not None or known is None
                else known.price_per_hour,
            }
        )
        self.registry.deployments.save(deployment)
        return deployment

    def _open_key(self) -> str:
        """The journal's key of the call that is not confirmed, or of a new one if the last deployment was stopped."""
        keys = (
            hashlib.sha256(f"{KIND}\n{self.provider.endpoint}\n{self.name}\n{number}".encode()).hexdigest()
            for number in count()
        )
        return next(key for key in keys if not self._is_confirmed(key))

    def _is_confirmed(self, key: str) -> bool:
        operation = self.registry.journal.find(key)
        return operation is not None and operation.state == OperationState.CONFIRMED
