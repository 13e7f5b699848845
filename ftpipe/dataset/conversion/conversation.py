"""Builds the messages of one conversation from turns in the form of any known API or dataset."""

from __future__ import annotations

import re
from typing import Any

from ftpipe.dataset.conversion.parts import Content, read_content, result_text
from ftpipe.dataset.conversion.row import Fields, Messages, Row, SkipRow, UnmappedKey, kind_of
from ftpipe.dataset.conversion.structure import (
    CALL,
    RESULT,
    SPEAKER_KEYS,
    as_messages,
    is_call,
    parse_structure,
    require_structure,
    role_of,
)
from ftpipe.dataset.conversion.tools import read_call, read_tools
from ftpipe.dataset.conversion.verdicts import WEIGHT_KEYS, verdict_of, weight_of

_CONTENT_KEYS = ("content", "value", "parts", "text", "message")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read_messages(row: Row, path: str, value: object) -> Messages:
    """The messages of a list of turns, which can be written as text.

    Raises:
        SkipRow: It is not a list of messages, or a turn cannot be read.
    """
    turns = as_messages(value)
    if turns is None:
        value = require_structure(path, value)
        if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
            raise SkipRow(path, "it is not a list of messages")
        turns = value
    conversation = Conversation(row)
    for index, turn in enumerate(turns):
        conversation.add(f"{path}[{index}]", turn)
    conversation.split_results()
    return conversation.messages


