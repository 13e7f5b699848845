"""Rows with a question and an answer: tables, prompt/completion, Alpaca, Dolly, SQuAD, evals, Langfuse, LangSmith."""

from __future__ import annotations

from typing import Any

from ftpipe.dataset.conversion.conversation import read_messages, with_reasoning
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.parts import read_content
from ftpipe.dataset.conversion.rendered_text import ends_with_assistant, split_text
from ftpipe.dataset.conversion.row import SYSTEM_KEYS, Fields, Messages, Row, SkipRow, kind_of, normalize_key, text_of
from ftpipe.dataset.conversion.structure import as_messages, is_call, is_message, parse_structure
from ftpipe.dataset.conversion.tools import read_call, read_tools

QUESTION_KEYS = (
    *("prompt", "question", "instruction", "user", "query", "problem", "inputtext", "input", "text", "message"),
    *("inputs", "textinput"),
)
_SINGLE_QUESTION_KEYS = ("prompt", "question", "instruction", "query", "problem")
"""Two of them that differ are a question that nobody can guess."""
ANSWER_KEYS = (
    *("completion", "answer", "response", "output", "assistant", "expectedoutput", "ideal", "solution", "outputtext"),
    *("labeltext", "label", "target", "targets", "answers", "generation", "reply"),
    *("annotation", "groundtruth"),
)
_COUPLES = (("human", "bot"), ("human", "assistant"), ("user", "bot"), ("customer", "agent"), ("source", "target"))
"""Question and answer whose names say so only together."""
_SINGLE_ANSWER_KEYS = (
    *("completion", "answer", "response", "output", "assistant", "expectedoutput", "ideal", "solution", "groundtruth"),
)
_ALTERNATIVES = ("ideal", "answers", "expectedoutput")
"""Lists of answers that are all right: the first is written."""
_CONTEXT_KEYS = ("context", "input", "passage")
_INNER_KEYS = (*QUESTION_KEYS, *ANSWER_KEYS, "content", "value", "message")
_REASONING_KEYS = ("reasoning", "reasoningcontent", "thinking", "thought", "thoughts", "chainofthought", "cot")
_ENVELOPES = ("inputs", "outputs")
"""Objects of LangSmith, whose keys the user chose."""
MAX_NESTING = 4
"""Objects around a text that are opened to reach it."""


def read_side(row: Row, path: str, value: object, role: str, nesting: int = 0) -> Messages:
    """Question or answer as messages: a text, a message, a list of messages, or an object that holds one of them.

    Raises:
        SkipRow: It is none of these.
    """
    if as_messages(value) is not None:
        return read_messages(row, path, value)
    parsed = parse_structure(value) if isinstance(value, str) and '"messages"' in value else None
    if isinstance(parsed, dict) and as_messages(parsed.get("messages")) is not None:
        value = parsed
    if isinstance(value, dict) and value and nesting < MAX_NESTING:
        return _read_object(row, path, value, role, nesting)
    if isinstance(value, list) and len(value) == 1:
        return read_side(row, f"{path}[0]", value[0], role, nesting + 1)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        text = read_content(row, path, value).text
        return [{"role": role, "content": text_of(row, path, text)}]
    return [{"role": role, "content": text_of(row, path, value)}]


