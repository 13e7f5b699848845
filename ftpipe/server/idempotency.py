"""The same Idempotency-Key twice: one effect, the same answer.

The answer is stored in the transaction of its effect, so a crash leaves both or neither.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError, ApiRequest, ApiResponse, bad_request
from ftpipe.server.storage import IdempotencyRow, Transaction

RETENTION_SECONDS = 7 * 24 * 3600
MAX_KEY = 255


class InFlightKeys:
    """Keys whose first request has not been answered yet."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, owner: str, key: str | None) -> Iterator[None]:
        """Keep a second request with the same key out while the first is at work.

        Raises:
            ApiError: 409 where the key is in use; 400 where it is too long.
        """
        if key is None:
            yield
            return
        if not 1 <= len(key) <= MAX_KEY:
            message = f"The Idempotency-Key must have 1 to {MAX_KEY} characters."
            raise bad_request(message, "Idempotency-Key")
        with self._lock:
            if (owner, key) in self._keys:
                message = "A request with this Idempotency-Key is being worked on."
                raise ApiError(409, message, "idempotency_key_in_use", "Idempotency-Key")
            self._keys.add((owner, key))
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard((owner, key))


def fingerprint(method: str, path: str, call: ApiRequest) -> str:
    """A digest of everything that a request asks for; of a file its content and name."""
    file = None if call.file is None else [call.file.filename, call.file.sha256]
    return hashlib.sha256(canonical_json([method, path, dict(call.body), file])).hexdigest()


def find_stored_response(tx: Transaction, owner: str, key: str, fingerprint: str) -> ApiResponse | None:
    """The stored answer under a key, or ``None`` where there is none.

    Raises:
        ApiError: 422 where the key was used for another request.
    """
    reply = tx.idempotency_keys.find(owner, key)
    if reply is None:
        return None
    if reply.fingerprint != fingerprint:
        message = "This Idempotency-Key was used with another request."
        raise ApiError(422, message, "idempotency_key_reused", "Idempotency-Key")
    return ApiResponse(body=reply.body, status=reply.status, replayed=True)


def store_response(tx: Transaction, owner: str, key: str, fingerprint: str, body: Mapping[str, Any]) -> None:
    """Store an answer in the transaction of its effect."""
    moment = now()
    tx.idempotency_keys.delete_before(moment - RETENTION_SECONDS)
    tx.idempotency_keys.add(IdempotencyRow(owner, key, fingerprint, 200, dict(body), moment))
