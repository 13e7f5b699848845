"""Compares requests with an API description: path, method, parameters, and the body with its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.fakes.scripted_server import Request

METHODS = ("get", "post", "put", "patch", "delete")


class OpenApiCheck:
    """A description that requests are compared with.

    Names that a schema does not list are violations, too. Where the published description contradicts itself, the
    wider reading counts: ``oneOf`` is read as ``anyOf`` (``lr_scheduler_args`` of the cosine schedule fit both of its
    schemas), and a ``type`` beside it is dropped (``train_on_inputs`` is a boolean, whose default is ``"auto"``).

    Args:
        path: An OpenAPI 3 document as JSON.
        ignores_unknown_paths: Whether a path that the document lacks is no violation.
    """

    def __init__(self, path: Path, *, ignores_unknown_paths: bool = False) -> None:
        self.document = json.loads(path.read_text(encoding="utf-8"))
        self.ignores_unknown_paths = ignores_unknown_paths
        self.compared: set[str] = set()
        """Operations that were compared, as ``POST /fine-tunes``."""
        servers = self.document.get("servers") or [{"url": ""}]
        self.prefix = "/" + servers[0]["url"].split("://")[-1].partition("/")[2] if servers[0]["url"] else ""
        self.schemas = {
            name: self._widened(schema)
            for name, schema in self.document.get("components", {}).get("schemas", {}).items()
        }

    def problems(self, request: Request) -> list[str]:
        """What the description does not allow."""
        if request.path.startswith("/storage/"):
            return []  # addresses of a storage, which no description has
        method = request.route.split(" ", 1)[0].lower()
        path = request.path.removeprefix(self.prefix.rstrip("/"))
        found = self._operation(method, path)
        if found is None:
            return [] if self.ignores_unknown_paths else [f"{method.upper()} {path} is not in the description"]
        template, operation, shared = found
        self.compared.add(f"{method.upper()} {template}")
        name = f"{method.upper()} {template}"
        parameters = [*shared, *operation.get("parameters", [])]
        return [f"{name}: {text}" for text in (*self._query(request, parameters), *self._body(request, operation))]

    def answer_problems(self, request: Request, body: Any) -> list[str]:
        """What of a successful response's JSON the description does not have."""
        method = request.route.split(" ", 1)[0].lower()
        found = self._operation(method, request.path)
        if found is None:
            return []
        schema = found[1]["responses"]["200"]["content"]["application/json"]["schema"]
        errors = self._validator(self._widened(schema)).iter_errors(body)
        return [f"answer of {method.upper()} {found[0]}: {error.json_path} {error.message}" for error in errors]

    def match(self, method: str, path: str) -> tuple[str, list[str]] | None:
        """The path of the description that a request has, and what stands for its parameters."""
        found = self._operation(method.lower(), path)
        if found is None:
            return None
        values = re.fullmatch(re.sub(r"\{[^}]+\}", "([^/]+)", found[0]), path)
        return found[0], list(values.groups()) if values else []

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any], list[Any]] | None:
        """The operation whose path fits; one without parameters in its path wins, then the longest."""
        for template in sorted(self.document["paths"], key=lambda one: (one.count("{"), -len(one))):
            item = self.document["paths"][template]
            if method in item and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
                return template, item[method], item.get("parameters", [])
        return None

    def _query(self, request: Request, parameters: list[dict[str, Any]]) -> Iterator[str]:
        known = {one["name"]: one for one in parameters if one["in"] == "query"}
        for name, value in request.query.items():
            if name not in known:
                yield f"unknown parameter {name}"
                continue
            schema = self._widened(known[name].get("schema", {}))
            parsed: Any = value
            if schema.get("type") in ("integer", "number", "boolean"):
                try:
                    parsed = json.loads(value)
                except ValueError:
                    parsed = value
            yield from (f"parameter {name}: {error.message}" for error in self._validator(schema).iter_errors(parsed))
        for name, one in known.items():
            if one.get("required") and name not in request.query:
                yield f"parameter {name} is missing"

    def _body(self, request: Request, operation: dict[str, Any]) -> Iterator[str]:
        described = operation.get("requestBody")
        if not request.body:
            if described and described.get("required"):
                yield "the body is missing"
            return
        if described is None:
            yield "a body was sent"
            return
        kind = request.headers.get("content-type", "").split(";")[0]
        content = described["content"].get(kind)
        if content is None:
            yield f"the content type is {kind}, and not {', '.join(described['content'])}"
            return
        fields = request.fields
        fields = (
            {name: value if isinstance(value, str) else "bytes" for name, value in fields.items()}
            if (kind.startswith("multipart/"))
            else fields
        )
        for error in self._validator(self._widened(content["schema"])).iter_errors(fields):
            yield f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message}"

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": {"schemas": self.schemas}})

    def _widened(self, schema: Any) -> Any:
        """A schema as described in the class, in the words of JSON Schema."""
        if isinstance(schema, list):
            return [self._widened(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return {"$ref": schema["$ref"]}
        words = {name: self._widened(value) for name, value in schema.items() if name not in ("properties", "example")}
        if "oneOf" in words:
            words["anyOf"] = words.pop("oneOf")
            words.pop("type", None)
        if "properties" in schema:
            words["properties"] = {name: self._widened(value) for name, value in schema["properties"].items()}
            words.setdefault("additionalProperties", False)
        if words.pop("nullable", False):
            return {"anyOf": [words, {"type": "null"}]}
        return words