class Conversation:
    """Messages so far, and the calls that wait for their results."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.messages: Messages = []
        self._calls = 0
        self._waiting: list[tuple[str, str, str]] = []
        """Id, name and path of each call without a result."""

    def add(self, path: str, turn: dict[str, Any]) -> None:
        """Add a turn, which can become several messages."""
        fields = self._open(path, turn)
        role = self._role(path, fields)
        if role == RESULT or (role == "user" and self._waiting and _is_only_results(fields)):
            self._add_results(path, fields)
            return
        if role == CALL:
            self.split_results()
            self._add_calls(path, fields)
            return
        key = fields.first_filled(*_CONTENT_KEYS)
        value = fields.use(key) if key else self._empty_content(fields)
        content = read_content(self.row, fields.path_of(key or "content"), value)
        if not content.results:
            self.split_results()
        for result_path, result in content.results:
            self._add_result(result_path, self.row.open(result, result_path))
        message: dict[str, Any] = {"role": role}
        self._set_content(message, content)
        if role == "assistant":
            self._set_assistant(path, fields, message, content)
        elif content.calls:
            raise SkipRow(path, f"the turn of the {role} calls a tool")
        self._set_rest(fields, message)
        if message.keys() <= {"role", "name", "weight"}:
            if content.results:
                return
            raise SkipRow(path, "it has no text")
        if role == "system" and isinstance(message.get("content"), str):
            self._read_tools_of_prompt(path, message["content"])
        self.messages.append(message)

    def _open(self, path: str, turn: dict[str, Any]) -> Fields:
        """The fields of a turn, without the envelope that LangChain puts around it."""
        if not isinstance(turn, dict):
            raise SkipRow(path, f"it is {kind_of(turn)}, not an object")
        for key in ("kwargs", "data"):
            if isinstance(turn.get(key), dict) and "content" in turn[key]:
                outer = self.row.open(turn, path)
                outer.read.update({key, "lc", "type", "id"} & turn.keys())
                kind = turn["id"][-1] if key == "kwargs" and isinstance(turn.get("id"), list) else turn.get("type")
                more = turn[key].get("additional_kwargs")
                calls = more if isinstance(more, dict) and not turn[key].get("tool_calls") else {}
                known = {name: calls[name] for name in ("tool_calls", "function_call") if calls.get(name)}
                return self.row.open({"role": kind} | turn[key] | known, f"{path}.{key}")
        return self.row.open(turn, path)

    def _role(self, path: str, fields: Fields) -> str:
        kind = fields.value.get("type")
        key = fields.first_filled(*SPEAKER_KEYS)
        if not key and role_of(kind):
            key = "type"
        elif kind in ("message", "human", "ai"):
            fields.use("type")
        speaker = fields.use(key) if key else None
        if isinstance(speaker, dict):
            self.row.open(speaker, fields.path_of(key)).get("role")
        role = "user" if speaker is None and isinstance(fields.value.get("parts"), list) else role_of(speaker)
        if role is None:
            shown = speaker if isinstance(speaker, str) else speaker and kind_of(speaker)
            raise SkipRow(path, f"unknown speaker {str(shown)[:40]!r}")
        return role

    @staticmethod
    def _empty_content(fields: Fields) -> object:
        """The content of a turn without any: an empty text stays one, an object of a wrong type is named."""
        return next((fields.value[key] for key in ("content", "value") if key in fields.value), None)

    def _set_content(self, message: dict[str, Any], content: Content) -> None:
        if content.parts is not None:
            message["content"] = content.parts
        elif content.text is not None:
            message["content"] = content.text

    def _set_assistant(self, path: str, fields: Fields, message: dict[str, Any], content: Content) -> None:
        """Calls, reasoning and weight of an assistant turn."""
        calls = [(f"{path}.tool_calls[{i}]", call) for i, call in enumerate(self._listed_calls(path, fields))]
        calls += content.calls
        text = message.get("content")
        if not calls and isinstance(text, str):
            tagged, rest = tagged_texts(text, "tool_call")
            parsed = [(path, parse_structure(each)) for each in tagged]
            if parsed and all(is_call(call) for _, call in parsed):
                calls = parsed
                message["content"] = rest.rstrip("\n") or None
        self._set_reasoning(path, fields, message, content)
        if calls:
            message["tool_calls"] = [self._call(call_path, call) for call_path, call in calls]
            if not message.get("content"):
                message.pop("content", None)
        if isinstance(refusal := fields.get("refusal"), str):
            message["refusal"] = refusal

    @staticmethod
    def _listed_calls(path: str, fields: Fields) -> list[Any]:
        listed = fields.get("toolcalls")
        calls = require_structure(f"{path}.tool_calls", listed) if listed is not None else []
        if not isinstance(calls, list):
            raise SkipRow(f"{path}.tool_calls", f"it is {kind_of(calls)}, not a list of calls")
        legacy = fields.get("functioncall")
        return [*calls, legacy] if legacy is not None else calls

    def _set_reasoning(self, path: str, fields: Fields, message: dict[str, Any], content: Content) -> None:
        texts = list(content.reasoning)
        keys = fields.filled("reasoningcontent", "reasoning", "thinking", "thought", "thoughts")
        for key in keys:
            value = fields.use(key)
            if not isinstance(value, str):
                raise SkipRow(fields.path_of(key), f"it is {kind_of(value)}, not text")
            texts.append(value)
        if texts:
            where = fields.path_of(keys[0]) if keys else f"{path}.content"
            message["content"] = with_reasoning(self.row, where, "\n".join(dict.fromkeys(texts)), message)

    def _set_rest(self, fields: Fields, message: dict[str, Any]) -> None:
        """Weight, name, and tools that stand in the message."""
        for key in fields.filled("tools", "functions"):
            read_tools(self.row, fields.path_of(key), fields.use(key))
        weight = read_weight(fields, message["role"])
        if message["role"] == "assistant" and verdict_of(self.row, fields) is False:
            if weight:
                raise SkipRow(fields.path, "it is marked as bad, but has the weight 1")
            weight = 0
        if weight is not None:
            message["weight"] = weight
        key = fields.find("name")
        if key and isinstance(fields.value[key], str) and _NAME.fullmatch(fields.value[key]):
            message["name"] = fields.use(key)

    def _call(self, path: str, call: object) -> dict[str, Any]:
        read = read_call(self.row, path, call, self._calls)
        self._calls += 1
        self._waiting.append((read["id"], read["function"]["name"], path))
        return read

    def _add_calls(self, path: str, fields: Fields) -> None:
        """A turn that only calls: a text with one call or a list of calls, or an item of the Responses API."""
        if fields.value.get("type") == "function_call":
            listed: Any = [fields.value]
            fields.read.update(fields.value)
        else:
            key = fields.first_filled("toolcalls", *_CONTENT_KEYS)
            path, value = fields.path_of(key or "content"), fields.use(key) if key else None
            listed = require_structure(path, value)
        calls = [self._call(path, call) for call in (listed if isinstance(listed, list) else [listed])]
        weight = read_weight(fields, "assistant")
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and last.get("weight") == weight:
            # the text before a call and the call are one message of the API
            last.setdefault("tool_calls", []).extend(calls)
            return
        weighted = {} if weight is None else {"weight": weight}
        self.messages.append({"role": "assistant", "tool_calls": calls} | weighted)

    def _add_results(self, path: str, fields: Fields) -> None:
        """A turn of a tool; one text can hold several results in tags."""
        read_weight(fields, "tool")
        value = fields.value.get(fields.find(*_CONTENT_KEYS, "output"))
        texts = tagged_texts(value, "tool_response")[0] if isinstance(value, str) else []
        if texts:
            fields.get(*_CONTENT_KEYS)
            fields.get("name")
            for text in texts:
                self._append_result(path, None, None, text)
            return
        if isinstance(value, list) and any(isinstance(part, dict) and "functionResponse" in part for part in value):
            for result_path, result in read_content(self.row, path, fields.get(*_CONTENT_KEYS)).results:
                self._add_result(result_path, self.row.open(result, result_path))
            return
        if (key := fields.find("toolresults")) and isinstance(listed := fields.use(key), list):
            for index, value in enumerate(listed):
                outputs = value.get("outputs", value) if isinstance(value, dict) else value
                call = value.get("call") if isinstance(value, dict) else None
                name = call.get("name") if isinstance(call, dict) else None
                self._append_result(path, None, name, result_text(self.row, f"{path}.{key}[{index}]", outputs))
            return
        self._add_result(path, fields)

    def _add_result(self, path: str, fields: Fields) -> None:
        fields.get("type")
        call_id = fields.get("toolcallid", "tooluseid", "callid", "id")
        name = fields.get("name", "toolname")
        key = next((key for name in (*_CONTENT_KEYS, "output", "response") if (key := fields.find(name))), "")
        value = fields.use(key) if key else None
        text = result_text(self.row, fields.path_of(key or "content"), value)
        self._append_result(path, call_id, name, text)

    def _append_result(self, path: str, call_id: object, name: object, text: str) -> None:
        index = next((i for i, (known, *_) in enumerate(self._waiting) if known == call_id), None)
        if index is None and call_id is None:
            index = next((i for i, (_, called, _) in enumerate(self._waiting) if called == name), 0)
        if index is None or index >= len(self._waiting):
            reason = "there is no call before this result" if not self._waiting else f"no call has the id {call_id!r}"
            raise SkipRow(path, reason)
        waiting = self._waiting.pop(index)
        message = {"role": "tool", "tool_call_id": waiting[0], "content": text}
        self.messages.append(message | ({"name": name} if isinstance(name, str) and _NAME.fullmatch(name) else {}))

    def split_results(self) -> None:
        """Give each of several calls its result, if one list holds them all.

        LLaMA-Factory has one observation after a call: that of parallel calls is a list.
        """
        results = [i for i, message in enumerate(self.messages) if message["role"] == "tool"]
        if not self._waiting or not results or results[-1] != len(self.messages) - 1:
            self._waiting = []
            return
        last = self.messages[-1]
        values = parse_structure(last["content"])
        if not isinstance(values, list) or len(values) != len(self._waiting) + 1:
            raise SkipRow(self._waiting[0][2], f"{len(self._waiting)} of the calls have no result")
        last["content"] = result_text(self.row, "", values[0])
        for (call_id, _, _), value in zip(self._waiting, values[1:], strict=True):
            content = result_text(self.row, "", value)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        self._waiting = []

    def _read_tools_of_prompt(self, path: str, text: str) -> None:
        """The definitions that a Hermes system prompt lists as text; the prompt itself stays as it is."""
        for listed in tagged_texts(text, "tools")[0]:
            tools = parse_structure(listed) or parse_structure("[" + ",".join(listed.splitlines()) + "]")
            if isinstance(tools, dict | list) and tools and self.row.tools is None:
                read_tools(self.row, f"{path}.tools", tools)


def _is_only_results(fields: Fields) -> bool:
    """True for a turn of the user that the Qwen template would write for results of tools."""
    text = fields.value.get(fields.find(*_CONTENT_KEYS))
    if not isinstance(text, str):
        return False
    results, rest = tagged_texts(text, "tool_response")
    return bool(results) and not rest.strip()


def tagged_texts(text: str, tag: str) -> tuple[list[str], str]:
    """The texts between the tags, and the text without them; no texts if a tag is not closed.

    The Hermes and Qwen templates write calls so. Source: github.com/NousResearch/Hermes-Function-Calling.
    """
    start, *pieces = text.split(f"<{tag}>")
    closed = [piece.partition(f"</{tag}>") for piece in pieces]
    if not all(end for _, end, _ in closed):
        return [], text
    return [inner.strip() for inner, _, _ in closed], "".join([start, *(rest for _, _, rest in closed)])


def with_reasoning(row: Row, path: str, reasoning: str, message: dict[str, Any]) -> Any:  # noqa: ANN401
    """The content of an answer whose reasoning is given apart, as the caller wants it.

    Raises:
        UnmappedKey: The caller did not say what becomes of it.
    """
    content = message.get("content")
    if row.options.reasoning == "drop":
        row.dropped.append(path)
        return content
    if row.options.reasoning != "think":
        raise UnmappedKey(path, "is reasoning, which chat files have no key for")
    text = f"<think>\n{reasoning}\n</think>\n\n"
    if isinstance(content, list):
        return [{"type": "text", "text": text}, *content]
    return text + (content or "")


def read_weight(fields: Fields, role: str) -> int | None:
    """Whether a turn is trained on: 0 or 1; ``None`` if the turn does not say so, or need not.

    Raises:
        SkipRow: It is another number, or a turn is trained that is not the assistant's.
    """
    weight: int | None = None
    for key in fields.filled(*WEIGHT_KEYS):
        value = fields.use(key)
        number = weight_of(key, value)
        if number is None:
            raise SkipRow(fields.path_of(key), f"it is {value!r}; only 0 and 1 can be written")
        if weight is not None and number != weight:
            raise SkipRow(fields.path_of(key), "it contradicts another weight of the same turn")
        weight = number
    if role != "assistant":
        if weight:
            raise SkipRow(fields.path, f"it would train the turn of the {role}, which chat files cannot say")
        return None
    return weight
