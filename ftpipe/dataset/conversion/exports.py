"""Rows as other tools export them: the example stands inside an envelope that is taken off first."""

from __future__ import annotations

from typing import Any

from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.pairs import ANSWER_KEYS, answer_of, join, question_of, read_side, with_system
from ftpipe.dataset.conversion.row import Fields, Messages, Row, SkipRow
from ftpipe.dataset.conversion.structure import role_of

_REQUEST_KEYS = ("body", "request", "requestbody", "inputs")
_RESPONSE_KEYS = ("response", "responsebody", "outputs")
_SINGLE_MESSAGE_KEYS = frozenset({"role", "content", "messages", "prompt", "question", "answer", "completion"})
_UNREADABLE = (
    (
        frozenset({"message_id", "parent_id"}),
        "a message of an OASST tree: follow parent_id from each answer to its root, and write those messages as a list",
    ),
    (
        frozenset({"message_tree_id"}),
        "an OASST tree: write the path of best-ranked replies as a list of messages",
    ),
    (frozenset({"mapping", "current_node"}), "a tree of ChatGPT's export: write the path to current_node as messages"),
    (frozenset({"input_ids"}), "already tokenised: convert the data that it was made from"),
)
"""Keys of rows that cannot be read one by one, and what to do with them."""


def refuse_unreadable(record: dict[str, Any]) -> None:
    """Name the formats that cannot be converted row by row.

    Raises:
        SkipRow: The record is in one of them.
    """
    if _SINGLE_MESSAGE_KEYS & record.keys() == {"role", "content"} and role_of(record["role"]) is not None:
        raise SkipRow("", "the row is a single message: write the messages of each conversation as one list")
    if "custom_id" in record and "response" in record and not record["response"]:
        raise SkipRow("response", "it is missing: the request failed")
    for keys, reason in _UNREADABLE:
        if keys <= record.keys():
            raise SkipRow("", f"the row is {reason}")


def unwrap(row: Row) -> None:
    """Go on with the record inside the envelope of Argilla (``fields``), the dataset viewer or OpenAI's evals."""
    outer = row.fields
    for key in outer.filled("row", "fields", "item"):
        inner = outer.value[key]
        if not isinstance(inner, dict):
            continue
        outer.use(key)
        answers = _annotated_values(outer.value.get("responses")) if key == "fields" else []
        fields = row.open(inner, key)
        if len(answers) == 1 and not fields.find(*ANSWER_KEYS):
            outer.read.add("responses")
            row.forget(row.mark() - 1)
            fields = row.open({**inner, "response": answers[0]}, key)
        row.fields = fields
        return


def _annotated_values(responses: object) -> list[str]:
    """The different texts that annotators of Argilla gave."""
    listed = responses if isinstance(responses, list) else [responses]
    texts: set[str] = set()
    for response in listed:
        values = response.get("values", response) if isinstance(response, dict) else {}
        for answers in values.values() if isinstance(values, dict) else ():
            for answer in answers if isinstance(answers, list) else [answers]:
                value = answer.get("value") if isinstance(answer, dict) else None
                texts.update([value] if isinstance(value, str) else [])
    return sorted(texts)


def is_exchange(fields: Fields) -> bool:
    """True for a row with a request to an API, or with inputs, and what came back."""
    return any(isinstance(fields.value[key], dict) for key in fields.filled(*_REQUEST_KEYS)) or (
        bool(fields.filled("customid")) and bool(fields.filled("response"))
    )


def read_exchange(row: Row) -> tuple[str, Messages]:
    """The conversation of a row of the Batch API, of a log of requests, or of LangSmith.

    Raises:
        SkipRow: Request or answer is missing, or the request failed.
    """
    fields = row.fields
    name = "LangSmith" if fields.filled("inputs") else "Batch API" if fields.filled("customid") else "API log"
    request, response = fields.find(*_REQUEST_KEYS), fields.find(*_RESPONSE_KEYS)
    if not request:
        raise SkipRow("", "the row is a result of the Batch API: add body of the request with the same custom_id")
    value = fields.use(request)
    if isinstance(value, dict) and any(isinstance(value.get(key), str) for key in ("question", "prompt", "input")):
        row.fields = row.open(value, request)  # the fields of an example of LangSmith, context and system among them
        question = question_of(row)
        row.fields = fields
    else:
        question = read_side(row, request, value, "user")
    if question[-1]["role"] == "assistant":
        return name, question
    if not response and fields.find(*ANSWER_KEYS):
        return "Argilla", join(question, answer_of(row, LegacyMarkers()))
    if not response:
        raise SkipRow("", "the row is a request without an answer: add the response with the same custom_id")
    value, path = fields.use(response), response
    if isinstance(value, dict) and isinstance(value.get("body"), dict):
        inner = row.open(value, path)
        inner.read.update(value.keys() & {"status_code", "request_id"})
        if value.get("status_code", 200) != 200:
            raise SkipRow(path, f"the request failed with status {value['status_code']}")
        value, path = inner.use("body"), f"{path}.body"
    return name, join(question, read_side(row, path, value, "assistant"))


def is_label_studio(fields: Fields) -> bool:
    """True for a task with its annotations."""
    return isinstance(fields.value.get("data"), dict) and "annotations" in fields.value


def read_label_studio(row: Row) -> Messages:
    """Question of the task's data and answer of its annotations.

    Raises:
        SkipRow: There is no annotation with one text or choice, or the annotators disagree.
    """
    fields = row.fields
    data = row.open(fields.use("data"), "data")
    annotations = fields.use("annotations")
    listed = annotations if isinstance(annotations, list) else ()
    answers = {text for annotation in listed for text in _annotated(row, annotation)}
    if len(answers) != 1:
        reason = "no annotation holds a text or choice" if not answers else f"{len(answers)} annotated answers differ"
        raise SkipRow("annotations", reason)
    keys = [key for key in data.value if data.is_filled(data.value[key])]
    question = data.find("prompt", "question", "instruction", "text", "dialogue", "messages", "chat") or (
        keys[0] if len(keys) == 1 else ""
    )
    if not question:
        raise SkipRow("data", f"which of its keys is the question cannot be known: {', '.join(keys[:4])}")
    messages = with_system(row, data, read_side(row, f"data.{question}", data.use(question), "user"))
    return [*messages, {"role": "assistant", "content": answers.pop()}]


def _annotated(row: Row, annotation: object) -> list[str]:
    """The texts and choices of an annotation that was not cancelled."""
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return []
    fields = row.open(annotation, "annotations[]")
    results = fields.get("result")
    texts: list[str] = []
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        for key in ("text", "choices"):
            listed = value.get(key)
            listed = [listed] if isinstance(listed, str) else listed
            if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], str):
                texts.append(listed[0])
            elif listed:
                raise SkipRow(f"annotations[].result[].value.{key}", "it is not one text")
    return texts
