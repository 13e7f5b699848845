"""How the server is to run: one frozen record, and the ports that tests replace."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from ftpipe import paths

MEGABYTE = 1024 * 1024
TRAINER = (sys.executable, "-m", "ftpipe.training")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What ``ftpipe serve`` was asked for.

    Sizes are in bytes, times in seconds.
    """

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs ``api_key_file``."""
    port: int = 8321
    """0 takes any free port; ``server.json`` says which."""
    data_dir: Path = field(default_factory=paths.server_dir)
    models_dir: Path = field(default_factory=paths.models_dir)
    api_key_file: Path | None = None
    """Lines of ``owner:key`` or ``key`` (owner ``local``); ``#`` starts a comment line."""
    max_jobs: int = 1
    """Jobs that train at the same time; the others wait in the queue."""
    max_open_jobs: int = 100
    """Jobs of one owner that have not ended; beyond it creating answers 429."""
    keep_checkpoints: int = 3
    """Checkpoints of a job whose files are kept, the newest ones; at least 1."""
    substitute_models: bool = True
    """Serve OpenAI's base names by the default base; False refuses them."""
    max_loaded_models: int = 2
    """Base models that are kept in memory for chat."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that a request's Host header may have, without port."""
    max_file_bytes: int = 512 * MEGABYTE
    """Largest file for ``POST /files``. Source: OpenAI API description, createFile, 2026-08-21."""
    max_part_bytes: int = 64 * MEGABYTE
    """Largest part of an upload. Source: the same, addUploadPart."""
    max_upload_bytes: int = 8 * 1024 * MEGABYTE
    """Largest upload. Source: the same, createUpload."""
    max_body_bytes: int = 16 * MEGABYTE
    """Largest JSON body."""
    upload_seconds: int = 3600
    """Life of an upload. Source: the same, createUpload."""
    body_timeout: float = 30.0
    """Longest wait for the next piece of a request's body; as long may a body be slower than the least speed."""
    header_timeout: float = 20.0
    """Longest wait for the whole headers of a request."""
    poll_interval: float = 0.25
    """How often the supervisor looks at running trainers."""
    log_level: str = "info"
    engine: str = "process"
    """What computes jobs: ``process`` for this machine, ``ray`` for a cluster."""
    ray_address: str | None = None
    """Where the cluster is; ``None`` for the one that this machine belongs to."""
    workers: int = 0
    """Processes that share a job; 0 for one per graphics card, or on a cluster without any one per machine."""
    trainer_command: tuple[str, ...] = TRAINER
    """Started with the job's folder as its last argument."""
