"""``/openapi.json``: the API description, made at its first request from the routes and the types that they name.

Source: OpenAPI Specification 3.1.0, https://spec.openapis.org/oas/v3.1.0, read 2026-11-29.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

import ftpipe
from ftpipe.server.api.objects import ErrorBody
from ftpipe.server.http.endpoint import Endpoint, TransactionMode
from ftpipe.server.http.operation import BINARY, METADATA, TEXT, Schema
from ftpipe.server.http.urls import DEPLOYMENT_PATHS, DEPLOYMENTS
from ftpipe.server.idempotency import MAX_KEY_LENGTH
from ftpipe.server.protocol import ApiRequest

JSON, EVENTS, FORM = "application/json", "text/event-stream", "multipart/form-data"
COMPONENTS = "#/components/schemas/"
EVENT_DATA = "x-event-data"
"""Names the schema of the JSON in each event of a stream, for which OpenAPI 3.1 has no word."""
SUMMARY = (
    "The OpenAI API of ftpipe's embedded server. `/openai/v1/…` and `/openai/…` are other names of `/v1/…`, as Azure's "
    "SDKs call it. A model at another host can answer with more fields than are described here."
)
SERVERS = [{"url": "/"}, {"url": "/openai", "description": "The same, as Azure's SDKs call it."}]
KEYS: Mapping[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}
ERRORS = ("4XX", "5XX")
_PARAMETER = re.compile(r"\{(\w+)(:\w+)?\}")


class DescribedRoute(Protocol):
    """A path with an endpoint for each of its methods."""

    @property
    def path(self) -> str:
        """The path."""

    @property
    def described(self) -> Mapping[str, Endpoint]:
        """The endpoints by method."""


class ApiDescription:
    """Describes the routes; nothing is done before the first request.

    Args:
        routes: All routes, also those that are added later.
        needs_key: Whether the server has keys.
    """

    def __init__(self, routes: Sequence[DescribedRoute], *, needs_key: bool) -> None:
        self._routes = routes
        self._needs_key = needs_key
        self._lock = threading.Lock()
        self._document: dict[str, Any] | None = None

    def retrieve(self, _request: ApiRequest) -> Mapping[str, Any]:
        """The description of this API.

        It says nothing about what is stored here, and so needs no key, like the health.
        """
        with self._lock:
            if self._document is None:
                self._document = _DocumentBuilder(self._routes, needs_key=self._needs_key).build()
            return self._document


class _SchemaGenerator(GenerateJsonSchema):
    """JSON Schemas without titles, in which responses have no other names than those of their types."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002  # as in pydantic
        return False

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """Close what does not say that it is open."""
        described = super().typed_dict_schema(schema)
        described.setdefault("additionalProperties", False)
        return described


