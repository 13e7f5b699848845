"""The settings of the server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe import paths
from ftpipe.records.evaluation import TokenPrice

MEGABYTE = 1024 * 1024
TRAINER_COMMAND = (sys.executable, "-m", "ftpipe.training")


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """Two models that are compared: callers get the answers of ``old``."""

    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """Which chats are mirrored, and what is stored of them."""

    pairs: tuple[ShadowPair, ...]
    share: float = 0.1
    """Of the chats with an old model."""
    repeats_old: bool = False
    """Ask the old model a second time as well: shows how often it agrees with itself."""
    keeps_answers: bool = False
    """Store mirrored chats and both answers; otherwise only digests of them."""
    grader: Mapping[str, Any] | None = None
    """OpenAI grader that scores both answers."""
    price: TokenPrice | None = None
    """Price of the new models; ``None`` if they run on this machine."""
    max_cost: float | None = None
    """No chat is mirrored whose answer could make the new models' cost exceed this, in the price's currency."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How the server runs.

    Sizes are in bytes, times in seconds.
    """

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs ``api_key_file``."""
    port: int = 8321
    """0 takes any free port; ``server.json`` has its number."""
    data_dir: Path = field(default_factory=paths.server_dir)
    models_dir: Path = field(default_factory=paths.models_dir)
    api_key_file: Path | None = None
    """Lines of ``owner:key`` or ``key`` (owner ``local``); ``#`` starts a comment line."""
    allow_python_graders: bool = False
    """Run the code of ``python`` graders, in processes with limits; ``False`` refuses such graders."""
    max_jobs: int = 1
    """Jobs that train at the same time; the others wait in the queue."""
    max_open_jobs: int = 100
    """Maximum number of jobs of one owner that have not ended; creating more is refused with 429."""
    keep_checkpoints: int = 3
    """Newest checkpoints of a job whose files are kept; at least 1."""
    substitute_models: bool = True
    """Serve OpenAI's model names by the default base model; ``False`` refuses them."""
    max_loaded_models: int = 2
    """Maximum number of base models in memory for chat."""
    max_num_seqs: int = 32
    """Chats that are computed in one batch; with several API keys one owner gets half of them at most."""
    precision: str = "auto"
    """In which answers are computed: ``float32``, ``bfloat16``, ``int8``, or ``auto`` for what suits the processor."""
    max_forwarded_requests: int = 64
    """Chats that are forwarded to other hosts at the same time; with several API keys one owner gets half of them."""
    max_queued_requests: int = 64
    """Chats that wait for one of those to end; more are refused with 429."""
    max_load_seconds: float = 300.0
    """How long a chat may wait for its base model to be loaded before it is refused with 503."""
    max_queue_seconds: float = 60.0
    """How long a chat may wait before it is refused with 429."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that are allowed in the Host header, without port."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose web pages may use the server, as ``https://chat.example.com``; ``*`` for all needs keys."""
    max_file_bytes: int = 512 * MEGABYTE
    """Maximum file size for ``POST /files``. Source: OpenAI API description, createFile, 2026-08-21."""
    max_part_bytes: int = 64 * MEGABYTE
    """Maximum size of one part of an upload. Source: the same, addUploadPart."""
    max_upload_bytes: int = 8 * 1024 * MEGABYTE
    """Maximum size of an upload. Source: the same, createUpload."""
    max_body_bytes: int = 16 * MEGABYTE
    """Maximum size of a JSON body."""
    upload_seconds: int = 3600
    """Time after which an upload expires. Source: the same, createUpload."""
    body_timeout: float = 30.0
    """Maximum wait for the next piece of a body; as long may a body be slower than the minimum speed."""
    header_timeout: float = 20.0
    """Maximum wait for the whole headers of a request."""
    shadow: ShadowSettings | None = None
    """Which chats another model answers, too; ``None`` for none."""
    poll_interval: float = 0.25
    """How often the supervisor checks running trainers."""
    upstream: str | None = None
    """The provider at which jobs are trained and models answer; ``None`` for this machine."""
    log_level: str = "info"
    engine: str = "process"
    """What runs training: ``process`` for this machine, ``ray`` for a cluster."""
    ray_address: str | None = None
    """Address of the Ray cluster; ``None`` for the one that this machine belongs to."""
    workers: int = 0
    """Worker processes of a job; 0 for one per GPU, or one per machine on a cluster without GPUs."""
    strategy: str = "auto"
    """How the workers of a job share the base: ``ddp``, ``fsdp``, or ``auto`` by its size."""
    trainer_command: tuple[str, ...] = TRAINER_COMMAND
    """Starts a trainer; the job directory is added as the last argument."""
