"""Compare the answers of an export with those of the trainer's model, token by token.

The trainer's model is the base model with the adapter, in float32. It answers some prompts greedily. The export then
gets each prompt in the way of the program that it is for, with its own chat template, and reads the trainer's answer:
where its own most probable token is another one, a user would get another answer. It also has to end answers at the
same tokens, and to give the most probable tokens the same log-probabilities.

How far these may differ is measured for each model: an export in 16 bits differs from float32 by rounding. So the
trainer's weights are rounded in the same way, and twice the difference that this makes is the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ftpipe.modeling.chat_messages import ChatTemplateError, Message, text_of
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.export.weights import fits_float16, merge_adapter
from ftpipe.modeling.loading import cache_argument, load_tokenizer, stop_token_ids
from ftpipe.modeling.types import CausalModel, Tokenizer

if TYPE_CHECKING:
    import torch

MAX_PROMPTS = 20
MAX_PROMPT_TOKENS = 1024
"""Longer prompts are left out."""
MAX_ANSWER_TOKENS = 32
TOP_TOKENS = 8
"""Most probable tokens of each position whose log-probabilities are compared."""
MIN_LOGPROB = -9.0
"""Tokens below this log-probability are not compared; rounding changes the improbable ones most."""
BASE_LIMIT = 0.01
"""Difference of log-probabilities that is always allowed: other programs add in another order."""
ROUNDING_FACTOR = 2.0
MAX_DIFFERENCE = 1000.0
"""What is reported for values that are not numbers."""
MAX_LIMIT = 0.5
"""Largest difference that is allowed, however much rounding changes."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prompt:
    """A conversation that the models answer."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class ReferenceAnswer:
    """What the trainer's model answers to a prompt.

    Attributes:
        top_ids: The most probable tokens of each position of the answer, the most probable one first.
        top_logprobs: Their log-probabilities.
    """

    prompt: Prompt
    prompt_ids: list[int]
    answer_ids: list[int]
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor


@dataclass(frozen=True)
class Reference:
    """The answers of the trainer's model.

    Attributes:
        stop_ids: Tokens that end an answer.
        end_of_turn: The one that training ends answers with.
        rounding_difference: Largest difference of log-probabilities when the weights are rounded as in the export.
    """

    answers: list[ReferenceAnswer]
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    end_of_turn: int
    rounding_difference: float

    @property
    def limit(self) -> float:
        """Largest difference of log-probabilities that an export may have."""
        return min(BASE_LIMIT + ROUNDING_FACTOR * self.rounding_difference, MAX_LIMIT)


class ExportedModel(Protocol):
    """An export, loaded by the program that it is for."""

    program: str
    """Name and version of the program."""
    stop_ids: frozenset[int]
    """Tokens that end an answer."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a conversation that the model continues."""

    def logprobs(self, prompt_ids: list[int], answer_ids: list[int]) -> torch.Tensor:
        """Log-probabilities of every token, for each position of an answer."""


@dataclass(frozen=True)
class Divergence:
    """The first token of an answer at which an export continues differently."""

    prompt: int
    token: int
    expected: str
    actual: str
    logprob_gap: float
    """How much more probable the expected token is for the trainer's model; near 0 if both are equally likely."""


@dataclass(frozen=True)
class CheckResult:
    """How an export compares with the trainer's model.

    Attributes:
        program: What loaded the export.
        prompts: Number of prompts.
        tokens: Number of compared positions.
        identical_answers: Answers that agree token for token.
        first_divergence: Of the first answer that does not.
        max_logprob_difference: Largest difference among the most probable tokens.
        limit: Largest difference that is allowed.
        rounding_difference: The part that rounding alone explains.
        problems: Why the export does not pass; empty if it does.
    """

    program: str
    prompts: int
    tokens: int
    identical_answers: int
    first_divergence: Divergence | None
    max_logprob_difference: float
    limit: float
    rounding_difference: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the export gives the answers of the trainer's model."""
        return not self.problems


