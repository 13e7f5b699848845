"""Delete models and jobs: first at their endpoint, then in the registry."""

from __future__ import annotations

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.providers.provider import Provider
from ftpipe.records import Job, Model
from ftpipe.registry import Registry


def delete_model(model: Model, *, provider: Provider, registry: Registry) -> bool:
    """Delete a model for good.

    Returns:
        Whether its endpoint still had it.

    Raises:
        UsageError: The provider leads to another endpoint than the one that has the model.
        ProviderError: The endpoint did not delete it; the registry was not changed.
    """
    require_endpoint(model.id, model.endpoint, provider)
    try:
        provider.models.delete(model.id)
        existed = True
    except NotFoundError:
        existed = False
    registry.runs.delete_model(model)
    return existed


def delete_job(job: Job, *, provider: Provider, registry: Registry) -> bool:
    """Delete a job that has ended from the registry, and at ftpipe's own server; others cannot delete jobs.

    Returns:
        Whether its endpoint has deleted it.

    Raises:
        UsageError: The job has not ended, or the provider leads to another endpoint than the one that has the job.
        ProviderError: The endpoint did not answer or did not delete it; the registry was not changed.
    """
    require_endpoint(job.id, job.endpoint, provider)
    is_deleted = False
    try:
        current = provider.jobs.get(job.id)
        if not current.is_finished:
            raise UsageError(f"{job.id} is {current.status}", f"cancel it first: `ftpipe jobs cancel {job.id}`")
        if provider.profile.target == "local":
            provider.jobs.delete(job.id)
            is_deleted = True
    except NotFoundError:
        pass
    registry.runs.delete_job(job)
    return is_deleted


def require_endpoint(name: str, endpoint: str, provider: Provider) -> None:
    """Refuse to delete at another endpoint, which may have something else of the same name.

    Raises:
        UsageError: The provider leads to another endpoint.
    """
    if provider.endpoint != endpoint:
        raise UsageError(
            f"{name} is at {endpoint}, and {provider.profile.name} now leads to {provider.endpoint}",
            "use the address with which it was trained, or add --only-registry to keep it there",
        )
