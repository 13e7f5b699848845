"""Calls of paths that the SDK has no methods for, with its client: its address, key, timeouts and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import httpx2
import openai

Verb = Literal["GET", "POST", "PATCH", "DELETE"]


def request_json(
    client: openai.OpenAI, verb: Verb, path: str, *, body: object = None, query: Mapping[str, Any] | None = None
) -> Any:  # noqa: ANN401 - any JSON
    """The JSON of a response; an empty object if it has no body. To be called within ``ApiClient``.

    Args:
        client: From ``ApiClient``.
        verb: The HTTP method.
        path: Joined to the client's base URL.
        body: JSON to send.
        query: Parameters of the URL; those that are ``None`` are left out.
    """
    response = send(client, verb, path, body=body, query=query)
    return response.json() if response.content else {}


def send(
    client: openai.OpenAI, verb: Verb, path: str, *, body: object = None, query: Mapping[str, Any] | None = None
) -> httpx2.Response:
    """The response as it came; redirects are not followed, and an error status raises the SDK's error."""
    params = {name: value for name, value in (query or {}).items() if value is not None}
    if verb == "GET":
        return client.get(path, cast_to=httpx2.Response, options={"params": params})
    if verb == "POST":
        return client.post(path, cast_to=httpx2.Response, body=body, options={"params": params})
    if verb == "PATCH":
        return client.patch(path, cast_to=httpx2.Response, body=body, options={"params": params})
    return client.delete(path, cast_to=httpx2.Response, body=body, options={"params": params})


def send_form(client: openai.OpenAI, path: str, fields: Mapping[str, str]) -> httpx2.Response:
    """POST a multipart form without a file."""
    headers = {"Content-Type": "multipart/form-data"}
    return client.post(path, cast_to=httpx2.Response, body=dict(fields), options={"headers": headers})
