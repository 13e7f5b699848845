"""Records of an endpoint: files, jobs, their events, metrics and checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ftpipe.records.base import Method, Record


class UploadedFile(Record):
    """A dataset file at an endpoint."""

    id: str
    """The endpoint's file id."""
    endpoint: str
    """Fingerprint of the endpoint and key scope that the id is valid for."""
    sha256: str
    """Digest of the uploaded dataset, its predecessor."""
    bytes: int
    filename: str
    """Named by content: ``ftpipe-<first 16 characters of sha256>.jsonl``."""
    created_at: int
    reused: bool = False
    """True if the endpoint had the file already and nothing was sent."""


PAUSE_REQUESTED = "The job will pause at its next step"
"""Event of the embedded server between the request to pause and the pause."""
Auto = Literal["auto"]
LOCAL_HYPERPARAMETERS = ("max_length", "precision", "quantization", "gradient_checkpointing", "max_completion_tokens")
"""Hyperparameters of ftpipe's own server; the first four are about what its machine has."""
REINFORCEMENT_HYPERPARAMETERS = ("compute_multiplier", "eval_interval", "eval_samples", "max_completion_tokens")
"""Hyperparameters of reinforcement alone; OpenAI's API has all but the last one."""
METHODS_OF: dict[str, tuple[str, ...]] = {
    "beta": ("dpo", "reinforcement"),
    **dict.fromkeys(REINFORCEMENT_HYPERPARAMETERS, ("reinforcement",)),
}
"""Hyperparameter → the methods that have it, if not all do."""
EXTENDED_HYPERPARAMETERS = (
    *("learning_rate", "lora_r", "lora_alpha", "lora_dropout", "target_modules"),
    *LOCAL_HYPERPARAMETERS,
)
"""Hyperparameters that the OpenAI API does not have; a profile's ``hyperparameters`` names those of its host."""

RECIPES: dict[str, dict[str, Any]] = {
    "brief": {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ("q_proj", "v_proj")},
    "default": dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "target_modules")),
}
"""Values of hyperparameters by the name of a recipe; ``None`` is the default of the endpoint."""


class Hyperparameters(Record):
    """Requested or resolved hyperparameters.

    Source: OpenAI API description, CreateFineTuningJobRequest, 2026-08-21 (ranges of the first seven). Most others
    are peft's names; some hosts take them, and ``None`` leaves the choice to the host.
    """

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"
    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None
    """DPO, and reinforcement on ftpipe's own server: higher stays closer to the base model."""
    compute_multiplier: Annotated[float, Field(gt=0.00001, le=10)] | Auto | None = None
    """Reinforcement: factor on the number of answers that are sampled for each prompt."""
    eval_interval: Annotated[int, Field(ge=1)] | Auto | None = None
    """Reinforcement: steps between evaluations of the validation file."""
    eval_samples: Annotated[int, Field(ge=1)] | Auto | None = None
    """Reinforcement: answers to each row of the validation file in an evaluation."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate, in place of the multiplier on the model's default rate."""
    lora_r: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank of the adapter."""
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The adapter's output is scaled by ``lora_alpha / lora_r``."""
    lora_dropout: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """Fraction of the adapter's inputs that is dropped in training."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)] | None = None
    """Names of the linear layers that get an adapter, or ``all-linear``; text is split at commas."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens per sequence; up to the context of the base model."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the base model, and of what it computes."""
    quantization: Literal["none", "4bit", "8bit"] | None = None
    """Of the base model's linear layers."""
    gradient_checkpointing: bool | None = None
    """Whether layers are computed again in the backward pass, to save memory."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: most tokens of a sampled answer."""
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Hyperparameters of a single provider, for example Nebius's ``packing``."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return value
        return tuple(sorted({name.strip() for name in names} - {""}))


SERVE_AS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""A name that can stand for the base in the name of a tuned model."""


class JobRequest(Record):
    """A request for ``POST /fine_tuning/jobs``."""

    model: str
    training_file: UploadedFile
    validation_file: UploadedFile | None = None
    method: Method = Method.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """At most 64 characters at OpenAI, 40 at Azure."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    integrations: tuple[dict[str, Any], ...] = ()
    grader: dict[str, Any] | None = None
    """Scores the answers in reinforcement, in the provider's form."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """At most 16 pairs, keys of at most 64 and values of at most 512 characters; ftpipe adds two."""
    serve_as: Annotated[str, Field(pattern=SERVE_AS_PATTERN)] | None = None
    """Base model in the tuned model's name, instead of the real one; only ftpipe's own server takes it."""


class JobError(Record):
    """Why a job failed, as the endpoint says."""

    code: str = ""
    message: str = ""
    param: str | None = None


TERMINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses after which a job does not change. A word that is not here is not terminal."""


class Job(Record):
    """A fine-tuning job as its endpoint last reported it."""

    id: str
    endpoint: str
    provider: str
    status: str
    """``validating_files``, ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled``, ``paused`` for a job of
    ftpipe's own server, or an unknown word."""
    model: str
    """Base model."""
    training_file: str
    """File id, the job's predecessor."""
    validation_file: str | None = None
    method: Method = Method.SUPERVISED
    requested: Hyperparameters | None = None
    """As requested; ``None`` for a job that was not created by ftpipe."""
    resolved: Hyperparameters | None = None
    """As the endpoint reports; ``None`` before it does."""
    suffix: str | None = None
    seed: int | None = None
    created_at: int
    finished_at: int | None = None
    estimated_finish: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    """Billable tokens, known when the job has finished."""
    price: float | None = None
    """What the endpoint says that the job costs, in USD; ``None`` if it does not say."""
    error: JobError | None = None
    result_files: tuple[str, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether the job has reached its end; a success without a model's name has not."""
        if self.status == "succeeded":
            return self.fine_tuned_model is not None
        return self.status in TERMINAL_STATUSES

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The files that the job names: training, validation, results."""
        return tuple(one for one in (self.training_file, self.validation_file, *self.result_files) if one)


class Event(Record):
    """One event of a job."""

    id: str
    created_at: int
    level: str
    """``info``, ``warn`` or ``error``."""
    type: str = "message"
    """``message``, ``metrics``, or an unknown word."""
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class TrainingMetrics(Record):
    """Losses in nats per trained token, accuracies (0-1) and rewards at one step; ``None`` if not measured, not 0.

    Source: OpenAI's guide to reinforcement fine-tuning, metrics of a job, read 2026-11-29; ``zero_std_fraction`` and
    ``kl`` are ours.
    """

    step: int
    total_steps: int | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    train_mean_reward: float | None = None
    valid_mean_reward: float | None = None
    full_valid_mean_reward: float | None = None
    completion_tokens_mean: float | None = None
    """Tokens of a sampled answer, in reinforcement."""
    zero_std_fraction: float | None = None
    """Part of the prompts whose answers all got the same reward."""
    kl: float | None = None
    """Divergence from the model before training, in nats per token."""


class Checkpoint(Record):
    """A checkpoint, which can be used like a model."""

    id: str
    created_at: int
    step: int
    model: str
    """Name to chat with, for example ``ft:…:ckpt-step-20``."""
    metrics: TrainingMetrics
