"""The environment of the processes that ftpipe starts: a list of allowed variables, so that no secret is handed on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ALLOWED_VARIABLES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP"),
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
        *("USERPROFILE", "USERNAME", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "VIRTUAL_ENV", "CONDA_PREFIX"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE"),
        *("FTPIPE_HOME", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    }
)
"""A trainer of a cluster joins it with Ray's own token; there is no other secret among these."""
ALLOWED_PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "COVERAGE_", "COV_CORE_", "MALLOC_", "TOKENIZERS_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "GLOO_", "ROCR_", "HIP_", "HSA_", "RAY_"),
    *("OMP_", "KMP_", "MKL_", "OPENBLAS_", "VECLIB_", "NUMEXPR_", "ATEN_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_"),
    "TRITON_",
)
DOWNLOAD_PREFIXES = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
"""What pip needs to reach a package index; proxies and indexes can have a password in their URL."""
SECRET_SUFFIXES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS")
"""A name that an allowed prefix lets through is left out if it ends like this."""


def child_environment(changes: Mapping[str, str] | None = None, *, downloads: bool = False) -> dict[str, str]:
    """The environment for a new process.

    Args:
        changes: Variables to set in it.
        downloads: Whether the process fetches packages and needs the settings of pip and of proxies.
    """
    allowed = {name: value for name, value in os.environ.items() if _is_allowed(name.upper(), downloads=downloads)}
    return {**allowed, **(changes or {})}


def python_path() -> str:
    """``PYTHONPATH`` of a process that imports this same ftpipe from another folder."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)


def _is_allowed(name: str, *, downloads: bool) -> bool:
    if name in ALLOWED_VARIABLES or (downloads and name.startswith(DOWNLOAD_PREFIXES)):
        return True
    return name.startswith(ALLOWED_PREFIXES) and not name.endswith(SECRET_SUFFIXES)
