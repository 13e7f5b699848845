"""Reinforcement fine-tuning: sample answers to prompts, let a grader score them, and learn from the scores by GRPO."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import FtpipeError
from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer
from ftpipe.modeling.types import Optimizer
from ftpipe.records.job import TrainingMetrics
from ftpipe.training.batching import REFUSE_BAD_ROWS, BadRows, convert_rows
from ftpipe.training.grpo import GRPOObjective, Sample, advantages, answer_example, group_parts, mean_divergence
from ftpipe.training.hyperparameters import UPDATES_PER_BATCH
from ftpipe.training.lora import dump_adapter, trainable_parameters
from ftpipe.training.loss import LossStats
from ftpipe.training.rewards import Grades, RewardFunction, grader_metrics
from ftpipe.training.rollouts import AnswerSampler, SampledAnswer, SampleRequest
from ftpipe.training.trainer import StepInterrupted, TrainingLoop, rounded

if TYPE_CHECKING:
    import torch


class DivergedError(FtpipeError):
    """The loss is not a finite number any more."""

    code = "training_diverged"


@dataclass(frozen=True)
class Prompt:
    """A row: the token ids that an answer follows, and what the grader reads."""

    ids: tuple[int, ...]
    item: dict[str, Any]

    def to_json(self) -> list[Any]:
        """Ids and row."""
        return [self.ids, self.item]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> Prompt:
        """The prompt that ``to_json`` wrote."""
        return cls(tuple(row[0]), row[1])


def read_prompts(
    path: Path,
    chat_tokenizer: ChatTokenizer,
    reward: RewardFunction,
    *,
    limit: int,
    bad_rows: BadRows = REFUSE_BAD_ROWS,
) -> tuple[list[Prompt], tuple[str, ...]]:
    """Render and tokenize the prompt of every row; also line and reason of rows that were left out.

    Args:
        path: A JSONL file of reinforcement rows.
        chat_tokenizer: Renders with the base model's chat template.
        reward: What scores the answers; a row must have all that it reads.
        limit: Most tokens of a prompt.
        bad_rows: What happens to rows that cannot be trained on.

    Raises:
        DatasetError: Rows that cannot be trained on, with their lines (the first ten).
    """

    def convert(_line: int, record: dict[str, Any]) -> Prompt:
        messages = record.get("messages")
        if not isinstance(messages, list) or not messages or messages[-1]["role"] == "assistant":
            raise ChatTemplateError("it is not a reinforcement row (messages that end with the user)")
        if missing := reward.missing_key(record):
            raise ChatTemplateError(f"the grader reads {missing}, which it does not have")
        ids = chat_tokenizer.prompt(messages, record.get("tools"))
        if len(ids) > limit:
            raise ChatTemplateError(f"its prompt has {len(ids):,} tokens, and {limit:,} are left beside the answer")
        return Prompt(tuple(ids), record)

    rows, skipped = convert_rows(path, convert, unit="reinforcement row", bad_rows=bad_rows)
    return [prompt for _, prompt in rows], skipped


@dataclass(frozen=True)
class _GradedAnswers:
    """Answers to a prompt and their rewards."""

    prompt: Prompt
    answers: Sequence[SampledAnswer]
    rewards: Sequence[float]


@dataclass(kw_only=True)
class ReinforcementTrainer(TrainingLoop):
    """Each step samples a group of answers to every prompt of a batch and trains on them.

    Attributes:
        prompts: The training rows.
        validation: The validation rows.
        sampler: Samples the answers.
        reward: Scores them.
    """

    prompts: Sequence[Prompt]
    validation: Sequence[Prompt]
    sampler: AnswerSampler
    reward: RewardFunction
    _initial_weights: list[torch.Tensor] = field(init=False)
    _grades: dict[str, Grades] = field(init=False, default_factory=dict)
    _has_warned: bool = field(init=False, default=False)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(prompt.ids) for prompt in self.prompts]

    @property
    def total_tokens(self) -> None:
        """Not known: answers have any length."""

    def prepare(self) -> None:
        """Keep the adapter's weights before training: with them the model is the reference."""
        self._initial_weights = [tensor.detach().clone() for tensor in self._weights()]

    def is_milestone(self, step: int, *, is_epoch_end: bool) -> bool:  # noqa: ARG002 - epochs do not matter here
        """Whether the validation rows are evaluated after a step: at an interval, and at the end."""
        return step % (self.hyperparameters.eval_interval or 1) == 0 or step == self.total_steps

    def train_step(self, optimizer: Optimizer, batch: list[int], *, is_milestone: bool) -> TrainingMetrics:
        """Sample, grade, and train; what is sampled depends on seed, step and weights alone."""
        step = self.state.step + 1
        self._grades.clear()
        groups = self._sample(
            "train",
            [self.prompts[index] for index in batch],
            [f"{self.seed}/{step}/{index}" for index in batch],
            self.hyperparameters.group_size,
            is_interruptible=True,
        )
        rewards = [reward for group in groups for reward in group.rewards]
        lengths = [len(answer.ids) for group in groups for answer in group.answers]
        samples = self._samples(groups)
        stats = self._update(optimizer, samples, step)
        learnt = {sample.prompt for sample in samples}
        metrics = TrainingMetrics(
            step=step,
            train_loss=rounded(stats.mean_loss),
            train_mean_reward=rounded(statistics.fmean(rewards)),
            completion_tokens_mean=rounded(statistics.fmean(lengths)),
            zero_std_fraction=rounded(1 - len(learnt) / len(groups)),
            kl=rounded(mean_divergence(samples)) if samples else None,
        )
        if is_milestone and self.validation:
            valid = rounded(self._validation_reward())
            metrics = metrics.model_copy(update={"valid_mean_reward": valid, "full_valid_mean_reward": valid})
        self.state.step = step
        self.state.trained_tokens += sum(lengths) + sum(len(group.prompt.ids) * len(group.answers) for group in groups)
        self.state.metrics.append(metrics)
        return metrics

    def step_details(self) -> tuple[dict[str, Any], str]:
        """What each grader did, and a warning if it fails for the first time."""
        failing = [(grades, counts) for grades in self._grades.values() if (counts := grades.most_failing())]
        warning = ""
        if failing and not self._has_warned:
            self._has_warned = True
            grades, counts = failing[0]
            number = f"{counts.errors.total()} of {len(grades.rewards)} answers"
            warning = f"The grader {counts.name!r} gave {number} no score, which counts as the lowest: {counts.failure}"
        return grader_metrics(self._grades), warning

    def _sample(
        self, rows: str, prompts: Sequence[Prompt], seeds: Sequence[str], count: int, *, is_interruptible: bool = False
    ) -> list[_GradedAnswers]:
        """So many graded answers to each prompt of the ``train`` or ``valid`` rows."""
        requests = [
            SampleRequest(prompt.ids, random.Random(f"{seed}/{number}").getrandbits(63))  # noqa: S311 - no secret
            for prompt, seed in zip(prompts, seeds, strict=True)
            for number in range(count)
        ]
        files = dump_adapter(self.model.lm.model, base_model=self.base_model)
        check_cancelled = self._check_pause if is_interruptible else lambda: None
        answers = self.sampler.sample(files, requests, check_cancelled)
        items = [prompt.item for prompt in prompts for _ in range(count)]
        graded = [(item, answer.text) for item, answer in zip(items, answers, strict=True)]
        self._grades[rows] = grades = self.reward.score(graded, check_cancelled)
        ends = range(count, len(answers) + 1, count)
        return [
            _GradedAnswers(prompt, answers[end - count : end], grades.rewards[end - count : end])
            for prompt, end in zip(prompts, ends, strict=True)
        ]

    def _check_pause(self) -> None:
        if self.should_pause():
            raise StepInterrupted

    def _samples(self, groups: Sequence[_GradedAnswers]) -> list[Sample]:
        """What is trained on: the answers of groups with different rewards."""
        samples: list[Sample] = []
        for number, group in enumerate(groups):
            values = advantages(group.rewards)
            if any(values):
                samples += [
                    Sample(answer_example(group.prompt.ids, answer.ids), number, value)
                    for answer, value in zip(group.answers, values, strict=True)
                ]
        return self._with_logprobs(samples)

    def _with_logprobs(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with their log-probabilities, now and before training."""
        parts = group_parts(samples, self.model.lm.micro_batch_tokens)
        sampled = self._logprobs(parts)
        with self._model_before_training():
            reference = self._logprobs(parts)
        return [
            replace(sample, sampled_logprobs=now, reference_logprobs=before)
            for sample, now, before in zip(itertools.chain(*parts), sampled, reference, strict=True)
        ]

    def _logprobs(self, parts: Sequence[Sequence[Sample]]) -> list[tuple[float, ...]]:
        """The log-probabilities of the tokens of each sample with the weights of the moment."""
        import torch

        module = self.model.module
        module.eval()
        result: list[tuple[float, ...]] = []
        with torch.no_grad():
            for part in parts:
                losses_N, _ = module([sample.example for sample in part], by_token=True)
                values = (-losses_N).split([sample.example.trained_tokens for sample in part])
                result += [tuple(own.tolist()) for own in values]
        return result

    def _update(self, optimizer: Optimizer, samples: Sequence[Sample], step: int) -> LossStats:
        """Optimizer steps on the samples; none without samples. Returns the statistics before the first one."""
        import torch

        first = LossStats()
        if not samples:
            return first
        objective = GRPOObjective(samples, self.hyperparameters.beta or 0.0)
        for number in range(UPDATES_PER_BATCH):
            torch.manual_seed((self.seed * 1_000_003 + step) * UPDATES_PER_BATCH + number)
            self.model.module.train()
            stats = self.model.backward(objective, range(len(samples)))
            if not math.isfinite(stats.loss):
                raise DivergedError("the loss is not a number any more", "lower the learning rate multiplier")
            self.update_weights(optimizer, step)
            first = first if number else stats
        return first

    def _validation_reward(self) -> float:
        """Mean reward of the validation rows; their seeds are the same in each evaluation."""
        groups = self._sample(
            "valid",
            self.validation,
            [f"{self.seed}/validation/{number}" for number in range(len(self.validation))],
            self.hyperparameters.eval_samples or 1,
        )
        return statistics.fmean(reward for group in groups for reward in group.rewards)

    def _weights(self) -> list[torch.Tensor]:
        return [tensor for _, tensor in trainable_parameters(self.model.lm.model)]

    @contextmanager
    def _model_before_training(self) -> Iterator[None]:
        """The model with the adapter's first weights; the base needs not be loaded twice."""
        import torch

        current = [tensor.detach().clone() for tensor in self._weights()]
        with torch.no_grad():
            for tensor, initial in zip(self._weights(), self._initial_weights, strict=True):
                tensor.copy_(initial)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, own in zip(self._weights(), current, strict=True):
                    tensor.copy_(own)
