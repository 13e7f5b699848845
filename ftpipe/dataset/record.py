"""A parsed record as the rules see it: its messages, its texts, and the traits that say which rules can apply."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.formats import CHAT_KEYS, HOST_KEYS, message_lists
from ftpipe.dataset.json_line import Json, Line
from ftpipe.dataset.record_traits import ALL_MARKS, IMAGES, NON_PLAIN, TOOLS, answer_traits

_PLAIN_ROLES = frozenset({"system", "user", "assistant"})


class Text(NamedTuple):
    """A string that a model would read or learn."""

    list_path: str
    """Path of the message list, for example ``messages`` or ``preferred_output``."""
    message_index: int
    """Index of the message in that list."""
    role: str
    value: str
    part: int | None = None
    """Index of the content part; ``None`` if the content is a plain string."""
    inner_path: str = ""
    """Path inside the message, for a text that is not its content."""

    @property
    def path(self) -> str:
        """JSON path of the string."""
        message = f"{self.list_path}[{self.message_index}]."
        if self.inner_path:
            return message + self.inner_path
        return f"{message}content" if self.part is None else f"{message}content[{self.part}].text"


class DatasetRecord:
    """One record as rules about records read it."""

    __slots__ = ("calls", "file", "kind", "line", "lists", "marks", "record", "texts", "tools", "traits")

    def __init__(self, line: Line, record: dict[str, Any], kind: str, file: FileContext) -> None:
        self.line = line
        self.record = record
        self.kind = kind
        self.file = file
        self.lists: list[tuple[str, Any]] = message_lists(record, kind)
        self.texts: list[Text] = []
        self.traits = 0
        self.tools: Any = None
        self.calls = 0
        self.marks: Collection[str] = (ALL_MARKS,)
        self._collect()

    @classmethod
    def of_dialogue(cls, line: Line, file: FileContext, traits: int) -> DatasetRecord:
        """The record of a plain dialogue whose traits ``plain_dialogue_traits`` computed."""
        self = cls.__new__(cls)
        self.line, self.record, self.kind, self.file = line, line.record, "chat", file
        messages = self.record["messages"]
        self.lists = [("messages", messages)]
        self.texts = [Text("messages", index, m["role"], m["content"]) for index, m in enumerate(messages)]
        self.traits, self.tools, self.calls, self.marks = traits, None, 0, (ALL_MARKS,)
        return self

    def _collect(self) -> None:
        """Collect texts and set the traits in one walk."""
        _, source = self.tool_source()
        if len(source) > 1:
            self.tools = source.get("tools")
            if "tools" in source or "functions" in source:
                self.traits |= TOOLS
        known = HOST_KEYS.get(self.file.target, CHAT_KEYS)
        if (
            self.kind == "chat"
            and len(self.record) > 1
            and ("weight" in self.record or not self.record.keys() <= known)
        ):
            self.traits |= NON_PLAIN
        if self.kind == "dpo" or self.kind != self.file.format or not self.lists:
            self.traits |= NON_PLAIN
        for list_path, messages in self.lists:
            if type(messages) is not list or not messages:
                self.traits |= NON_PLAIN
                continue
            previous = ""
            for index, message in enumerate(messages):
                role = self._collect_message(list_path, index, message)
                if (
                    role == previous
                    or (role == "system" and index)
                    or (role == "assistant" and previous in ("", "system"))
                ):
                    self.traits |= NON_PLAIN
                previous = role
            if previous != "assistant":
                self.traits |= NON_PLAIN

    def _collect_message(self, list_path: str, index: int, message: Json) -> str:
        """Collect one message's texts; returns its role, or a unique word if it has none."""
        if type(message) is not dict:
            self.traits |= NON_PLAIN
            return f"?{index}"
        role, content = message.get("role"), message.get("content")
        if type(content) is str:
            self.texts.append(Text(list_path, index, role if type(role) is str else "", content))
            if role == "assistant" and content:
                self.traits |= answer_traits(content)
            if len(message) == 2 and type(role) is str and role in _PLAIN_ROLES and content and not content.isspace():
                return str(role)
        elif type(content) is list:
            self._collect_parts(list_path, index, role if type(role) is str else "", content)
        self.traits |= NON_PLAIN
        if role in ("tool", "function") or "tool_calls" in message or "function_call" in message:
            self.traits |= TOOLS
            self._collect_calls(list_path, index, message.get("tool_calls"))
        return role if type(role) is str else f"?{index}"

    def _collect_calls(self, list_path: str, index: int, calls: Json) -> None:
        for number, call in enumerate(calls if type(calls) is list else ()):
            self.calls += 1
            function = call.get("function") if type(call) is dict else None
            arguments = function.get("arguments") if type(function) is dict else None
            if type(arguments) is str:
                inner_path = f"tool_calls[{number}].function.arguments"
                self.texts.append(Text(list_path, index, "call", arguments, inner_path=inner_path))

    def _collect_parts(self, list_path: str, index: int, role: str, parts: list[Any]) -> None:
        for number, part in enumerate(parts):
            if type(part) is not dict:
                continue
            if type(part.get("text")) is str:
                self.texts.append(Text(list_path, index, role, part["text"], number))
            if "image_url" in part or part.get("type") == "image_url":
                self.traits |= IMAGES

    def tool_source(self) -> tuple[str, dict[str, Any]]:
        """Path and object that hold the tool definitions: ``input`` of a pair, otherwise the record itself."""
        if self.kind != "dpo":
            return "", self.record
        source = self.record.get("input")
        return "input.", source if type(source) is dict else {}

    def is_marked(self, mark: str) -> bool:
        """True if the record's line has this mark, or all marks."""
        return mark in self.marks or ALL_MARKS in self.marks

    def messages(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Every message that is an object, with the path of its list and its index there."""
        for list_path, messages in self.lists:
            if type(messages) is list:
                for index, message in enumerate(messages):
                    if type(message) is dict:
                        yield list_path, index, message
