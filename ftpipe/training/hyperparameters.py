"""Resolve a job's requested hyperparameters, ``auto`` included, into numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ftpipe.auto_epochs import auto_epochs
from ftpipe.errors import UsageError

ATTENTION_TARGETS = ("q_proj", "v_proj")
WARMUP_FRACTION = 0.1
"""Fraction of the steps over which the learning rate rises."""
MAX_AUTO_BATCH_SIZE = 32
MAX_AUTO_LENGTH, MAX_AUTO_LENGTH_ON_CPU = 8192, 2048
"""Tokens per sequence if the job sets no ``max_length``; without a GPU longer ones need too much memory and time."""
MAX_MICRO_BATCH_TOKENS, MIN_MICRO_BATCH_TOKENS = 4096, 256
"""Padded tokens that are computed together at most, and below which less memory is not worth the time."""
PRECISIONS = ("float32", "bfloat16")
QUANTIZATIONS = ("none", "4bit", "8bit")
DEFAULT_BETA = 0.1
DEFAULT_KL_BETA = 0.04
"""Of reinforcement. Source: DeepSeekMath, arXiv 2402.03300, section 4.2, read 2026-11-29."""
GROUP_SIZE = 8
"""Answers that are sampled for each prompt, times ``compute_multiplier``."""
MIN_GROUP_SIZE, MAX_GROUP_SIZE = 2, 64
UPDATES_PER_BATCH = 2
"""Optimizer steps that reinforcement takes with the same answers, which are dear."""
EVALUATIONS_PER_RUN = 10
"""Evaluations of reinforcement, if the job sets no interval."""
DEFAULT_COMPLETION_TOKENS = 256
"""Most tokens of an answer in reinforcement."""
DEFAULT_CONTEXT = 2048
"""Context length of a base model whose configuration names none."""


@dataclass(frozen=True)
class ResolvedHyperparameters:
    """Everything that, with the seed and the data, decides a run's outcome.

    Attributes:
        n_epochs: Passes over the data.
        batch_size: Examples per optimizer step.
        learning_rate_multiplier: Factor on the default learning rate, as requested.
        learning_rate: Peak rate, including the multiplier.
        lora_r: Rank of the adapter.
        lora_alpha: The adapter's output is scaled by ``lora_alpha / lora_r``.
        lora_dropout: Fraction of the adapter's inputs that is dropped in training.
        target_modules: Names of the linear layers that get an adapter.
        max_length: Tokens per sequence; longer ones are truncated, unless an answer would lose its end.
        max_grad_norm: Gradients are scaled down to this norm.
        beta: DPO and reinforcement: how close the model stays to the one before training.
        compute_multiplier: Reinforcement: factor on the number of answers to each prompt.
        eval_interval: Reinforcement: steps between evaluations of the validation rows, and checkpoints.
        eval_samples: Reinforcement: answers to each validation row.
        max_completion_tokens: Reinforcement: most tokens of an answer.
        skip_bad_rows: Whether rows that cannot be trained on are left out; otherwise they fail the job.
        precision: ``float32`` or ``bfloat16``: of the base model, and of what it computes; adapters are in float32.
        quantization: ``4bit`` or ``8bit`` for the linear layers of the base model, else ``none``.
        gradient_checkpointing: Whether layers are computed again in the backward pass instead of kept.
        micro_batch_tokens: Padded tokens of a batch that are computed together; gradients add up over the parts.
    """

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    target_modules: tuple[str, ...] = ATTENTION_TARGETS
    max_length: int = 2048
    max_grad_norm: float = 1.0
    beta: float | None = None
    skip_bad_rows: bool = False
    precision: str = "float32"
    quantization: str = "none"
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = MAX_MICRO_BATCH_TOKENS
    compute_multiplier: float | None = None
    eval_interval: int | None = None
    eval_samples: int | None = None
    max_completion_tokens: int | None = None

    @property
    def group_size(self) -> int:
        """Answers that reinforcement samples for each prompt of a batch."""
        return min(MAX_GROUP_SIZE, max(MIN_GROUP_SIZE, round(GROUP_SIZE * (self.compute_multiplier or 1.0))))

    def steps_per_epoch(self, examples: int) -> int:
        """Optimizer steps in one pass over ``examples`` examples."""
        return math.ceil(examples / self.batch_size)

    def as_api(self) -> dict[str, Any]:
        """The resolved hyperparameters that the API shows: those that the method has."""
        values: dict[str, Any] = {
            "n_epochs": self.n_epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "learning_rate": self.learning_rate,
            "lora_r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": list(self.target_modules),
            "max_length": self.max_length,
            "precision": self.precision,
            "quantization": self.quantization,
            "gradient_checkpointing": self.gradient_checkpointing,
            "beta": self.beta,
            "compute_multiplier": self.compute_multiplier,
            "eval_interval": self.eval_interval,
            "eval_samples": self.eval_samples,
            "max_completion_tokens": self.max_completion_tokens,
        }
        return {name: value for name, value in values.items() if value is not None}

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """Learning rate of ``step`` (from 1): up over the first tenth, then down a cosine to a tenth of the peak."""
        warmup_steps = max(1, round(total_steps * WARMUP_FRACTION))
        if step <= warmup_steps:
            return self.learning_rate * step / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))

    def as_json(self) -> dict[str, Any]:
        """All fields, for ``plan.json``."""
        return {**asdict(self), "target_modules": list(self.target_modules)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ResolvedHyperparameters:
        """The hyperparameters that ``as_json`` wrote."""
        return cls(**{**row, "target_modules": tuple(row["target_modules"])})


def max_sequence_length(requested: object, *, max_context: int, on_accelerator: bool) -> int:
    """Tokens per sequence: trainer and check use this limit.

    Args:
        requested: ``max_length`` of the job; ``None`` or ``auto`` for the default.
        max_context: Context length of the base model.
        on_accelerator: Whether the machine has a GPU.

    Raises:
        UsageError: It is not a number from 8 to the context length.
    """
    default = min(max_context, MAX_AUTO_LENGTH if on_accelerator else MAX_AUTO_LENGTH_ON_CPU)
    return int(_number({"max_length": requested}, "max_length", default, min(8, max_context), max_context))


def auto_batch_size(examples: int) -> int:
    """Examples per step for ``auto``: 0.2 % of the examples, at least 4 and at most 32.

    The hosted rule of thumb has a minimum of 1. A local machine computes four short examples in little more time than
    one, and a mean over four is a less noisy gradient, so the minimum is 4.
    """
    return max(1, min(examples, max(4, min(MAX_AUTO_BATCH_SIZE, round(0.002 * examples)))))


def default_learning_rate(parameters: int, targets: tuple[str, ...] = ATTENTION_TARGETS) -> float:
    """Peak LoRA learning rate for a base model of ``parameters`` parameters at multiplier 1.

    Small models need high rates: 2e-3 at 135 million parameters, falling with the square root of the size (1e-3 at
    half a billion, 2.8e-4 at 7 billion, 8.8e-5 at 70 billion, the rates in common use for these sizes). Half of that
    if more than the attention projections are adapted, because each step then changes the function more.
    """
    rate = min(2e-3, max(5e-5, 2e-3 * math.sqrt(135e6 / max(1, parameters))))
    return rate if set(targets) <= {"q_proj", "k_proj", "v_proj", "o_proj"} else rate / 2


RATE_FACTORS = {"dpo": 0.1, "reinforcement": 0.5}
"""Method → factor on the default rate of supervised fine-tuning. DPO starts from a model that answers already; its
usual rates are a tenth of supervised ones."""


def resolve_hyperparameters(
    requested: Mapping[str, Any], *, examples: int, parameters: int, max_context: int, on_accelerator: bool, method: str
) -> ResolvedHyperparameters:
    """Resolve ``auto`` and missing values, and check the others.

    Args:
        requested: Numbers or ``auto``, with extras like ``lora_r``.
        examples: Training sequences.
        parameters: Number of parameters of the base model.
        max_context: Context length of the base model.
        on_accelerator: Whether the machine has a GPU; without one the default ``max_length`` is shorter.
        method: ``supervised``, ``dpo`` or ``reinforcement``.

    Raises:
        UsageError: A value is out of range.
    """
    targets = _target_modules(requested.get("target_modules"))
    multiplier = _number(requested, "learning_rate_multiplier", 1.0, 0.0, 1e4, exclusive=True)
    base_rate = default_learning_rate(parameters, targets) * RATE_FACTORS.get(method, 1.0)
    rate = _number(requested, "learning_rate", base_rate * multiplier, 0.0, 1.0, exclusive=True)
    resolved = ResolvedHyperparameters(
        n_epochs=int(_number(requested, "n_epochs", auto_epochs(examples), 1, 50)),
        batch_size=int(_number(requested, "batch_size", auto_batch_size(examples), 1, 256)),
        learning_rate_multiplier=multiplier,
        learning_rate=rate,
        lora_r=int(_number(requested, "lora_r", 16, 1, 512)),
        lora_alpha=int(_number(requested, "lora_alpha", 32, 1, 4096)),
        lora_dropout=_number(requested, "lora_dropout", 0.0 if method == "reinforcement" else 0.05, 0.0, 0.9),
        target_modules=targets,
        max_length=max_sequence_length(
            requested.get("max_length"), max_context=max_context, on_accelerator=on_accelerator
        ),
        max_grad_norm=_number(requested, "max_grad_norm", 1.0, 0.0, 1e6, exclusive=True),
        beta=_number(requested, "beta", DEFAULT_BETA, 0.0, 2.0, exclusive=True) if method == "dpo" else None,
        skip_bad_rows=_boolean(requested, "skip_bad_rows"),
        precision=_choice(requested, "precision", PRECISIONS),
        quantization=_choice(requested, "quantization", QUANTIZATIONS),
        gradient_checkpointing=_boolean(requested, "gradient_checkpointing"),
        micro_batch_tokens=int(
            _number(requested, "micro_batch_tokens", MAX_MICRO_BATCH_TOKENS, MIN_MICRO_BATCH_TOKENS, 1 << 20)
        ),
    )
    return _with_reinforcement(resolved, requested, examples) if method == "reinforcement" else resolved


def _with_reinforcement(
    resolved: ResolvedHyperparameters, requested: Mapping[str, Any], examples: int
) -> ResolvedHyperparameters:
    """With the hyperparameters that only reinforcement has."""
    steps = resolved.steps_per_epoch(examples) * resolved.n_epochs
    longest = max(1, resolved.max_length - 1)
    return replace(
        resolved,
        beta=_number(requested, "beta", DEFAULT_KL_BETA, 0.0, 2.0),
        compute_multiplier=_number(requested, "compute_multiplier", 1.0, 1e-5, 10.0, exclusive=True),
        eval_interval=int(_number(requested, "eval_interval", max(1, round(steps / EVALUATIONS_PER_RUN)), 1, 1e9)),
        eval_samples=int(_number(requested, "eval_samples", 1, 1, 1000)),
        max_completion_tokens=int(
            _number(requested, "max_completion_tokens", min(DEFAULT_COMPLETION_TOKENS, longest // 2 + 1), 1, longest)
        ),
    )


def _number(
    requested: Mapping[str, Any], name: str, default: float, low: float, high: float, *, exclusive: bool = False
) -> float:
    value = requested.get(name)
    if value is None or value == "auto":
        return float(default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name} is {value!r}, which is not a number", f"give {name} a number, or leave it out"
        ) from None
    if not (low < number if exclusive else low <= number) or not number <= high:
        raise UsageError(
            f"{name} is {value}, outside {'above ' if exclusive else ''}{low:g} to {high:g}",
            f"choose {name} in that range",
        )
    return number


def _boolean(requested: Mapping[str, Any], name: str) -> bool:
    value = requested.get(name)
    if value is None or value == "auto":
        return False
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}, not true or false", "choose true or false")
    return value


def _choice(requested: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = requested.get(name)
    if value is None or value == "auto":
        return choices[0]
    if value not in choices:
        raise UsageError(f"{name} is {value!r}", f"choose {', '.join(choices)} or auto")
    return str(value)


def _target_modules(requested: object) -> tuple[str, ...]:
    if requested in (None, "auto"):
        return ATTENTION_TARGETS
    names = requested.split(",") if isinstance(requested, str) else requested
    if not isinstance(names, list | tuple):
        names = []
    targets = tuple(sorted({str(name).strip() for name in names} - {""}))
    if not targets:
        raise UsageError("target_modules is empty", "name linear layers, for example q_proj,v_proj, or all-linear")
    return targets