class _DocumentBuilder:
    """Makes the document.

    Args:
        routes: The routes.
        needs_key: Whether the server has keys.
    """

    def __init__(self, routes: Sequence[DescribedRoute], *, needs_key: bool) -> None:
        self._routes = routes
        self._needs_key = needs_key
        types = [ErrorBody, *_types(endpoint for route in routes for endpoint in route.described.values())]
        unique = {_name(each): each for each in types}
        generated, definitions = TypeAdapter.json_schemas(
            [(name, "validation", TypeAdapter(each)) for name, each in unique.items()],
            ref_template=COMPONENTS + "{model}",
            schema_generator=_SchemaGenerator,
        )
        self._schemas: dict[str, Schema] = {name: generated[name, "validation"] for name in unique}
        self._components: dict[str, Any] = dict(definitions.get("$defs", {}))

    def build(self) -> dict[str, Any]:
        """The document."""
        paths: dict[str, dict[str, Any]] = {}
        for route in self._routes:
            path = _PARAMETER.sub(r"{\1}", route.path)
            paths[path] = {
                method.lower(): self._operation(path, method, one) for method, one in route.described.items()
            }
        for suffix in DEPLOYMENT_PATHS:
            paths[f"{DEPLOYMENTS}{{deployment}}{suffix}"] = {"post": self._of_deployment(paths[f"/v1{suffix}"]["post"])}
        error = {"description": "An error.", "content": {JSON: {"schema": self._schemas[_name(ErrorBody)]}}}
        components = {"schemas": _plain_text(self._components), "responses": {"Error": error}}
        document = {
            "openapi": "3.1.0",
            "info": {"title": "ftpipe", "version": ftpipe.__version__, "description": SUMMARY},
            "servers": SERVERS,
            "paths": paths,
        }
        if not self._needs_key:
            return document | {"components": components}
        components["securitySchemes"] = dict(KEYS)
        return document | {"components": components, "security": [{name: []} for name in KEYS]}

    def _operation(self, path: str, method: str, endpoint: Endpoint) -> dict[str, Any]:
        summary, _, description = _documentation(endpoint).partition("\n\n")
        described: dict[str, Any] = {
            "operationId": _operation_id(method, path),
            "summary": " ".join(summary.split()),
            "tags": [_tag(path)],
            "parameters": list(_parameters(path, method, endpoint)),
            "responses": {
                "200": {"description": "OK", "content": self._response_content(endpoint)},
                **{status: {"$ref": "#/components/responses/Error"} for status in ERRORS},
            },
        }
        if description:
            described["description"] = description
        if endpoint.operation.body is not None or endpoint.form is not None:
            described["requestBody"] = {"required": True, "content": self._request_content(endpoint)}
        if endpoint.is_public and self._needs_key:
            described["security"] = []
        return described

    def _request_content(self, endpoint: Endpoint) -> dict[str, Any]:
        body = endpoint.operation.body
        schema = {} if body is None else self._schemas[_name(body)]
        if endpoint.form is None:
            self._add_ignored(schema, endpoint.operation.ignored)
            self._add_other_names(schema, endpoint.operation.other_names)
            return {JSON: {"schema": schema}}
        # the fields stand here, with the file, and not among the components
        fields: dict[str, Any] = {"type": "object"}
        if schema:
            fields |= self._components.pop(schema["$ref"].removeprefix(COMPONENTS))
        fields["properties"] = {**fields.get("properties", {}), endpoint.form.field: BINARY}
        fields["required"] = [*fields.get("required", []), endpoint.form.field]
        return {FORM: {"schema": _plain_text(fields)}}

    def _add_ignored(self, schema: Schema, names: Iterable[str]) -> None:
        properties = self._resolved(schema)["properties"] if names else {}
        for name in sorted(names):
            properties.setdefault(name, {"description": "A parameter of other servers. It has no effect."})

    def _add_other_names(self, schema: Schema, names: Mapping[str, str]) -> None:
        properties = self._resolved(schema)["properties"] if names else {}
        for other, name in names.items():
            properties.setdefault(other, {**properties[name], "description": f"Another name of `{name}`."})

    def _response_content(self, endpoint: Endpoint) -> dict[str, Any]:
        operation = endpoint.operation
        content: dict[str, Any] = {}
        if operation.result is not None:
            content[JSON] = {"schema": self._schemas[_name(operation.result)]}
        if operation.events is not None:
            content[EVENTS] = {"schema": TEXT, EVENT_DATA: self._schemas[_name(operation.events)]}
        for media_type in operation.media_types:
            content[media_type] = {"schema": TEXT if media_type.startswith("text/") else BINARY}
        return content

    def _of_deployment(self, operation: Mapping[str, Any]) -> dict[str, Any]:
        """The same operation with the model's name in its path."""
        schema = dict(self._resolved(operation["requestBody"]["content"][JSON]["schema"]))
        schema["required"] = [name for name in schema["required"] if name != "model"]
        name = operation["requestBody"]["content"][JSON]["schema"]["$ref"].removeprefix(COMPONENTS) + "OfDeployment"
        self._components[name] = schema
        return {
            **operation,
            "operationId": operation["operationId"] + "_of_deployment",
            "parameters": [_path_parameter("deployment"), *operation["parameters"]],
            "requestBody": {"required": True, "content": {JSON: {"schema": {"$ref": COMPONENTS + name}}}},
        }

    def _resolved(self, schema: Schema) -> Any:  # noqa: ANN401  # a schema
        """The schema that a reference leads to."""
        while "$ref" in schema:
            schema = self._components[schema["$ref"].removeprefix(COMPONENTS)]
        return schema


def _types(endpoints: Iterable[Endpoint]) -> Iterator[Any]:
    for endpoint in endpoints:
        operation = endpoint.operation
        yield from (one for one in (operation.body, operation.result, operation.events) if one is not None)


def _name(type_: Any) -> str:  # noqa: ANN401  # any type
    """What a type is called among the types of the description."""
    return f"{type_.__module__}.{type_.__qualname__}" if inspect.isclass(type_) else repr(type_)


def _documentation(endpoint: Endpoint) -> str:
    return (inspect.getdoc(endpoint.handler) or "").replace("``", "`")


def _operation_id(method: str, path: str) -> str:
    """For example ``get_v1_files_file_id_content``: the names of functions that are made from the description."""
    return "_".join(re.findall(r"\w+", f"{method.lower()} {path}"))


def _tag(path: str) -> str:
    """The part of the API that a path belongs to."""
    parts = path.split("/")
    return parts[2] if parts[1] == "v1" else "server"


def _parameters(path: str, method: str, endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    yield from (_path_parameter(match[1]) for match in _PARAMETER.finditer(path))
    for name, schema in endpoint.operation.query.items():
        style = {"style": "deepObject", "explode": True} if schema is METADATA else {}
        yield {"name": name, "in": "query", "schema": schema, **style}
    if method == "POST" and endpoint.mode is TransactionMode.WRITE:
        description = "A request with the same key has one effect, and gets the same response."
        schema = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH}
        yield {"name": "Idempotency-Key", "in": "header", "schema": schema, "description": description}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def _plain_text(value: Any) -> Any:  # noqa: ANN401  # JSON
    """The same schemas with docstrings as Markdown, each paragraph in one line."""
    if isinstance(value, dict):
        return {
            name: " ".join(inner.replace("``", "`").split())
            if name == "description" and isinstance(inner, str)
            else _plain_text(inner)
            for name, inner in value.items()
        }
    return [_plain_text(inner) for inner in value] if isinstance(value, list) else value