def select_prompts(prompts: Sequence[Prompt], chat_tokenizer: ChatTokenizer) -> list[Prompt]:
    """Up to 20 prompts that the model can read, spread over the given ones; ftpipe's own if there are too few.

    Left out are those that the chat template refuses, long ones, and those that other programs tokenize differently on
    purpose: texts with a control token, which the trainer reads as text, and earlier answers that begin with a blank.
    """
    template = chat_tokenizer.template
    control_tokens = [word for word in template.special | template.added if word.strip()]

    def is_usable(prompt: Prompt) -> bool:
        try:
            texts = [text_of(message) for message in prompt.messages]
            length = len(chat_tokenizer.prompt(prompt.messages, prompt.tools))
        except (ChatTemplateError, TypeError, AttributeError):
            return False
        answers = [text for message, text in zip(prompt.messages, texts, strict=True) if message["role"] == "assistant"]
        return (
            length <= MAX_PROMPT_TOKENS
            and not any(token in text for token in control_tokens for text in texts)
            and not any(text[:1].isspace() for text in answers)
        )

    step = max(1, len(prompts) // (2 * MAX_PROMPTS))
    selected: list[Prompt] = []
    for prompt in [*prompts[::step], *BUILT_IN_PROMPTS]:
        if len(selected) < MAX_PROMPTS and prompt not in selected and is_usable(prompt):
            selected.append(prompt)
    return selected


def reference_answers(
    model: CausalModel, base_dir: Path, prompts: Sequence[Prompt], *, dtype: str, on_progress: Progress
) -> Reference:
    """Answer prompts with the trainer's model.

    Args:
        model: The base model with its adapter, in float32. Its weights are merged and rounded here.
        base_dir: Folder of the base model.
        prompts: What to answer.
        dtype: Precision to which the export's weights are rounded. ``float16`` becomes ``bfloat16`` if the weights are
            too large for it.
        on_progress: Called with the number of answers, and of all.
    """
    import torch

    tokenizer, chat_tokenizer = load_tokenizer(base_dir), ChatTokenizer.load(base_dir)
    end_of_turn = chat_tokenizer.end_of_turn()
    stop_ids = frozenset({*stop_token_ids(model, tokenizer), end_of_turn})
    answers = []
    selected = select_prompts(prompts, chat_tokenizer)
    for number, prompt in enumerate(selected, 1):
        prompt_ids = chat_tokenizer.prompt(prompt.messages, prompt.tools)
        answer_ids = _greedy_answer(model, prompt_ids, stop_ids)
        top = model_logprobs(model, prompt_ids, answer_ids).topk(TOP_TOKENS)
        answers.append(ReferenceAnswer(prompt, prompt_ids, answer_ids, top.indices, top.values))
        on_progress(number, len(selected))
    difference = 0.0
    if dtype != "float32":
        rounded = merge_adapter(model, keep_float32=True)
        if dtype == "float16" and not fits_float16(rounded.parameters()):
            dtype = "bfloat16"
        with torch.no_grad():
            for parameter in rounded.parameters():
                parameter.copy_(parameter.to(getattr(torch, dtype)))
        for answer in answers:
            logprobs = model_logprobs(rounded, answer.prompt_ids, answer.answer_ids)
            difference = max(difference, _largest_difference(answer, logprobs))
    return Reference(answers, tokenizer, stop_ids, end_of_turn, difference)


def check_export(reference: Reference, exported: ExportedModel, on_progress: Progress) -> CheckResult:
    """Compare an export with the trainer's model."""
    template_problem = answer_problem = ""
    identical_answers, max_difference = 0, 0.0
    first_divergence: Divergence | None = None
    for number, answer in enumerate(reference.answers, 1):
        prompt_ids = exported.prompt_ids(answer.prompt)
        if prompt_ids != answer.prompt_ids:
            template_problem = template_problem or _describe_template(reference, number, prompt_ids)
        logprobs = exported.logprobs(prompt_ids, answer.answer_ids)
        max_difference = max(max_difference, _largest_difference(answer, logprobs))
        divergence = _find_divergence(reference, number, logprobs)
        if divergence is None:
            identical_answers += 1
        else:
            first_divergence = first_divergence or divergence
            if divergence.logprob_gap > reference.limit:
                answer_problem = answer_problem or (
                    f"prompt {number} is answered differently from token {divergence.token} on: {divergence.actual} "
                    f"instead of {divergence.expected}"
                )
        on_progress(number, len(reference.answers))
    limit = reference.limit
    problems = [
        *_missing_stops(reference, exported.stop_ids),
        template_problem,
        answer_problem,
        ""
        if max_difference <= limit
        else f"log-probabilities differ by {max_difference:.3g}; the limit is {limit:.3g}",
    ]
    return CheckResult(
        program=exported.program,
        prompts=len(reference.answers),
        tokens=sum(len(answer.answer_ids) for answer in reference.answers),
        identical_answers=identical_answers,
        first_divergence=first_divergence,
        max_logprob_difference=max_difference,
        limit=limit,
        rounding_difference=reference.rounding_difference,
        problems=tuple(filter(None, problems)),
    )


def model_logprobs(model: CausalModel, prompt_ids: list[int], answer_ids: list[int]) -> torch.Tensor:
    """Log-probabilities of every token, for each position of an answer, of a model of transformers."""
    import torch

    ids_1T = torch.tensor([[*prompt_ids, *answer_ids]], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).cpu()


def _greedy_answer(model: CausalModel, prompt_ids: list[int], stop_ids: Collection[int]) -> list[int]:
    """The most probable tokens, up to and including one that ends the answer."""
    import torch
    from transformers import DynamicCache

    causal = model.get_base_model()
    cache = {cache_argument(causal): DynamicCache(config=causal.config)}
    answer: list[int] = []
    input_ids = prompt_ids
    with torch.inference_mode():
        while len(answer) < MAX_ANSWER_TOKENS and not (answer and answer[-1] in stop_ids):
            ids_1T = torch.tensor([input_ids], device=next(causal.parameters()).device)
            logits = causal(input_ids=ids_1T, use_cache=True, logits_to_keep=1, **cache).logits[0, -1]
            answer.append(int(logits.argmax()))
            input_ids = answer[-1:]
    return answer


def _largest_difference(answer: ReferenceAnswer, logprobs: torch.Tensor) -> float:
    differences = (logprobs.gather(-1, answer.top_ids) - answer.top_logprobs).abs()
    differences = differences.nan_to_num(nan=MAX_DIFFERENCE).clamp(max=MAX_DIFFERENCE)
    return float(differences[answer.top_logprobs >= MIN_LOGPROB].max())


def _find_divergence(reference: Reference, number: int, logprobs: torch.Tensor) -> Divergence | None:
    """The first token of an answer that is not the export's most probable one."""
    answer = reference.answers[number - 1]
    for index, (expected, actual) in enumerate(zip(answer.answer_ids, logprobs.argmax(-1).tolist(), strict=True)):
        if expected != actual:
            top_ids, values = answer.top_ids[index].tolist(), answer.top_logprobs[index]
            gap = float(values[0] - (values[top_ids.index(actual)] if actual in top_ids else values[-1]))
            expected_text, actual_text = (_token_text(reference.tokenizer, id_) for id_ in (expected, actual))
            return Divergence(number, index + 1, expected_text, actual_text, gap)
    return None


def _missing_stops(reference: Reference, stop_ids: Collection[int]) -> Iterator[str]:
    if reference.end_of_turn not in stop_ids:
        token = _token_text(reference.tokenizer, reference.end_of_turn)
        yield f"{token} ends an answer in training, and does not end one in the export"


def _describe_template(reference: Reference, number: int, actual: list[int]) -> str:
    expected = reference.answers[number - 1].prompt_ids
    index = next(
        (index for index, pair in enumerate(zip(expected, actual, strict=False)) if pair[0] != pair[1]),
        min(len(expected), len(actual)),
    )
    texts = [
        _token_text(reference.tokenizer, ids[index]) if index < len(ids) else "the end" for ids in (actual, expected)
    ]
    return f"prompt {number} has other tokens, from token {index + 1} on: {texts[0]} instead of {texts[1]}"


def _token_text(tokenizer: Tokenizer, id_: int) -> str:
    return repr(str(tokenizer.decode([id_])))


BUILT_IN_PROMPTS = tuple(
    Prompt([{"role": "user", "content": text}])
    for text in (
        "What is the capital of France?",
        "Write a haiku about the sea.",
        "Explain in two sentences why the sky is blue.",
        "Translate to German: Good morning, how are you?",
        "What is 17 times 23?",
        "List three fruits and their colours.",
        "def fibonacci(n):\n    # continue this function",
        "Summarize: The meeting was moved from Monday to Wednesday because the room was taken.",
        "Is this review positive or negative? 'The battery died after two days.'",
        "Reply with a JSON object that has the keys name and age.",
        "¿Cuál es la moneda de Japón?",
        "用一句话介绍长城。",
        "Who wrote Faust, and when?",
        "Fix the spelling: Teh quikc brown fxo.",
        "Give me a title for a talk about bees.",
        "What is the opposite of 'transparent'?",
        "Name a prime number above 100.",
        "My order 4711 has not arrived. What can I do?",
        "Tell me a joke about computers 🙂",
        "Continue: Once upon a time, in a village at the edge of the forest,",
    )
)
"""For models whose training data is not on this machine any more."""
