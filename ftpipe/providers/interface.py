"""The parts of a provider: what stages, pipeline, commands and doctor call, whatever API the host has.

``files.py``, ``jobs.py`` and ``models.py`` implement them for hosts with the OpenAI API. A host with another API has a
package of its own, and ``open_provider`` chooses by the profile's ``api``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ftpipe.providers.client import ChatAddress
from ftpipe.providers.responses import (
    AnswerPiece,
    ChatCompletion,
    JobListing,
    PriceQuote,
    RemoteFile,
    RemoteModel,
    RemoteUpload,
    TrainingAvailability,
)
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobRequest, Method
from ftpipe.records.deployment import Deployment, DeploymentOption
from ftpipe.records.row_losses import RowLosses


class Files(Protocol):
    """The dataset files of a host."""

    def upload(self, path: Path, *, filename: str, on_bytes: Callable[[int], None]) -> RemoteFile:
        """Send a whole file; ``on_bytes`` is called with the number of bytes that were read.

        Raises:
            ResponseLostError: The file may be at the host.
        """

    def find(self, *, filename: str, size: int) -> list[RemoteFile]:
        """Files of that name and size, oldest first."""

    def all(self) -> list[RemoteFile]:
        """The files of every purpose that the key can see, newest first."""

    def get(self, file_id: str) -> RemoteFile:
        """Get one file; its status is ``processed`` when a job can use it."""

    def content(self, file_id: str) -> bytes:
        """Download a whole file."""

    def delete(self, file_id: str) -> None:
        """Delete a file."""


class Uploads(Protocol):
    """Uploads in parts that continue after a crash, as the OpenAI API has them."""

    def start(self, *, filename: str, size: int) -> RemoteUpload:
        """Start an upload in parts."""

    def add_part(self, upload_id: str, data: bytes) -> str:
        """Send one part; returns its id."""

    def complete(self, upload_id: str, part_ids: Iterable[str], *, md5: str) -> RemoteUpload:
        """Assemble the parts in the given order; ``md5`` is the hexadecimal digest of the whole."""

    def cancel(self, upload_id: str) -> None:
        """Cancel an upload in parts."""


class Jobs(Protocol):
    """The fine-tuning jobs of a host."""

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job: one request, never repeated here.

        Args:
            request: What is requested.
            key: The journal's key, which the job carries as far as the host allows that.

        Raises:
            OutcomeUnknownError: The job may exist.
            ProviderError: The job surely does not exist.
        """

    def check_can_create(
        self, model: str, *, method: Method | None = None, hyperparameters: Hyperparameters | None = None
    ) -> TrainingAvailability:
        """Check whether a job would be accepted, without creating one and before anything is uploaded.

        Raises:
            TrainingNotAvailableError: This organization is not allowed to create jobs.
            AuthenticationError: The key was refused, or is not allowed to create jobs.
            NotFoundError: The host does not train this model.
            RequestRefusedError: A hyperparameter is outside the host's limits.
        """

    def quote(self, request: JobRequest) -> PriceQuote | None:
        """The host's own estimate for a job on uploaded files; ``None`` if the host makes none."""

    def match_key(self, job: Job, key: str) -> bool | None:
        """Whether a job was created with the journal's key; ``None`` if the job shows no key at all."""

    def find_by_key(self, key: str) -> list[Job]:
        """Jobs that were created with the journal's key; empty if the host cannot be searched for it."""

    def recent(self, *, since: int = 0) -> Iterator[Job]:
        """Jobs, newest first if the host lists them so, down to ``since`` (UTC Unix seconds)."""

    def all(self) -> JobListing:
        """Every job that the key can see, newest first; a job that cannot be read does not hide the others."""

    def get(self, job_id: str) -> Job:
        """Get one job."""

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""

    def pause(self, job_id: str) -> Job:
        """Pause a job.

        Raises:
            RequestRefusedError: The host cannot pause jobs.
        """

    def resume(self, job_id: str) -> Job:
        """Continue a paused job.

        Raises:
            RequestRefusedError: The host cannot pause jobs.
        """

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, if the host allows that."""

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """Events whose ids are not in ``known``, oldest first; metrics are events of the type ``metrics``."""

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Checkpoints by step."""

    def download_weights(self, job_id: str, folder: Path, *, on_bytes: Callable[[int, int | None], None]) -> list[Path]:
        """Download the adapter of a job into an empty folder; returns its files.

        ``on_bytes`` is called with the bytes that have arrived, and all bytes if the host says how many.

        Raises:
            RequestRefusedError: The host does not give weights away.
        """


class Models(Protocol):
    """The models of a host, and chat with them."""

    def names(self) -> list[str]:
        """The models that the key can use, sorted."""

    def all(self) -> list[RemoteModel]:
        """The models that the key can use, in the order of the host."""

    def require_base(self, model: str) -> None:
        """Refuse a base model that the host does not have.

        Raises:
            NotFoundError: The host has no such model.
        """

    def delete(self, model: str) -> None:
        """Delete a tuned model.

        Raises:
            NotFoundError: The host has no such model.
        """

    def shutdown_date(self, model: str) -> str | None:
        """Day on which a model is shut down, ISO 8601; ``None`` if the host does not say."""

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> ChatCompletion:
        """One chat completion; ``sampling`` is passed on, for example ``temperature``, ``max_tokens`` and ``seed``.

        ``attempts`` among them is how often the request is sent at most, if its response is lost.
        """

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[AnswerPiece]:
        """One chat completion, piece by piece, with token probabilities and parts of tool calls if requested."""

    def chat_address(self, model: str) -> ChatAddress:
        """Where chats with a model go that are forwarded as they came; it may list the deployments."""

    def losses(self, path: Path, models: Sequence[str], *, on_rows: Callable[[int, int], None]) -> list[RowLosses]:
        """Loss of every row of a chat file under some models; only ftpipe's own server computes it.

        Raises:
            RequestRefusedError: The host does not compute it.
        """

    def token_logprobs(self, model: str, ids: Sequence[int]) -> list[float | None]:
        """Log-probability of each token of a text after those before it; ``None`` for the first one.

        Raises:
            RequestRefusedError: The host does not tell it, or the text is too long for the model.
        """


class Deployments(Protocol):
    """What serves tuned models at a host that does not serve them by themselves; it bills per hour."""

    def options(self, model: str, *, job_id: str) -> list[DeploymentOption]:
        """Ways to serve a tuned model, the cheapest first; empty if the host cannot serve it."""

    def create(self, model: str, option: DeploymentOption, *, name: str) -> Deployment:
        """Create a deployment; safe to repeat with the same name: what exists already is not created again.

        Args:
            model: The tuned model.
            option: From ``options``.
            name: From ``deployment_name``: it is in the journal before this call.

        Raises:
            OutcomeUnknownError: It may exist, and bill.
            ProviderError: It surely does not exist.
        """

    def list(self) -> list[Deployment]:
        """The deployments that ftpipe made with this key, running or not."""

    def stop(self, name: str) -> Deployment:
        """Stop a deployment, so that it does not bill any more; stopping it twice does no harm.

        Raises:
            NotFoundError: The host has no such deployment.
        """
