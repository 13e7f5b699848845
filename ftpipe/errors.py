"""Every error that ftpipe raises, each with what to do next and the exit code it stands for.

::

    FtpipeError                      1
    ├── UsageError                   2   a flag, key or argument is wrong
    │   ├── ConfigError              2   a configuration file or variable is wrong
    │   └── MissingExtraError        2   an optional part is not installed
    ├── DatasetError                 1   the data has errors (carries the report)
    ├── CostLimitError               1   the estimate is over --max-cost
    ├── GateFailedError                1   an evaluation did not reach its gate
    ├── JobFailedError               1   the job ended without a model
    ├── AuthenticationError          4   no key, or the key was refused
    ├── ProviderError                5   the remote failed and nothing was paid
    │   ├── ConnectionFailedError    5   never reached the endpoint
    │   ├── RequestRefusedError      5   the endpoint said no to this request
    │   ├── NotFoundError            5   the endpoint does not know the thing
    │   ├── TrainingNotAvailableError 5  this organization may not create jobs
    │   ├── QuotaError               5   no credit or budget left
    │   ├── RateLimitError           5   too many jobs or requests for now
    │   ├── ResponseLostError          5   an unpaid call (an upload) may have been executed
    │   └── InvalidResponseError           5   the answer was not what the protocol promises
    ├── LocalStateError                   6   the local database, folder or disk is at fault
    ├── OutcomeUnknownError          7   a paid call may have happened
    ├── StillRunningError            8   the job goes on
    ├── LockedError                  11  another ftpipe holds this run
    └── InterruptedRunError          130 Ctrl-C
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ftpipe.records import Report


class FtpipeError(Exception):
    """The root of the tree.

    Args:
        message: What happened, in the user's own names (file, job, flag).
        hint: The next command or key; empty only where there is none.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"
    paid: ClassVar[str] = "no"
    retry_after: float | None = None
    """Seconds that the endpoint asked to wait before the next attempt."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(FtpipeError):
    """A flag, key or argument is wrong."""

    exit_code = 2
    code = "usage"


class ConfigError(UsageError):
    """A configuration file or an environment variable is wrong."""

    code = "config"


class MissingExtraError(UsageError):
    """An optional part is not installed; the hint names the install command."""

    code = "missing_extra"


class DatasetError(FtpipeError):
    """The dataset has findings that the target refuses; ``report`` holds them all."""

    code = "dataset"

    def __init__(self, message: str, hint: str = "", report: Report | None = None) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, report)
        self.report = report


class CostLimitError(FtpipeError):
    """The cost estimate is over the limit that the user set."""

    code = "over_budget"


class GateFailedError(FtpipeError):
    """An evaluation did not reach what its gate asks for."""

    code = "gate_failed"


class JobFailedError(FtpipeError):
    """The job ended as failed or cancelled, so there is no model."""

    code = "job_failed"
    paid = "unknown"


class AuthenticationError(FtpipeError):
    """There is no key, or the endpoint refused it."""

    exit_code = 4
    code = "authentication"


class ProviderError(FtpipeError):
    """The remote or the network failed after retries, and nothing was paid."""

    exit_code = 5
    code = "remote_failed"


class ConnectionFailedError(ProviderError):
    """The endpoint was never reached (DNS, refused, TLS), so nothing was executed."""

    code = "connection_failed"


class RequestRefusedError(ProviderError):
    """The endpoint understood the request and said no."""

    code = "request_refused"


class NotFoundError(ProviderError):
    """The endpoint does not know the file, job or model."""

    code = "not_found"


class TrainingNotAvailableError(ProviderError):
    """This organization may not create fine-tuning jobs at this endpoint."""

    code = "training_not_available"


class QuotaError(ProviderError):
    """No credit or budget is left at the endpoint."""

    code = "insufficient_quota"


class RateLimitError(ProviderError):
    """Too many jobs or requests for now; later the same call may pass."""

    code = "rate_limited"


class ResponseLostError(ProviderError):
    """The answer to a call that is not paid, such as an upload, was lost; it may have been executed."""

    code = "response_lost"


class InvalidResponseError(ProviderError):
    """The answer was not what the protocol promises, so nothing was stored."""

    code = "invalid_response"


class LocalStateError(FtpipeError):
    """The local database, folder or disk is at fault."""

    exit_code = 6
    code = "local_state"


class OutcomeUnknownError(FtpipeError):
    """A paid call may have happened; ``ftpipe resume`` finds out before anything is sent again."""

    exit_code = 7
    code = "outcome_unknown"
    paid = "unknown"


class StillRunningError(FtpipeError):
    """The job goes on; come back with ``ftpipe status``."""

    exit_code = 8
    code = "still_running"
    paid = "yes"


class LockedError(FtpipeError):
    """Another ftpipe process holds this run."""

    exit_code = 11
    code = "locked"


class InterruptedRunError(FtpipeError):
    """Ctrl-C; what was done is kept, and the hint says how to come back."""

    exit_code = 130
    code = "interrupted"
    paid = "unknown"