def _read_object(row: Row, path: str, value: dict[str, Any], role: str, nesting: int) -> Messages:
    """The messages in an object: a request or response of an API, or the fields of an example."""
    fields = row.open(value, path)
    for key in fields.filled("tools", "functions", "toolconfig"):
        read_tools(row, fields.path_of(key), fields.use(key))
    for key in fields.filled("choices", "generations"):
        choices = fields.use(key)
        if not isinstance(choices, list) or len(choices) != 1:
            raise SkipRow(fields.path_of(key), f"it is {kind_of(choices)}, not one answer")
        return read_side(row, f"{fields.path_of(key)}[0]", choices[0], role, nesting + 1)
    for key in fields.filled("messages", "chat", "conversation", "contents"):
        turns, inner_path = fields.use(key), fields.path_of(key)
        if isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], list):
            turns, inner_path = turns[0], f"{inner_path}[0]"  # LangChain's batch of one
        return with_system(row, fields, read_messages(row, inner_path, turns))
    keys = [key for key in fields.filled("message") if is_message(value[key])] or fields.filled(*_INNER_KEYS)
    if not keys and path in _ENVELOPES:
        keys = [key for key in value if isinstance(value[key], str) and fields.is_filled(value[key])]
    if len({str(value[key]) for key in keys}) != 1:
        raise SkipRow(path, f"it is {kind_of(value)}, not text")
    return read_side(row, fields.path_of(keys[0]), fields.use(keys[0]), role, nesting + 1)


def read_system(row: Row, fields: Fields) -> str:
    """The system message that stands beside the conversation; empty if there is none."""
    key = fields.first_filled(*SYSTEM_KEYS)
    if not key:
        return ""
    value, path = fields.use(key), fields.path_of(key)
    if isinstance(value, dict):
        inner = row.open(value, path)
        inner.get("role")
        name = inner.find("parts", "content", "text")
        value, path = inner.get("parts", "content", "text"), inner.path_of(name)
    return read_content(row, path, value).text or ""


def with_system(row: Row, fields: Fields, messages: Messages) -> Messages:
    """The messages with the system message that stands beside them.

    Raises:
        SkipRow: The conversation has another one.
    """
    system = read_system(row, fields)
    if not system:
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        if messages[0].get("content") != system:
            raise SkipRow(fields.find(*SYSTEM_KEYS), "the conversation has another system message")
        return messages
    return [{"role": "system", "content": system}, *messages]


def question_of(row: Row) -> Messages:
    """The messages before the answer: system, history, and the question with its context."""
    fields = row.fields
    key = _couple(fields)[0] or _column(fields, QUESTION_KEYS, "question")
    _require_one(fields, key, _SINGLE_QUESTION_KEYS, "question")
    question = read_side(row, key, fields.value[key], "user")
    fields.read.add(key)
    for context_key in fields.filled(*_CONTEXT_KEYS):
        if context_key == key or context_key in fields.read:
            continue
        context = text_of(row, context_key, fields.use(context_key))
        if not isinstance(question[-1].get("content"), str):
            raise SkipRow(context_key, "the question that it belongs to is not text")
        question[-1]["content"] += f"\n\n{context}"
    return with_system(row, fields, [*_history(row), *question])


def _history(row: Row) -> Messages:
    """Earlier exchanges: pairs of texts, or messages."""
    key = row.fields.first_filled("history", "chathistory")
    if not key:
        return []
    history = row.fields.use(key)
    if as_messages(history) is not None:
        return read_messages(row, key, history)
    messages: Messages = []
    for turn in history if isinstance(history, list) else [None]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise SkipRow(key, "it is neither a list of pairs nor of messages")
        messages.append({"role": "user", "content": text_of(row, key, turn[0])})
        messages.append({"role": "assistant", "content": text_of(row, key, turn[1])})
    return messages


def answer_of(row: Row, markers: LegacyMarkers) -> Messages:
    """The messages of the answer, usually one."""
    fields = row.fields
    key = _couple(fields)[1] or _column(fields, ANSWER_KEYS, "answer")
    name = normalize_key(key)
    if name in _SINGLE_ANSWER_KEYS:
        _require_one(fields, key, _SINGLE_ANSWER_KEYS, "answer")
    value = fields.use(key)
    if name == "labeltext":
        fields.ignored.update(fields.filled("label", "labels"))  # the numbers of the same labels
    if name == "completion" and isinstance(value, str):
        value = markers.strip_completion(value)
    calls = parse_structure(value) if name == "answers" and isinstance(value, str) else value
    calls = [calls] if is_call(calls) else calls
    if isinstance(calls, list) and calls and all(map(is_call, calls)):
        read = [read_call(row, f"{key}[{index}]", call, index) for index, call in enumerate(calls)]
        return [{"role": "assistant", "tool_calls": read}]
    answer = read_side(row, key, _first_alternative(row, key, name, value), "assistant")
    for reasoning_key in fields.filled(*_REASONING_KEYS, "complexcot", "rationale"):
        reasoning = text_of(row, reasoning_key, fields.use(reasoning_key))
        answer[-1]["content"] = with_reasoning(row, reasoning_key, reasoning, answer[-1])
    return answer


