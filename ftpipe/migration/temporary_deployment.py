"""Serve a new model for the time of the comparison, at hosts where a model answers only while it is deployed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpipe.errors import CostLimitError, FtpipeError, NotFoundError
from ftpipe.formatting import format_money
from ftpipe.providers.provider import Provider
from ftpipe.records import Model
from ftpipe.records.deployment import DeploymentOption
from ftpipe.registry import Registry
from ftpipe.stages.deploy import DeployModel

BUDGETED_HOURS = 1.0
"""Hours of a deployment that have to fit into the limit before it is started."""


@contextmanager
def temporary_deployment(
    model: Model,
    provider: Provider,
    registry: Registry,
    *,
    is_own: bool,
    confirm: Callable[[DeploymentOption], None],
    on_start: Callable[[], None],
    on_status: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Deploy a model for the block, and stop the deployment after it, whatever happens in the block.

    A deployment that somebody else has started is used, and stays.

    Args:
        model: The model.
        provider: Its host.
        registry: Has the journal of paid calls.
        is_own: Whether this migration has started a deployment of the model before, and was interrupted.
        confirm: Asks for the price per hour; raises if the answer is no.
        on_start: Called before a deployment is created, to note that it has to be stopped.
        on_status: Called with what the user should know.
        sleep: Waits.

    Yields:
        The name to chat with.
    """
    deploy = DeployModel(model, provider, registry, on_status=on_status, sleep=sleep)
    existing = deploy.existing()
    stays = existing is not None and not is_own
    if existing is None:
        option = deploy.options()[0]
        confirm(option)
        on_start()
    try:
        deployment = existing or deploy.run(option)
        yield deploy.wait_until_ready(deployment).chat_model
    finally:
        if stays:
            on_status(f"{deploy.name} ran before, and still does")
        else:
            stop_deployment(model, provider, registry, on_status)


def stop_deployment(model: Model, provider: Provider, registry: Registry, on_status: Callable[[str], None]) -> None:
    """Stop the deployment of a model, if there is one; if that fails, the command that does it is told."""
    deploy = DeployModel(model, provider, registry)
    try:
        deploy.stop()
    except NotFoundError:
        return  # it was never created
    except FtpipeError as exc:
        on_status(
            f"{deploy.name} could not be stopped and is still billed: {exc.message}; "
            f"stop it with `ftpipe deployments stop {deploy.name}`"
        )
        return
    on_status(f"{deploy.name} was stopped; `ftpipe deployments create {deploy.model.id}` starts it for use")


def require_budget(option: DeploymentOption, *, spent: float, max_cost: float | None) -> None:
    """Refuse a deployment of which an hour is not within the limit, or whose price is not known.

    Raises:
        CostLimitError: It is not; the model is trained and is not lost.
    """
    if max_cost is None:
        return
    hint = "the model is trained and registered; run the same command again with a higher --max-cost"
    if option.price_per_hour is None:
        raise CostLimitError(f"the price of {option.hardware} is not known, so --max-cost cannot be checked", hint)
    high = spent + option.price_per_hour * BUDGETED_HOURS
    if high > max_cost:
        raise CostLimitError(
            f"with an hour of {option.hardware} at {format_money(option.price_per_hour)} per hour this may cost "
            f"{format_money(high)}, over the limit of {format_money(max_cost)}",
            hint,
        )
