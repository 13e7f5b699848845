"""Typed records of the pipeline; each names its predecessor.

``Dataset → Report → UploadedFile → Job → Model``: a model names its job, a job its file, a file the digest of its
dataset. Records are frozen and reject unknown fields. Times are UTC Unix seconds unless the name says otherwise,
money is in the record's currency, losses are mean cross-entropy in nats per trained token.
"""

from __future__ import annotations

from ftpipe.records.base import DatasetFormat, Method, Record, Severity
from ftpipe.records.dataset import (
    CostEstimate,
    Dataset,
    DatasetHistograms,
    Finding,
    Fix,
    HistogramBin,
    Report,
    Summary,
    TokenStats,
)
from ftpipe.records.job import (
    TERMINAL_STATUSES,
    Checkpoint,
    Event,
    Hyperparameters,
    Job,
    JobError,
    JobRequest,
    TrainingMetrics,
    UploadedFile,
)
from ftpipe.records.run import Model, Run, RunSpec, RunState

__all__ = [
    "TERMINAL_STATUSES",
    "Checkpoint",
    "CostEstimate",
    "Dataset",
    "DatasetFormat",
    "DatasetHistograms",
    "Event",
    "Finding",
    "Fix",
    "HistogramBin",
    "Hyperparameters",
    "Job",
    "JobError",
    "JobRequest",
    "Method",
    "Model",
    "Record",
    "Report",
    "Run",
    "RunSpec",
    "RunState",
    "Severity",
    "Summary",
    "TokenStats",
    "TrainingMetrics",
    "UploadedFile",
]
