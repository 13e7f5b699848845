"""The typed records that flow through the pipeline; each names its predecessor.

``Dataset → Report → UploadedFile → Job → Model``: a model names its job, a job its file, a file the digest of its
dataset. Records are frozen and refuse unknown fields. Times are UTC Unix seconds unless a name says otherwise,
money is in the currency that the record names, losses are mean cross-entropy in nats per trained token.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """The base of every record: frozen, and closed against fields that it does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Severity(StrEnum):
    """How bad a finding is for the chosen target."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Method(StrEnum):
    """Fine-tuning methods, in the words of the API."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


class DatasetFormat(StrEnum):
    """What the lines of a dataset look like."""

    CHAT = "chat"
    """Supervised: ``messages``, and nothing but its companions."""
    DPO = "dpo"
    """Preference: ``input``, ``preferred_output``, ``non_preferred_output``."""
    RFT = "rft"
    """Reinforcement: ``messages`` that end with the user, and reference keys."""
    LEGACY = "legacy"
    """Prompt/completion, Alpaca or ShareGPT: to be converted first."""
    UNKNOWN = "unknown"


class Fix(Record):
    """How a finding could be mended without a person."""

    kind: Literal["safe", "unsafe"]
    """``safe`` keeps the meaning; ``unsafe`` drops or changes something."""
    note: str
    """What the fix does, in a few words."""


class Finding(Record):
    """One fault in a dataset, or a warning about it."""

    code: str
    """Stable rule code, for example ``FT204``."""
    name: str
    """The rule's name in kebab case, for example ``missing-role``."""
    severity: Severity
    line: int | None = None
    """1-based line in the file; ``None`` where the finding is about the whole file."""
    path: str = ""
    """JSON path inside the line, for example ``messages[2].role``; empty for the whole line."""
    message: str
    """What is wrong, with the offending value."""
    hint: str = ""
    """What to do about it."""
    excerpt: str = ""
    """The offending text, without control characters, at most 160 characters."""
    origin: Literal["R", "D", "S", "Q", "P", "L"] = "D"
    """R server refuses, D documented limit, S server changes data unsaid, Q quality, P privacy, L local robustness."""
    evidence: Literal["observed", "documented", "inferred"] = "documented"
    file: str = ""
    """The file's name as the user gave it."""
    record_sha256: str = ""
    """SHA-256 of the canonical record, so that a finding survives reordering; empty where there is none."""
    fix: Fix | None = None


class Dataset(Record):
    """A dataset file, named by its content."""

    path: Path
    sha256: str
    """SHA-256 of the bytes as they lie on disk."""
    bytes: int
    """Size in bytes."""
    examples: int
    """Number of records, blank lines not counted."""
    format: DatasetFormat


class TokenStats(Record):
    """How many tokens a dataset has."""

    encoding: str
    """tiktoken encoding, for example ``o200k_base``."""
    exact: bool
    """False where the base model's own tokenizer is another one, or images are only estimated."""
    note: str = ""
    """Why the count is not exact; empty where it is."""
    total: int
    """All tokens in the file: what training is billed on, per epoch."""
    trained: int
    """Tokens of assistant messages whose weight is not 0: what the loss runs over."""
    examples: int
    """Records that were counted."""
    mean: float
    """Mean tokens per example."""
    min: int
    p50: int
    p90: int
    p95: int
    p99: int
    max: int
    longest_line: int | None
    """1-based line of the longest example; ``None`` for an empty dataset."""
    limit: int | None = None
    """Tokens per example that the target trains on; what is beyond is cut from the end."""
    over_limit: int = 0
    """Examples longer than ``limit``."""


class CostEstimate(Record):
    """What a job will cost, before it is created."""

    model: str
    currency: str = "USD"
    epochs: int
    """Epochs behind ``expected``."""
    epochs_low: int
    epochs_high: int
    epochs_rule: str
    """Where the epochs come from: ``asked`` or the rule's description and source."""
    tokens_per_epoch: int
    """Billable tokens per epoch."""
    low: float | None
    """``None`` together with ``expected`` and ``high`` where no price is known."""
    expected: float | None
    high: float | None
    price_per_million: float | None
    """Price of one million trained tokens; ``None`` where it is not known."""
    price_as_of: str | None
    """Date of the price, ISO 8601."""
    source: str
    """Where the price was read."""
    warning: str = ""
    """Says that the price is unknown or old; empty where it is neither."""


class Summary(Record):
    """Exact numbers of findings, also of those beyond the ones that are listed."""

    errors: int = 0
    warnings: int = 0
    infos: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    """Rule code → exact number of findings."""


class Report(Record):
    """Everything that could be known about a dataset without asking anyone."""

    dataset: Dataset
    validation: Dataset | None = None
    """The validation file that was checked with it."""
    target: str
    """Whose rules were applied: ``openai``, ``azure``, ``nebius`` or ``local``."""
    method: Method
    model: str = ""
    """Base model that the rules and counts were made for."""
    findings: tuple[Finding, ...] = ()
    """The first findings of each rule, in order of line; ``summary.counts`` has the exact numbers."""
    summary: Summary = Summary()
    tokens: TokenStats | None = None
    validation_tokens: TokenStats | None = None
    cost: CostEstimate | None = None

    @property
    def ok(self) -> bool:
        """True where the target would take the dataset."""
        return self.summary.errors == 0


