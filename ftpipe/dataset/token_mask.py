"""Show which tokens of a row are trained: exactly for a base model on this machine, otherwise as far as it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from ftpipe.catalog.base_models import example_limit
from ftpipe.dataset.training_check import TrainingCheck, can_be_rendered, find_training_check, local_token_limit
from ftpipe.errors import DatasetError, UsageError
from ftpipe.modeling.chat_messages import ChatTemplateError, is_trained, text_of
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.training_text import RenderedText, pair_records, training_texts
from ftpipe.records.token_mask import MaskedToken, TokenKind, TokenMask
from ftpipe.tokenization import encoding_for
from ftpipe.tokenization.counters import open_tiktoken

PAIR_NAMES = ("preferred", "non-preferred")
MESSAGE_START, CONVERSATION_END = "<{role}>", "<answer>"
"""Stand for the control tokens that an endpoint does not publish; three each are counted."""


def token_masks(
    path: Path, line: int | None = None, *, target: str, model: str, max_length: object = None
) -> tuple[TokenMask, ...]:
    """The tokens of a row.

    Args:
        path: A JSONL file of chat records or pairs.
        line: 1-based line; ``None`` for the first row that can be shown.
        target: ``local`` or a provider's target.
        model: The base model.
        max_length: The job's ``max_length``, for local training.

    Raises:
        UsageError: There is no such line.
        DatasetError: The row cannot be shown.
    """
    number, record = _row(path, line)
    return MaskRenderer(target=target, model=model, max_length=max_length).masks(number, record)


class MaskRenderer:
    """Shows which tokens of rows are trained; the files of the base model are read once.

    Args:
        target: ``local`` or a provider's target.
        model: The base model.
        max_length: The job's ``max_length``, for local training.
    """

    def __init__(self, *, target: str, model: str, max_length: object = None) -> None:
        self._target, self._model = target, model
        self._tiktoken: Any = None
        self._check = find_training_check(model) if target == "local" else None
        self._limit = local_token_limit(model, max_length) if target == "local" else example_limit(model, target)

    def masks(self, line: int, record: Mapping[str, Any]) -> tuple[TokenMask, ...]:
        """The tokens of a row.

        Args:
            line: Its 1-based line.
            record: A chat record or a pair.

        Raises:
            DatasetError: It cannot be shown.
        """
        if not can_be_rendered(record):
            raise DatasetError(f"line {line} is not a chat record or a pair", "choose another line")
        check = self._check
        if check is not None and check.chat_tokenizer is not None:
            return _exact(line, record, check, check.chat_tokenizer, self._model, self._limit)
        encoding = encoding_for(self._model).name
        if self._tiktoken is None:
            self._tiktoken = open_tiktoken(encoding)
        return _approximate(line, record, self._target, encoding, self._tiktoken, self._limit)


def _row(path: Path, line: int | None) -> tuple[int, dict[str, Any]]:
    number = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if line is not None and number != line:
                continue
            try:
                record = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError:
                record = None
            if isinstance(record, dict) and can_be_rendered(record):
                return number, record
            if line is not None:
                raise DatasetError(f"line {line} is not a chat record or a pair", "choose another line")
    if line is not None:
        raise UsageError(f"{path.name} has no line {line}", f"choose a line from 1 to {number}")
    raise DatasetError(f"{path.name} has no chat record and no pair", "`ftpipe prepare` lists what is wrong")


def _sequences(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "input" in record:
        yield from zip(PAIR_NAMES, pair_records(record), strict=True)
    else:
        yield "", record


def _exact(
    line: int, record: Mapping[str, Any], check: TrainingCheck, tokenizer: ChatTokenizer, model: str, limit: int | None
) -> tuple[TokenMask, ...]:
    masks = []
    try:
        for name, chat in _sequences(record):
            texts = training_texts(check.template, chat)
            all_trained = {**chat, "messages": [{**m, "weight": 1} for m in chat["messages"]]}
            answers = training_texts(check.template, all_trained)[0].answers if len(texts) == 1 else ()
            for index, rendered in enumerate(texts, 1):
                part = f"answer {index} of {len(texts)}" if len(texts) > 1 else ""
                tokens = tuple(_masked(rendered, answers, check, tokenizer, limit))
                masks.append(
                    TokenMask(line=line, name=name or part, tokenizer=model, exact=True, limit=limit, tokens=tokens)
                )
    except ChatTemplateError as exc:
        raise DatasetError(f"line {line} cannot be trained: {exc.message}", exc.hint) from exc
    return tuple(masks)


def _masked(
    rendered: RenderedText, answers: tuple[Any, ...], check: TrainingCheck, tokenizer: ChatTokenizer, limit: int | None
) -> Iterator[MaskedToken]:
    found = list(tokenizer.tokens(rendered))
    ends = [position for _, position in found[1:]] + [len(rendered.text)]
    written = check.template.control_positions(rendered.text)
    for index, ((id_, position), end) in enumerate(zip(found, ends, strict=True)):
        if limit is not None and index >= limit:
            kind = TokenKind.CUT
        elif any(span.start <= position < span.stop for span in rendered.answers):
            kind = TokenKind.TRAINED
        elif any(span.start <= position < span.stop for span in answers):
            kind = TokenKind.WEIGHT_0
        else:
            kind = TokenKind.CONTROL if position in written else TokenKind.PROMPT
        yield MaskedToken(text=rendered.text[position:end].replace(rendered.mark, ""), kind=kind, id=id_)


def _approximate(
    line: int,
    record: Mapping[str, Any],
    target: str,
    encoding: str,
    tiktoken: Any,  # noqa: ANN401  # its Encoding
    limit: int | None,
) -> tuple[TokenMask, ...]:
    note = "The service does not publish how it writes a conversation: 3 control tokens per message are counted."
    if target == "local":
        note = "The base model is not on this machine, so its tokens are not known; training fetches it."
    user = MESSAGE_START.format(role="user")
    note += f" {CONVERSATION_END} at the end and a role, such as {user}, stand for control tokens."
    return tuple(
        TokenMask(
            line=line,
            name=name,
            tokenizer=encoding,
            exact=False,
            note=note,
            limit=limit,
            tokens=tuple(_known_tokens(chat, tiktoken, limit)),
        )
        for name, chat in _sequences(record)
    )


def _known_tokens(chat: Mapping[str, Any], tokenizer: Any, limit: int | None) -> Iterator[MaskedToken]:  # noqa: ANN401
    position = 0

    def token(text: str, kind: TokenKind, id_: int | None = None) -> MaskedToken:
        nonlocal position
        position += 1
        return MaskedToken(text=text, kind=kind if limit is None or position <= limit else TokenKind.CUT, id=id_)

    for message in chat["messages"]:
        for text in (MESSAGE_START.format(role=message["role"]), "", ""):
            yield token(text, TokenKind.CONTROL)
        kind = TokenKind.PROMPT
        if message["role"] == "assistant":
            kind = TokenKind.TRAINED if is_trained(message) else TokenKind.WEIGHT_0
        for text, id_ in _texts_of_tokens(tokenizer, _text(message)):
            yield token(text, kind, id_)
    for text in (CONVERSATION_END, "", ""):
        yield token(text, TokenKind.CONTROL)


def _text(message: Mapping[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    try:
        text = text_of(message)
    except ChatTemplateError as exc:
        text = f"({exc.message})"
    return "\n".join(filter(None, [text, *(f"{call.get('name')} {call.get('arguments')}" for call in calls)]))


def _texts_of_tokens(tokenizer: Any, text: str) -> Iterator[tuple[str, int]]:  # noqa: ANN401  # tiktoken's Encoding
    """Text and id of each token; a character of several tokens is shown with the last one."""
    pending = b""
    for id_ in tokenizer.encode_ordinary(text):
        pending += tokenizer.decode_single_token_bytes(id_)
        try:
            shown, pending = pending.decode(), b""
        except UnicodeDecodeError:
            shown = ""
        yield shown, id_
