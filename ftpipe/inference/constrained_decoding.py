"""Hold an answer to a form: any JSON object, a JSON schema, or a call of a function.

A grammar in llguidance's dialect of Lark says what may come; before each token it gives the set of tokens that can
still lead to a whole answer, and all others are ruled out. The end of the turn is among them only once the form is
complete.

Source: llguidance's ``docs/syntax.md`` and ``docs/json_schema.md``, version 1.9, read 2026-11-24.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.modeling.types import Tokenizer

if TYPE_CHECKING:
    import torch

WHITESPACE_LIMIT = {"whitespace_pattern": r"[\x20\n]{0,12}"}
"""Small models may write blanks without end where JSON lets them."""
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's ``json.dumps`` writes it, which is how chat templates show calls."""


class GrammarError(UsageError):
    """A form that no answer can be held to."""

    code = "invalid_schema"


def json_rule(schema: Mapping[str, Any]) -> str:
    """A rule for a value of a JSON schema."""
    return f"%json {json.dumps({'x-guidance': WHITESPACE_LIMIT, **schema})}"


def tool_call_rule(functions: Sequence[Mapping[str, Any]]) -> str:
    """A rule for one call of one of ``functions``, in the text that ``parse_tool_calls`` reads."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    schema = {"x-guidance": ONE_LINE, "anyOf": calls}
    definitions: dict[str, Any] = {}
    for function in functions:
        definitions |= (function.get("parameters") or {}).get("$defs") or {}
    if definitions:
        schema["$defs"] = definitions
    return f'"<tool_call>\\n" %json {json.dumps(schema)} "\\n</tool_call>"'


def build_grammar(forms: Iterable[str]) -> str:
    """A grammar of answers that have one of the forms."""
    rules = [f"form{number}: {form}" for number, form in enumerate(forms)]
    names = " | ".join(rule.partition(":")[0] for rule in rules)
    return "\n".join([f"start: {names}", *rules])


class Vocabulary:
    """A base's tokens as llguidance knows them; made once, which takes some tenths of a second.

    Args:
        tokenizer: The base's tokenizer.
        size: Logits of the model.
        stops: Ids that end a turn.

    Raises:
        MissingExtraError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, stops: Iterable[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as exc:
            message = "answers of a given form need llguidance (pip install 'ftpipe[local]')"
            raise MissingExtraError(message, "pip install 'ftpipe[local]'") from exc
        self.size = size
        self.tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(stops))


class GrammarConstraint:
    """Follows one answer along its grammar.

    Args:
        vocabulary: The base's tokens.
        rules: From ``build_grammar``.

    Raises:
        GrammarError: The grammar holds a schema that cannot be followed.
    """

    def __init__(self, vocabulary: Vocabulary, rules: str) -> None:
        from llguidance import LLMatcher

        text = LLMatcher.grammar_from_lark(rules)
        fault = LLMatcher.validate_grammar(text, vocabulary.tokens)
        if fault:
            raise GrammarError(f"no answer can be held to this form: {fault[:300]}", "simplify the schema")
        self._size = vocabulary.size
        self._matcher = LLMatcher(vocabulary.tokens, text)

    def mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits with minus infinity wherever a token cannot lead to a whole answer."""
        import numpy as np
        import torch

        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: self._size].astype(bool))
        return logits.masked_fill(~allowed, float("-inf"))

    def accept_token(self, token: int) -> None:
        """Go on by the token that was chosen."""
        self._matcher.consume_token(token)