class UploadedFile(Record):
    """A dataset file at an endpoint."""

    id: str
    """The endpoint's file id."""
    endpoint: str
    """Fingerprint of the endpoint and key scope that the id is valid for."""
    sha256: str
    """Digest of the dataset that was uploaded: its predecessor."""
    bytes: int
    filename: str
    """Content-named: ``ftpipe-<first 16 of sha256>.jsonl``."""
    created_at: int
    reused: bool = False
    """True where the endpoint had it already and nothing was sent."""


Auto = Literal["auto"]


class Hyperparameters(Record):
    """Hyperparameters, asked or resolved.

    Source: OpenAI API description, CreateFineTuningJobRequest, 2026-08-21 (ranges).
    """

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"
    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None
    """DPO only: higher stays closer to the base model."""
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """What only some endpoints know, for example ``lora_r``."""


class JobRequest(Record):
    """What is asked of ``POST /fine_tuning/jobs``."""

    model: str
    training_file: UploadedFile
    validation_file: UploadedFile | None = None
    method: Method = Method.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """At most 64 characters at OpenAI, 40 at Azure."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    integrations: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    """At most 16 pairs, keys of at most 64 and values of at most 512 characters; ftpipe adds two of its own."""


class JobError(Record):
    """Why a job failed, in the endpoint's words."""

    code: str = ""
    message: str = ""
    param: str | None = None


TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses after which a job does not change. A word that is not here is not terminal."""


class Job(Record):
    """A fine-tuning job as its endpoint last described it."""

    id: str
    endpoint: str
    provider: str
    status: str
    """``validating_files``, ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled``, or an unknown word."""
    model: str
    """Base model."""
    training_file: str
    """File id: the job's predecessor."""
    validation_file: str | None = None
    method: Method = Method.SUPERVISED
    asked: Hyperparameters | None = None
    """As requested; ``None`` for a job that was made elsewhere."""
    resolved: Hyperparameters | None = None
    """As the endpoint answered; ``None`` before it does."""
    suffix: str | None = None
    seed: int | None = None
    created_at: int
    finished_at: int | None = None
    estimated_finish: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    """Billable tokens, known when the job has finished."""
    error: JobError | None = None
    result_files: tuple[str, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """True where the job will not change any more; a success without a model's name is not finished yet."""
        if self.status == "succeeded":
            return self.fine_tuned_model is not None
        return self.status in TERMINAL


class Event(Record):
    """One event of a job."""

    id: str
    created_at: int
    level: str
    """``info``, ``warn`` or ``error``."""
    type: str = "message"
    """``message``, ``metrics``, or a word ftpipe does not know."""
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class Metric(Record):
    """Training metrics at one step; a value that was not reported is ``None``, not 0."""

    step: int
    total_steps: int | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class Checkpoint(Record):
    """A checkpoint that answers as a model of its own."""

    id: str
    created_at: int
    step: int
    model: str
    """Name to chat with, for example ``ft:…:ckpt-step-20``."""
    metrics: Metric


class Model(Record):
    """A fine-tuned model in the registry, with everything that it came from."""

    id: str
    """The name to chat with."""
    base: str
    provider: str
    endpoint: str
    method: Method = Method.SUPERVISED
    job_id: str
    """Its predecessor."""
    file_id: str
    dataset_sha256: str
    validation_sha256: str | None = None
    run_id: str | None = None
    asked: Hyperparameters | None = None
    resolved: Hyperparameters | None = None
    seed: int | None = None
    trained_tokens: int | None = None
    currency: str = "USD"
    estimated_cost: float | None = None
    actual_cost: float | None = None
    """``trained_tokens`` times the price row that the estimate used; ``None`` where either is not known."""
    metrics: Metric | None = None
    """The last metrics of the job, each value the last that was reported."""
    checkpoints: tuple[Checkpoint, ...] = ()
    base_shutdown_date: str | None = None
    """Day on which the base, and with it this model, stops answering; ISO 8601."""
    created_at: int
    aliases: tuple[str, ...] = ()
    """For example ``support-bot@production``."""


class RunSpec(Record):
    """Everything that a run was asked to do; the same spec and data ask for the same job."""

    provider: str
    data: Path
    validation: Path | None = None
    model: str
    method: Method = Method.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: str | None = None
    seed: int | None = None
    integrations: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)


class RunState(StrEnum):
    """How far a run has come."""

    PREPARED = "prepared"
    UPLOADED = "uploaded"
    CREATED = "created"
    """The job exists; it may still be running."""
    REGISTERED = "registered"
    """The model is in the registry: the good end."""
    FAILED = "failed"
    """The job ended without a model, or the provider refused it."""


class Run(Record):
    """One run of the pipeline, as the registry remembers it."""

    id: str
    """``run-<12 characters>``."""
    spec: RunSpec
    endpoint: str
    state: RunState
    created_at: int
    dataset_sha256: str
    """Empty for a job made elsewhere whose file is not known."""
    validation_sha256: str | None = None
    dataset: Dataset | None = None
    """``None`` for a job that was made elsewhere."""
    validation: Dataset | None = None
    cost: CostEstimate | None = None
    file: UploadedFile | None = None
    validation_file: UploadedFile | None = None
    job: Job | None = None
    model: Model | None = None
    error: str = ""
    """Why the run failed, in one line."""
