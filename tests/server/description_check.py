"""Compares requests and responses with the server's own description: an event hook of a client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from starlette.applications import Starlette

from ftpipe.server.http.api_description import COMPONENTS, EVENT_DATA, EVENTS, JSON, ApiDescription
from ftpipe.server.http.urls import served_path
from ftpipe.server.protocol import ApiRequest

_document: dict[str, Any] = {}


def document_of(app: Starlette) -> dict[str, Any]:
    """The description of a server, made once: all servers without an upstream have the same."""
    if not _document:
        _document.update(ApiDescription(app.routes, needs_key=False).retrieve(ApiRequest("")))  # type: ignore[arg-type]
    return _document


class DescriptionCheck:
    """Collects what does not fit the description.

    Args:
        document: The description.

    Attributes:
        problems: One line for each.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.problems: list[str] = []
        self._validator = cache(self._new_validator)
        self._templates = [
            (re.compile(_PARAMETER.sub(lambda match: ".+" if match[1] == "model" else "[^/]+", path)), path)
            for path in sorted(document["paths"], key=lambda one: (one.count("{"), -len(one)))
        ]

    def __call__(self, response: httpx2.Response) -> None:
        response.read()
        method, path = response.request.method, response.request.url.path
        if method in ("HEAD", "OPTIONS"):
            return
        problems = self._errors(response) if response.status_code >= 400 else self._success(response, method, path)
        self.problems += [f"{method} {path} {response.status_code}: {problem}" for problem in problems]

    def _errors(self, response: httpx2.Response) -> Iterator[str]:
        yield from self._violations(COMPONENTS + "ErrorBody", response.json())

    def _success(self, response: httpx2.Response, method: str, path: str) -> Iterator[str]:
        template = self._template(served_path(path)[0])
        operation = self._document["paths"].get(template, {}).get(method.lower())
        if operation is None:
            yield "is not described"
            return
        where = f"#/paths/{template.replace('~', '~0').replace('/', '~1')}/{method.lower()}"
        media_type = response.headers["content-type"].partition(";")[0]
        content = operation["responses"]["200"]["content"].get(media_type)
        if content is None:
            yield f"responses are not described as {media_type}"
        elif media_type == JSON:
            yield from self._violations(f"{where}/responses/200/content/application~1json/schema", response.json())
        elif media_type == EVENTS:
            schema = f"{where}/responses/200/content/text~1event-stream/{EVENT_DATA}"
            for data in re.findall(r"^data: (.*)$", response.text, re.MULTILINE):
                if data != "[DONE]":
                    yield from self._violations(schema, json.loads(data))
        if JSON in operation.get("requestBody", {}).get("content", {}):
            schema = f"{where}/requestBody/content/application~1json/schema"
            yield from (
                f"was accepted with {one}" for one in self._violations(schema, json.loads(response.request.content))
            )

    def _template(self, path: str) -> str:
        return next((template for pattern, template in self._templates if pattern.fullmatch(path)), "")

    def _violations(self, reference: str, value: Any) -> Iterator[str]:
        for error in self._validator(reference).iter_errors(value):
            yield f"{error.json_path}: {error.message[:300]}"

    def _new_validator(self, reference: str) -> Draft202012Validator:
        return Draft202012Validator(
            {"$ref": reference, **{key: self._document[key] for key in ("paths", "components")}}
        )


_PARAMETER = re.compile(r"\\?\{(\w+)\\?\}")
