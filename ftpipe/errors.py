"""Every error that ftpipe raises, with its exit code. Each instance says what to do next.

::

    FtpipeError                          1
    ├── UsageError                       2   a flag, key or argument is wrong
    │   ├── ConfigError                  2   a configuration file or variable is wrong
    │   └── MissingExtraError            2   an optional dependency is not installed
    ├── DatasetError                     1   the data has errors (carries the report)
    ├── CostLimitError                   1   the estimate is over --max-cost
    ├── GateFailedError                  1   an evaluation did not reach its gate
    ├── ExportCheckError                 1   an export does not give the answers of the trained model
    ├── JobFailedError                   1   the job ended without a model
    ├── AuthenticationError              4   there is no key, or the endpoint rejected it
    ├── ProviderError                    5   the endpoint or the network failed, and nothing was paid
    │   ├── ConnectionFailedError        5   the endpoint could not be reached
    │   │   └── ResponseTimeoutError     5   the endpoint was reached and did not answer in time
    │   ├── RequestRefusedError          5   the endpoint rejected the request
    │   ├── NotFoundError                5   the endpoint has no such file, job or model
    │   ├── TrainingNotAvailableError    5   this organization cannot create jobs
    │   ├── QuotaError                   5   no credit or budget is left
    │   ├── RateLimitError               5   too many jobs or requests for now
    │   ├── ResponseLostError            5   an unpaid call (an upload) may have been executed
    │   └── InvalidResponseError         5   the response does not follow the protocol
    ├── LocalStateError                  6   the local database, folder or disk has a fault
    ├── OutcomeUnknownError              7   a paid call may have been executed
    ├── StillRunningError                8   the job is still running
    ├── LockedError                     11   another ftpipe process holds this run
    ├── InternalError                   70   a bug in ftpipe
    └── InterruptedRunError            130   Ctrl-C
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ftpipe.records import Report


EXIT_CODES = {
    0: "success",
    1: "the answer is no: the data has errors, the estimate is over the limit, or a gate, a check or the job failed",
    2: "a flag, argument or setting is wrong, or an extra is not installed",
    4: "there is no key, or it was rejected",
    5: "the provider or the network failed, and nothing was paid",
    6: "the local database, folder or disk has a fault",
    7: "a paid call may have been executed: `ftpipe resume` finds out before anything is sent again",
    8: "the job is still running: check again with `ftpipe status`",
    11: "another ftpipe process holds this run",
    70: "a bug in ftpipe; run it again with `--debug` and report what it shows",
    129: "the terminal was closed (SIGHUP); `ftpipe resume` continues",
    130: "Ctrl-C; a running job was not touched, and `ftpipe resume` continues",
    143: "SIGTERM; `ftpipe resume` continues",
}
"""Exit code → what it means, for ``ftpipe explain`` and the documentation."""


class FtpipeError(Exception):
    """Base class of all errors.

    Args:
        message: What happened, with the file, job or flag that the user named.
        hint: The next command or step; empty only if there is none.

    Attributes:
        exit_code: Exit code of the command.
        code: Stable name of the error in JSON output.
        paid: Whether a paid call was executed: ``yes``, ``no`` or ``unknown``.
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
    """An optional dependency is not installed; the hint names the install command."""

    code = "missing_extra"


class DatasetError(FtpipeError):
    """The dataset has errors that the target rejects; ``report`` has all findings."""

    code = "dataset"

    def __init__(self, message: str, hint: str = "", report: Report | None = None) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, report)
        self.report = report


class CostLimitError(FtpipeError):
    """The cost estimate is over the limit that the user set."""

    code = "cost_limit"


class InsufficientMemoryError(FtpipeError):
    """Training does not fit into the memory of this machine; the hint names settings with which it does."""

    code = "insufficient_memory"


class GateFailedError(FtpipeError):
    """An evaluation did not reach its gate."""

    code = "gate_failed"


class ExportCheckError(FtpipeError):
    """An exported model does not give the answers of the trained one."""

    code = "export_check"


class JobFailedError(FtpipeError):
    """The job failed or was cancelled, so there is no model."""

    code = "job_failed"
    paid = "unknown"


class AuthenticationError(FtpipeError):
    """There is no key, or the endpoint rejected it."""

    exit_code = 4
    code = "authentication"


class ProviderError(FtpipeError):
    """The endpoint or the network failed after retries, and nothing was paid."""

    exit_code = 5
    code = "provider_failed"


class ConnectionFailedError(ProviderError):
    """The endpoint could not be reached (DNS, refused connection, TLS), so nothing was executed."""

    code = "connection_failed"


class ResponseTimeoutError(ConnectionFailedError):
    """The endpoint was reached, but did not answer in time: it is slow or busy."""

    code = "response_timeout"


class RequestRefusedError(ProviderError):
    """The endpoint understood the request and rejected it."""

    code = "request_refused"


class NotFoundError(ProviderError):
    """The endpoint has no such file, job or model."""

    code = "not_found"


class TrainingNotAvailableError(ProviderError):
    """This organization cannot create fine-tuning jobs at this endpoint."""

    code = "training_not_available"


class QuotaError(ProviderError):
    """No credit or budget is left at the endpoint."""

    code = "insufficient_quota"


class RateLimitError(ProviderError):
    """Too many jobs or requests for now; the same call can succeed later."""

    code = "rate_limited"


class ResponseLostError(ProviderError):
    """The response to an unpaid call, such as an upload, was lost; the call may have been executed."""

    code = "response_lost"


class InvalidResponseError(ProviderError):
    """The response does not follow the protocol, so nothing was stored."""

    code = "invalid_response"


class LocalStateError(FtpipeError):
    """The local database, folder or disk has a fault."""

    exit_code = 6
    code = "local_state"


class OutcomeUnknownError(FtpipeError):
    """A paid call may have been executed; ``ftpipe resume`` checks before anything is sent again."""

    exit_code = 7
    code = "outcome_unknown"
    paid = "unknown"


class StillRunningError(FtpipeError):
    """The job is still running; ``ftpipe status`` shows it."""

    exit_code = 8
    code = "still_running"
    paid = "yes"


class LockedError(FtpipeError):
    """Another ftpipe process holds this run."""

    exit_code = 11
    code = "locked"


class InternalError(FtpipeError):
    """A bug in ftpipe; the message has the name of the exception."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h
    code = "internal"
    paid = "unknown"


class InterruptedRunError(FtpipeError):
    """Ctrl-C; finished steps are kept, and the hint says how to continue."""

    exit_code = 130
    code = "interrupted"
    paid = "unknown"
