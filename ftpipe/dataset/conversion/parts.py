"""The content of a message: text, and the parts of OpenAI, Anthropic, Bedrock and Vertex AI."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ftpipe.dataset.conversion.row import Fields, Row, SkipRow, UnmappedKey, kind_of, normalize_key

_TEXT_TYPES = ("text", "input_text", "output_text")
_CALL_KEYS = ("tooluse", "functioncall")
_RESULT_KEYS = ("toolresult", "functionresponse")
_REASONING_KEYS = ("thinking", "reasoningcontent", "reasoning")


@dataclass
class Content:
    """What the content of one message consists of."""

    text: str | None = None
    """``None`` if there is no text at all."""
    parts: list[dict[str, Any]] | None = None
    """The parts as OpenAI writes them, if one of them is not text."""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Tool calls with their paths."""
    results: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Tool results with their paths."""
    reasoning: list[str] = field(default_factory=list)


def read_content(row: Row, path: str, value: object) -> Content:
    """Read a text, a list of parts, or the object that ChatGPT's export has.

    Raises:
        SkipRow: A part is neither text, image, reasoning, tool call nor tool result.
    """
    if value is None or isinstance(value, str):
        return Content(value)
    if isinstance(value, dict):
        if isinstance(value.get("parts"), list) and value.get("content_type") == "text":
            row.open(value, path).read.update(("parts", "content_type"))
            return read_content(row, f"{path}.parts", value["parts"])
        value = [value]
    if not isinstance(value, list):
        raise SkipRow(path, f"it is {kind_of(value)}, not text")
    if len(value) > 1 and all(isinstance(part, str) for part in value) and not path.endswith(".parts"):
        raise SkipRow(path, f"it is a list of {len(value)} texts, not text")
    content = Content()
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(value):
        parts += _read_part(row, f"{path}[{index}]", {"text": part} if isinstance(part, str) else part, content)
    if all(part["type"] == "text" for part in parts):
        content.text = "".join(part["text"] for part in parts) if parts else None
    else:
        content.parts = parts
    return content


def _read_part(row: Row, path: str, part: object, content: Content) -> list[dict[str, Any]]:
    """The part as OpenAI writes it; calls, results and reasoning go into the content instead."""
    if not isinstance(part, dict):
        raise SkipRow(path, f"it is {kind_of(part)}, not text")
    kind = part.get("type")
    if kind in ("image_url", "input_audio", "refusal"):
        row.open(part, path).read.update(part)
        url = part.get("image_url")
        return [part | {"image_url": {"url": url}} if isinstance(url, str) else part]
    if kind in ("tool_use", "toolCall", "tool_call"):
        content.calls.append((path, part))
        return []
    if kind == "tool_result":
        content.results.append((path, part))
        return []
    fields = row.open(part, path)
    fields.get("type")
    if kind == "redacted_thinking":
        if not row.options.reasoning:
            raise UnmappedKey(path, "is encrypted reasoning, which no other model can read")
        row.dropped.append(path)
        fields.ignored.update(fields.value)
        return []
    if kind in ("thinking", "reasoning"):
        content.reasoning.append(_reasoning(fields))
        return []
    if isinstance(part.get("text"), str) and (kind is None or kind in _TEXT_TYPES):
        text = fields.use("text")
        if fields.get("thought") is True:
            content.reasoning.append(text)
            return []
        return [{"type": "text", "text": text}]
    return _read_object_part(row, path, fields, content)


def _reasoning(fields: Fields) -> str:
    value = fields.get(*_REASONING_KEYS, "text", "summary")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_object_part(row: Row, path: str, fields: Fields, content: Content) -> list[dict[str, Any]]:
    """A part of Bedrock or Vertex AI, whose only key says what it is, or an image."""
    for key in fields.filled(*_CALL_KEYS, *_RESULT_KEYS):
        value = fields.use(key)
        if not isinstance(value, dict):
            raise SkipRow(fields.path_of(key), f"it is {kind_of(value)}, not an object")
        target = content.calls if normalize_key(key) in _CALL_KEYS else content.results
        target.append((fields.path_of(key), value))
        return []
    for key in fields.filled(*_REASONING_KEYS):
        value = fields.use(key)
        inner = value.get("reasoningText") if isinstance(value, dict) else None
        text = inner.get("text") if isinstance(inner, dict) else value
        content.reasoning.append(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False))
        return []
    if url := _image_url(row, path, fields):
        return [{"type": "image_url", "image_url": {"url": url}}]
    named = f"a part of type {fields.value['type']!r}" if "type" in fields.value else kind_of(fields.value)
    raise SkipRow(path, f"{named[:80]} is not text, image, tool call or tool result")


def _image_url(row: Row, path: str, fields: Fields) -> str:
    """The address of an image whose bytes or web address stand in the part; empty for other parts."""
    key = fields.find("source", "inlinedata")
    value = fields.value.get(key) if key else None
    if not isinstance(value, dict):
        return ""
    image = row.open(value, f"{path}.{key}")
    fields.use(key)
    media_type, data = image.get("mediatype", "mimetype"), image.get("data")
    image.get("type")
    if isinstance(data, str) and str(media_type).startswith("image/"):
        return f"data:{media_type};base64,{data}"
    url = image.get("url")
    return url if isinstance(url, str) and url.startswith(("https://", "http://", "data:image/")) else ""


def result_text(row: Row, path: str, value: object) -> str:
    """The text of a tool result: an object becomes JSON, since tools answer with data."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if all(set(part) == {"json"} for part in value) and len(value) == 1:
            return json.dumps(value[0]["json"], ensure_ascii=False, default=str)
        if all("text" in part or part.get("type") == "text" for part in value):
            return read_content(row, path, value).text or ""
        if any(str(part.get("type")) in ("image", "image_url", "document", "input_image") for part in value):
            raise SkipRow(path, "the result of the tool has an image or document, not text")
    return json.dumps(value, ensure_ascii=False, default=str)
