"""Calls of the Fireworks API: the account of a key, paths below it, and lists in pages."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import openai

from ftpipe.errors import ConfigError, InvalidResponseError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import as_dict
from ftpipe.providers.rest import request_json
from ftpipe.providers.retry import DeadlineExceededError

INFERENCE_PATH = "/inference/v1"
PAGE_SIZE = 200
"""The largest page. Source: fireworks-ai 1.2.30, dataset_list_params.py, 2026-11-28."""
MAX_PAGES = 500
RESOURCE_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""Source: Fireworks documentation, resource ids of 1 to 63 of [a-z0-9-] that begin with a letter, 2026-11-28."""


class FireworksApi:
    """Makes the calls of one account.

    Args:
        api: Makes its calls, with deadlines, retries and checked responses.
        account: The account's id; empty to use the one that the key belongs to.
    """

    def __init__(self, api: ApiClient, *, account: str = "") -> None:
        self.api = api
        self.root = api.base_url.rstrip("/").removesuffix(INFERENCE_PATH) + "/v1"
        self._account = account.removeprefix("accounts/").strip("/")

    @property
    def account(self) -> str:
        """The account's id; the first use without a configured one asks the endpoint.

        Raises:
            ConfigError: The key belongs to several accounts, or the configured id has not the form of one.
        """
        if not self._account:
            accounts = self.api.read("find the account of the key", lambda client: self.list(client, "accounts"), list)
            names = [str(fields.get("name", "")).removeprefix("accounts/") for fields in accounts]
            if len(names) != 1:
                raise ConfigError(
                    f"the key belongs to {len(names)} accounts: {', '.join(names[:10]) or 'none'}",
                    "set FIREWORKS_ACCOUNT_ID to the one to use",
                )
            self._account = names[0]
        if not RESOURCE_ID.fullmatch(self._account):
            raise ConfigError(
                f"{self._account[:80]!r} is not an account id of Fireworks",
                "set FIREWORKS_ACCOUNT_ID to the id that the dashboard shows, for example my-team",
            )
        return self._account

    @property
    def parent(self) -> str:
        """``accounts/{account}``; read before a call and not within one, because it can need a call of its own."""
        return f"accounts/{self.account}"

    def url(self, name: str) -> str:
        """The URL of a resource, a collection or a custom method, from its full name."""
        return f"{self.root}/{name}"

    def get(self, client: openai.OpenAI, name: str, **params: Any) -> dict[str, Any]:
        """``GET`` a resource."""
        return as_dict(request_json(client, "GET", self.url(name), query=params))

    def post(
        self,
        client: openai.OpenAI,
        name: str,
        body: Mapping[str, Any],
        params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """``POST`` a new resource, or a custom method."""
        return as_dict(request_json(client, "POST", self.url(name), body=dict(body), query=params))

    def patch(self, client: openai.OpenAI, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """``PATCH`` a resource."""
        return as_dict(request_json(client, "PATCH", self.url(name), body=dict(body)))

    def delete(self, client: openai.OpenAI, name: str, **params: Any) -> None:
        """``DELETE`` a resource."""
        request_json(client, "DELETE", self.url(name), query=params)

    def list(self, client: openai.OpenAI, name: str, **params: Any) -> list[dict[str, Any]]:
        """Every item of a collection, page by page; it ends, whatever the endpoint answers."""
        return list(self._pages(client, name, params))

    def _pages(self, client: openai.OpenAI, name: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        key = name.rsplit("/", 1)[-1]
        deadline = time.monotonic() + self.api.profile.request_timeout_seconds
        token, tokens = "", set[str]()
        for _ in range(MAX_PAGES):
            query = {"pageSize": PAGE_SIZE, **params} | ({"pageToken": token} if token else {})
            page = self.get(client, name, **query)
            items = page.get(key) or []
            if not isinstance(items, list):
                raise InvalidResponseError(f"the list of {key} is not a list")
            yield from (item for item in items if isinstance(item, dict))
            token = str(page.get("nextPageToken") or "")
            if not token or token in tokens:
                return
            tokens.add(token)
            if time.monotonic() > deadline:
                raise DeadlineExceededError("the list has not ended in time")


def id_of(name: object, *, what: str) -> str:
    """The last part of a resource's name, ``accounts/{account}/{collection}/{id}``.

    Raises:
        InvalidResponseError: It is not such a name.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != 4 or parts[0] != "accounts" or not RESOURCE_ID.fullmatch(parts[3]):
        raise InvalidResponseError(f"the response has no {what} name")
    return parts[3]