def _first_alternative(row: Row, key: str, name: str, value: object) -> object:
    """The first of several right answers; the others are named as left out."""
    if name == "answers" and isinstance(value, dict):
        fields = row.open(value, key)
        value = fields.get("text")
        fields.get("answerstart")
    if name in _ALTERNATIVES and isinstance(value, list) and all(isinstance(text, str) for text in value):
        row.dropped += [f"{key}[]"] * (len(set(value)) - 1)
        return value[0] if value else ""
    return value


def _couple(fields: Fields) -> tuple[str, str]:
    """The columns of a couple, if there is no other question; else two empty texts."""
    if fields.find(*(name for name in QUESTION_KEYS if name != "user")):
        return "", ""
    couples = ((fields.find(question), fields.find(answer)) for question, answer in _COUPLES)
    return next((couple for couple in couples if all(couple)), ("", ""))


def _column(fields: Fields, known: tuple[str, ...], what: str) -> str:
    key = fields.find(*known)
    if not key:
        raise SkipRow("", f"no column has a usual name for the {what} ({', '.join(known[:4])} …)")
    return key


def _require_one(fields: Fields, key: str, names: tuple[str, ...], what: str) -> None:
    """Refuse a row with two columns that could be the question, or the answer."""
    for other in fields.filled(*names):
        if other != key and fields.value[other] != fields.value[key] and other not in fields.read:
            raise SkipRow(other, f"it could be the {what} as well as {key!r}; name them with --columns")


def read_pair(row: Row, markers: LegacyMarkers) -> Messages:
    """The conversation of a row with a question and an answer."""
    fields = row.fields
    columns = row.options.columns
    if columns:
        question, answer = (
            read_side(row, name, fields.use(name) if name in fields.value else None, role)
            for name, role in zip(columns, ("user", "assistant"), strict=True)
        )
        return with_system(row, fields, join(question, answer))
    if fields.find(*ANSWER_KEYS) == "" and (text := fields.filled("text")):
        messages = split_text(text[0], text_of(row, text[0], fields.value[text[0]]))
        if messages is not None:
            fields.use(text[0])
            return with_system(row, fields, messages[1])
    if (dialogue := _rendered_pair(row)) is not None:
        return with_system(row, fields, dialogue)
    question = question_of(row)
    answer = answer_of(row, markers)
    last = question[-1]
    if markers.prompt_end and last["role"] == "user" and isinstance(last.get("content"), str):
        last["content"] = markers.strip_prompt(last["content"])
    return join(question, answer)


def _rendered_pair(row: Row) -> Messages | None:
    """Prompt and completion as messages, if the prompt is a dialogue as text that ends with the assistant's marker."""
    fields = row.fields
    prompt, completion = fields.value.get("prompt"), fields.value.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str) or not ends_with_assistant(prompt):
        return None
    split = split_text("prompt", prompt + completion)
    if split is not None:
        fields.read.update(("prompt", "completion"))
    return split[1] if split is not None else None


def join(question: Messages, answer: Messages) -> Messages:
    """Question and answer as one conversation; an answer that repeats the question counts once."""
    if len(answer) > len(question) and answer[: len(question)] == question:
        answer = answer[len(question) :]
    return [*question, *answer]
