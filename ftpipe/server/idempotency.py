"""Idempotency-Key: the same request twice has one effect and the same response.

The response is stored in the transaction of its effect, so a crash leaves both or neither.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError, ApiRequest, bad_request
from ftpipe.server.storage import IdempotencyRow, Transaction

RETENTION_SECONDS = 7 * 24 * 3600
MAX_KEY_LENGTH = 255


class InFlightKeys:
    """Keys of requests that are being processed."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, owner: str, key: str | None) -> Iterator[None]:
        """Refuse a second request with the same key while the first one is processed.

        Raises:
            ApiError: 409 if the key is in use; 400 if it is too long.
        """
        if key is None:
            yield
            return
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            message = f"The Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters."
            raise bad_request(message, "Idempotency-Key")
        with self._lock:
            if (owner, key) in self._keys:
                message = "A request with this Idempotency-Key is being processed."
                raise ApiError(409, message, "idempotency_key_in_use", "Idempotency-Key")
            self._keys.add((owner, key))
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard((owner, key))


def request_fingerprint(method: str, path: str, request: ApiRequest) -> str:
    """A digest of a request, with the name and content of its file."""
    file = None if request.file is None else [request.file.filename, request.file.sha256]
    return hashlib.sha256(canonical_json([method, path, dict(request.body), file])).hexdigest()


def find_stored_response(tx: Transaction, owner: str, key: str, fingerprint: str) -> IdempotencyRow | None:
    """The stored response of a key, or ``None``.

    Raises:
        ApiError: 422 if the key was used for another request.
    """
    stored = tx.idempotency_keys.find(owner, key)
    if stored is not None and stored.fingerprint != fingerprint:
        message = "This Idempotency-Key was used with another request."
        raise ApiError(422, message, "idempotency_key_reused", "Idempotency-Key")
    return stored


def store_response(tx: Transaction, owner: str, key: str, fingerprint: str, body: Mapping[str, Any]) -> None:
    """Store a response in the transaction of its effect."""
    moment = now()
    tx.idempotency_keys.delete_before(moment - RETENTION_SECONDS)
    tx.idempotency_keys.add(IdempotencyRow(owner, key, fingerprint, 200, dict(body), moment))
