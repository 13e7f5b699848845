"""Constrain an answer to a grammar: any JSON object, a JSON schema, or a call of a function.

The grammar is in llguidance's dialect of Lark. Before each token it gives the set of tokens that can still lead to a
complete answer, and all others are masked. The end of the turn is among them only when the answer is complete.

Source: llguidance's ``docs/syntax.md`` and ``docs/json_schema.md``, version 1.9, read 2026-11-24.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.inference.closed_schemas import (
    KEYWORDS_WITH_NAMES,
    KEYWORDS_WITH_VALUES,
    close_objects,
    close_parameters,
)
from ftpipe.modeling.types import Tokenizer

if TYPE_CHECKING:
    import torch

LIMITED_WHITESPACE = {"whitespace_pattern": r"[\x20\n]{0,12}"}
"""Small models may write endless whitespace where JSON allows it."""
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The format of Python's ``json.dumps``, which chat templates use for calls."""


class GrammarError(UsageError):
    """A grammar that cannot be used."""

    code = "invalid_schema"


def json_rule(schema: Mapping[str, Any]) -> str:
    """A rule for a value that fits a JSON schema; its objects are closed, options for llguidance in it are ignored."""
    return f"%json {json.dumps({**close_objects(schema), 'x-guidance': LIMITED_WHITESPACE})}"


def tool_call_rule(functions: Sequence[Mapping[str, Any]]) -> str:
    """A rule for one call of one of ``functions``, in the format that ``ToolCallParser`` reads."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for number, function in enumerate(functions):
        location = f"#/$defs/{number}"
        definitions[str(number)] = _moved_schema(close_parameters(function.get("parameters")), location)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": location}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = {"x-guidance": ONE_LINE, "anyOf": calls, "$defs": definitions}
    return f'"<tool_call>\\n" %json {json.dumps(schema)} "\\n</tool_call>"'


def _moved_schema(schema: Mapping[str, Any], location: str) -> dict[str, Any]:
    """A schema as a part of another one: its references to itself lead to ``location``."""
    return {key: _moved_keyword(key, value, location) for key, value in schema.items() if key not in ("$id", "$schema")}


def _moved_keyword(key: str, value: Any, location: str) -> Any:  # noqa: ANN401  # JSON
    if key == "$ref" and isinstance(value, str) and value.startswith("#"):
        return location + value[1:]
    if key in KEYWORDS_WITH_VALUES:
        return value
    if key in KEYWORDS_WITH_NAMES and isinstance(value, Mapping):
        return {name: _moved_part(part, location) for name, part in value.items()}
    return _moved_part(value, location)


def _moved_part(value: Any, location: str) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, list):
        return [_moved_part(part, location) for part in value]
    # a part with an id is the root of its own references
    return _moved_schema(value, location) if isinstance(value, Mapping) and "$id" not in value else value


def build_grammar(alternatives: Iterable[str]) -> str:
    """A grammar of answers that follow one of several rules."""
    rules = [f"rule{number}: {rule}" for number, rule in enumerate(alternatives)]
    names = " | ".join(rule.partition(":")[0] for rule in rules)
    return "\n".join([f"start: {names}", *rules])


@cache
def _mask_of_bytes() -> torch.Tensor:
    """For each byte of a bit mask what is added to its eight logits: 0, or minus infinity where the bit is not set."""
    import torch

    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return torch.where(bits == 1, 0.0, float("-inf"))


class Vocabulary:
    """A model's tokens in llguidance's form; built once, which takes some tenths of a second.

    Args:
        tokenizer: The model's tokenizer.
        size: Number of logits of the model.
        stop_token_ids: Ids that end a turn.

    Raises:
        MissingExtraError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, stop_token_ids: Iterable[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as exc:
            message = "answers in a given format need llguidance (pip install 'ftpipe[local]')"
            raise MissingExtraError(message, "pip install 'ftpipe[local]'") from exc
        self.size = size
        self.tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(stop_token_ids))


class GrammarConstraint:
    """The state of one answer within its grammar.

    Args:
        vocabulary: The model's tokens.
        grammar: From ``build_grammar``.

    Raises:
        GrammarError: The grammar has a schema that llguidance does not support.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        from llguidance import LLMatcher

        text = LLMatcher.grammar_from_lark(grammar)
        error = LLMatcher.validate_grammar(text, vocabulary.tokens)
        if error:
            raise GrammarError(f"this format is not supported: {error[:300]}", "simplify the schema")
        self._size = vocabulary.size
        self._matcher = LLMatcher(vocabulary.tokens, text)

    def mask_logits(self, logits: torch.Tensor) -> None:
        """Set the logits of all tokens that cannot lead to a complete answer to minus infinity.

        llguidance's own ``apply_token_bitmask_inplace`` needs a C++ compiler when it is used (torch), or takes twice as
        long (numpy, 0.3 ms for 49,152 logits; 2026-11-29).
        """
        import torch

        mask_bytes = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        masked = _mask_of_bytes()[mask_bytes.long()].flatten()
        logits += masked[: self._size]

    def accept_token(self, token: int) -> None:
        """Advance by the sampled token."""
        self._matcher.consume_token(token)
