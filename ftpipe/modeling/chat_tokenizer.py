"""Turn a conversation into token ids and labels: only assistant turns are trained, with their end-of-turn token.

What ``training_text`` finds to be an answer gets labels. Every other position has the label ``-100``, which the loss
ignores.

Prompts and answers are tokenized apart, in training and in chats: the ids of a training sequence begin with exactly the
ids that the model gets when it has to write the answer. If they were tokenized together, a token could straddle the two
(the line break before an answer and its indentation), and the model would never see it in a chat.

Texts of users never become control tokens: see ``control_tokens``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.errors import MissingExtraError
from ftpipe.modeling.chat_messages import ChatTemplateError as ChatTemplateError
from ftpipe.modeling.chat_messages import Message
from ftpipe.modeling.chat_template import ChatTemplate, Tools
from ftpipe.modeling.text_encoder import TextEncoder
from ftpipe.modeling.training_text import RenderedText, end_of_turn, pair_records, prompt_text, training_texts
from ftpipe.modeling.types import Tokenizer

IGNORE_INDEX = -100
"""Label of a position that is not trained."""


@dataclass(frozen=True)
class Example:
    """One sequence to train on.

    Attributes:
        ids: Token ids of the rendered conversation.
        labels: Of the same length: the id of each trained token, ``-100`` for the others.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that have a label."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    @property
    def length_with_answers(self) -> int:
        """Number of tokens up to the end of the last answer that is trained."""
        trained = (i for i in range(len(self.labels), 0, -1) if self.labels[i - 1] != IGNORE_INDEX)
        return next(trained, 0)

    def truncate(self, limit: int) -> Example:
        """The first ``limit`` tokens; the rest is dropped, as the hosted service does."""
        return Example(self.ids[:limit], self.labels[:limit])

    def to_json(self) -> list[tuple[int, ...]]:
        """Ids and labels."""
        return [self.ids, self.labels]

    @classmethod
    def from_json(cls, pair: Sequence[Sequence[int]]) -> Example:
        """The example that ``to_json`` returned."""
        return cls(tuple(pair[0]), tuple(pair[1]))


class ChatTokenizer:
    """Makes training sequences and prompts with one tokenizer.

    Attributes:
        template: The base model's chat template.
        split_conversations: Number of conversations that were split into one sequence per trained turn, because the
            template renders earlier turns differently from the last one.
    """

    def __init__(self, template: ChatTemplate, encoder: TextEncoder) -> None:
        if "default" not in template.sources:
            raise ChatTemplateError(
                "this base model has no chat template, so conversations cannot be rendered for it",
                "choose an instruct model, whose tokenizer has a template",
            )
        self.template = template
        self.split_conversations = 0
        self._encoder = encoder

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """The chat tokenizer of a base model's folder; trainer, server and checks use no other.

        Raises:
            ChatTemplateError: The model has no chat template, or no fast tokenizer.
            MissingExtraError: A required package is not installed.
        """
        if not (folder / "tokenizer.json").is_file():
            from ftpipe.modeling.loading import load_tokenizer

            return cls.of(load_tokenizer(folder))
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as exc:
            raise MissingExtraError("local models need the local extra", "pip install 'ftpipe[local]'") from exc
        return cls(ChatTemplate.load(folder), TextEncoder(Backend.from_file(str(folder / "tokenizer.json"))))

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTokenizer:
        """The chat tokenizer of a tokenizer of transformers.

        Raises:
            ChatTemplateError: It has no chat template, or is not a fast one.
        """
        if not tokenizer.is_fast:
            raise ChatTemplateError(
                "this base model's tokenizer has no character offsets", "choose a base model with a tokenizer.json"
            )
        backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        return cls(ChatTemplate.of(tokenizer), TextEncoder(backend))

    def examples(self, record: Mapping[str, Any]) -> list[Example]:
        """The sequences of one chat record: one, or one per trained turn if the template rewrites earlier turns.

        Raises:
            ChatTemplateError: The template does not accept the record, or no message of it is trained.
        """
        texts = training_texts(self.template, record)
        self.split_conversations += len(texts) > 1
        return [self._example(rendered) for rendered in texts]

    def pair(self, record: Mapping[str, Any]) -> tuple[Example, Example]:
        """The preferred and the non-preferred sequence of a preference record; only the last turn is trained.

        Raises:
            ChatTemplateError: The template does not accept the record.
        """
        chosen, rejected = pair_records(record)
        return self.examples(chosen)[-1], self.examples(rejected)[-1]

    def prompt(
        self, messages: Sequence[Message], tools: Tools = None, variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation that the model continues.

        Args:
            messages: The conversation.
            tools: Tool definitions.
            variables: What the chat template can use besides.

        Raises:
            ChatTemplateError: The template does not accept the conversation.
        """
        return [id_ for id_, _ in self.tokens(prompt_text(self.template, messages, tools, variables))]

    def end_of_turn(self) -> int:
        """Id of the token that ends an assistant turn.

        Raises:
            ChatTemplateError: The template ends turns without a special token.
        """
        return next(id_ for id_, _ in self._encoder.encode(end_of_turn(self.template), is_continuation=True))

    @property
    def decoding_context(self) -> tuple[int, ...]:
        """Tokens to decode an answer behind, so that it keeps the blank that it begins with."""
        return self._encoder.context

    def tokens(self, rendered: RenderedText) -> Iterator[tuple[int, int]]:
        """Id and position of each token of a rendered conversation."""
        for start, text in rendered.parts():
            for id_, offset in self._encoder.encode(text, is_continuation=start > 0):
                # some tokenizers leave blanks out of a token's position, which can then be that of the next part
                yield id_, start + min(offset, len(text) - 1)

    def _example(self, rendered: RenderedText) -> Example:
        ids: list[int] = []
        labels: list[int] = []
        remaining = list(rendered.answers)
        for id_, position in self.tokens(rendered):
            while remaining and position >= remaining[0].stop:
                remaining.pop(0)
            ids.append(id_)
            labels.append(id_ if remaining and remaining[0].start <= position else IGNORE_INDEX)
        return Example(tuple(ids), tuple(labels))
