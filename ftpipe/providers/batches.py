"""The Batch API of an endpoint: many chat requests in one file, answered within a day for half the price."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Final

from ftpipe.errors import LocalStateError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.files import MIME, MIN_BYTES_PER_SECOND
from ftpipe.providers.jobs import KEY_NAME
from ftpipe.providers.responses import RemoteBatch, RemoteFile, batch_of, file_of

CHAT_URL: Final = "/v1/chat/completions"
"""The only route whose requests ftpipe sends in a batch."""
MAX_REQUESTS = 50_000
"""Requests in one batch. Source: OpenAI API description, createBatch, 2026-08-21."""
MAX_FILE_BYTES = 200_000_000
"""Size of the file of requests. Source: the same."""
MAX_LISTED = 500
"""How many batches of a list are read, newest first."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""Statuses after which a batch does not change.

An expired or cancelled batch has answers, too, if some were ready, and they are paid.
Source: help.openai.com/en/articles/9197833, Batch API FAQ, read 2026-11-28.
"""


class BatchesClient:
    """The batches of an endpoint, with their files."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def upload(self, path: Path, *, filename: str) -> RemoteFile:
        """Upload a file of requests, one JSON object per line; it costs nothing.

        Raises:
            ResponseLostError: The file may exist at the endpoint.
        """
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise LocalStateError(f"cannot read {path}: {exc.strerror}", "run the same command again") from exc
        return self._api.write(
            f"upload {filename}",
            lambda client: client.files.create(file=(filename, data, MIME), purpose="batch"),
            file_of,
            seconds=max(self._api.profile.request_timeout_seconds, len(data) / MIN_BYTES_PER_SECOND),
        )

    def find_file(self, *, filename: str, size: int) -> RemoteFile | None:
        """The oldest uploaded file of requests with that name and size, if there is one."""
        listed = self._api.read(
            "list the files",
            lambda client: [
                file_of(item)
                for item in self._api.iter_items(client.files.list(purpose="batch", order="desc", limit=10_000))
            ],
            list,
        )
        same = [file for file in listed if file.filename == filename and file.bytes == size]
        return min(same, key=lambda file: file.created_at, default=None)

    def create(self, input_file: str, *, key: str) -> RemoteBatch:
        """Create a batch of chat requests: one POST, never repeated here.

        Args:
            input_file: Id of the uploaded file of requests.
            key: Goes into the metadata and the Idempotency-Key header.

        Raises:
            OutcomeUnknownError: The batch may exist.
            ProviderError: The batch surely does not exist.
        """
        return self._api.write(
            "create the batch",
            lambda client: client.batches.create(
                input_file_id=input_file,
                endpoint=CHAT_URL,
                completion_window="24h",
                metadata={KEY_NAME: key},
                extra_headers={"Idempotency-Key": key},
            ),
            batch_of,
            paid=True,
        )

    def get(self, batch_id: str) -> RemoteBatch:
        """Get one batch."""
        return self._api.read(f"get batch {batch_id}", lambda client: client.batches.retrieve(batch_id), batch_of)

    def with_key(self, key: str) -> list[RemoteBatch]:
        """The batches that were created with a key, oldest first.

        Raises:
            NotFoundError: The endpoint has no Batch API.
        """
        listed = self._api.read(
            "list the batches",
            lambda client: [
                batch_of(item) for item in islice(self._api.iter_items(client.batches.list(limit=100)), MAX_LISTED)
            ],
            list,
        )
        same = [batch for batch in listed if batch.metadata.get(KEY_NAME) == key]
        return sorted(same, key=lambda batch: (batch.created_at, batch.id))

    def content(self, file_id: str) -> bytes:
        """Download a file of answers or errors."""
        return self._api.read(f"download file {file_id}", lambda client: client.files.content(file_id).read(), bytes)
