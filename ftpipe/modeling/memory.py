"""Estimate from a model's shape how much memory the training of an adapter needs; nothing is loaded for it."""

from __future__ import annotations

from dataclasses import dataclass

from ftpipe.modeling.key_value_sizes import open_sequences, peak_tokens
from ftpipe.modeling.model_shape import ModelShape

SAMPLE_ROWS, SAMPLE_TOKENS = 4, 256
"""The batch that estimates are made for if no data are known: rows, and tokens of each."""
SAMPLE_TRAINED_PART = 0.25
"""Part of a row's tokens that is trained, if no data are known."""
SAMPLE_RANK = 16
"""Rank of the adapter that estimates are made for, on the query and value projections."""
HEAD_CHUNK_TOKENS = 512
"""Trained tokens whose logits exist at the same time; with 150,000 tokens in the vocabulary they take 300 MB."""
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0}
QUANTIZED_BYTES = {"4bit": 0.516, "8bit": 1.01}
"""Bytes of a weight in a linear layer with its scales: 8 bits for 64 weights and 32 bits for 256 of those scales, or 32
bits for each row. Source: bitsandbytes 0.50, ``functional.py``, read 2026-11-29."""
LIBRARY_BYTES, ACCELERATOR_BYTES = 390_000_000, 600_000_000
FRAGMENTATION, CHECKPOINTING_FRAGMENTATION, ACCELERATOR_FRAGMENTATION = 0.6, 0.43, 0.05
"""Memory that the allocator holds between the pieces in use, as part of what all layers compute."""
STORED_WEIGHT_BYTES = 2
"""Hubs store models in bfloat16; embeddings in that precision stay where the file is mapped, so the rest does, too."""
FLOAT16_BYTES = 2
"""Of each weight that is quantized to 8 bits: bitsandbytes quantizes a copy in float16, whose memory stays taken."""
DEQUANTIZED_BYTES = 12
"""Of each 4-bit weight of the largest layer: its copies in float32 while a gradient goes through it."""
EXPERT_KERNEL_BYTES = 212_000_000
"""Observed with experts in bfloat16, 8 in each of 6 layers or 4 in each of 12: each size of a product gets a kernel."""
SAVED_SCORES = 2
"""Matrices of attention scores that are kept, where attention computes them."""
ADAPTER_BYTES = 16
"""Weight, gradient, and two moments of the optimizer, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """How an adapter is trained, as far as memory depends on it.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``float32`` or ``bfloat16``, of the base and of what it computes.
        quantization: ``none``, ``4bit`` or ``8bit``.
        gradient_checkpointing: Whether only the inputs of layers are kept for the backward pass.
        rank: Rank of the adapter.
        targets: Names of the linear layers that get one.
        dropout: Whether inputs of the adapter are dropped.
        rows: Rows that are computed together.
        tokens: Tokens of the longest of them, to which the others are padded.
        trained_tokens: Tokens of these rows that are trained.
        shards: Processes that share the base's weights.
        copies: How often the base's weights are in memory: twice in reinforcement, which samples with packed ones.
        sampled_prompt: Tokens of the longest prompt to which reinforcement samples answers; 0 for other methods.
        sampled_length: Tokens of prompt and answer together.
        sampled_prompts: Prompts of a batch.
    """

    device: str = "cpu"
    precision: str = "float32"
    quantization: str = "none"
    gradient_checkpointing: bool = False
    rank: int = SAMPLE_RANK
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: bool = True
    rows: float = SAMPLE_ROWS
    tokens: int = SAMPLE_TOKENS
    trained_tokens: int = int(SAMPLE_ROWS * SAMPLE_TOKENS * SAMPLE_TRAINED_PART)
    shards: int = 1
    copies: int = 1
    sampled_prompt: int = 0
    sampled_length: int = 0
    sampled_prompts: int = 0

    shared_tokens: int = 0
    """Tokens of their common beginning, which is computed once."""

    @property
    def computed_tokens(self) -> float:
        """Tokens that are computed together, padding included."""
        return self.shared_tokens + self.rows * (self.tokens - self.shared_tokens)

    @property
    def element_bytes(self) -> float:
        """Bytes of a number that the base computes."""
        return WEIGHT_BYTES[self.precision]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The parts of a training process's peak memory, in bytes."""

    libraries: int
    """Python, torch and transformers, and on a GPU its driver's context."""
    weights: int
    """The base model."""
    adapter: int
    """The adapter with its gradient and the moments of the optimizer."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    workspace: int
    """What is needed only for a moment: logits, gradients, and memory between the pieces in use."""
    mapped: int = 0
    """Pages of the model's files that were read to quantize them; the system takes them back when it needs memory."""
    sampling: int = 0
    """Keys and values of answers that are sampled, as far as it is more than activations and workspace take later."""

    @property
    def required(self) -> int:
        """What the machine must have."""
        return self.libraries + self.weights + self.adapter + self.activations + self.workspace + self.sampling

    @property
    def total(self) -> int:
        """The peak as systems report it."""
        return self.required + self.mapped


def estimate_memory(shape: ModelShape, setup: TrainingSetup) -> MemoryEstimate:
    """Peak memory of the training of an adapter, in each process.

    Source: measured by ``python -m tests.benchmarks.plan``; CPU only, a GPU was not at hand.
    """
    workspace = max(_logits_bytes(shape, setup), _layer_bytes(shape, setup))
    if setup.device == "cpu":
        slack = CHECKPOINTING_FRAGMENTATION if setup.gradient_checkpointing else FRAGMENTATION
        libraries = LIBRARY_BYTES
    else:
        slack, libraries = ACCELERATOR_FRAGMENTATION, ACCELERATOR_BYTES
    fragments = slack * shape.layers * _saved_bytes_of_layer(shape, setup)
    is_mapped = setup.device == "cpu" and setup.quantization != "none" and setup.precision == "bfloat16"
    activations = saved_bytes(shape, setup)
    workspace = round(workspace + fragments + _gathered_bytes(shape, setup) + _processor_bytes(shape, setup))
    return MemoryEstimate(
        libraries=libraries,
        weights=weight_bytes(shape, setup) * setup.copies // setup.shards,
        adapter=ADAPTER_BYTES * shape.adapter_parameters(setup.targets, setup.rank),
        activations=activations,
        workspace=workspace,
        mapped=STORED_WEIGHT_BYTES * shape.linear_parameters if is_mapped else 0,
        sampling=max(0, sampling_bytes(shape, setup) - activations - workspace),
    )


def sampling_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Keys and values of the answers that reinforcement samples at a time, and of the prompts that they share.

    A GPU samples answers one by one.
    """
    if not setup.sampled_prompt:
        return 0
    bytes_per_token = 2 * shape.layers * shape.keys * setup.element_bytes
    if setup.device != "cpu":
        return round(setup.sampled_length * bytes_per_token)
    sequences = open_sequences(setup.sampled_length, bytes_per_token)
    tokens = peak_tokens(sequences, setup.sampled_prompt, setup.sampled_length)
    return round((tokens + setup.sampled_prompts * setup.sampled_prompt) * bytes_per_token)


def _processor_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """What a processor needs besides: copies that bitsandbytes makes for 8 bits, and kernels for experts."""
    if setup.device != "cpu":
        return 0.0
    copies = FLOAT16_BYTES * shape.linear_parameters if setup.quantization == "8bit" else 0
    if setup.quantization == "4bit":
        copies = DEQUANTIZED_BYTES * max(inputs * outputs for inputs, outputs in shape.linear_layers.values())
    return copies + (EXPERT_KERNEL_BYTES if shape.experts and setup.precision == "bfloat16" else 0)


def _gathered_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Weights that are whole in each process while they compute: of two layers, and the embeddings."""
    if setup.shards == 1:
        return 0.0
    layers = 2 * (shape.linear_parameters + shape.expert_parameters) / shape.layers
    return (layers + shape.embedding_parameters) * WEIGHT_BYTES[setup.precision]


def weight_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """The base model's weights in memory."""
    plain = WEIGHT_BYTES[setup.precision]
    quantized = QUANTIZED_BYTES.get(setup.quantization, plain)
    linear = shape.linear_parameters
    return round(linear * quantized + (shape.parameters - linear) * plain)


def saved_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """What the forward pass keeps until the backward pass: of all layers, or of their inputs and of one layer."""
    layer = _saved_bytes_of_layer(shape, setup)
    if not setup.gradient_checkpointing:
        return shape.layers * layer
    inputs = shape.layers * setup.computed_tokens * shape.hidden * setup.element_bytes
    return round(inputs) + layer


def _saved_bytes_of_layer(shape: ModelShape, setup: TrainingSetup) -> int:
    """Norms and inputs of adapters are kept in float32, the rest in the base's precision."""
    size, full = setup.element_bytes, WEIGHT_BYTES["float32"]
    norms = shape.norms * shape.hidden + (shape.queries + shape.keys) * shape.normalizes_queries
    attention = 2 * shape.queries + 2 * shape.keys
    mlp = 3 * shape.intermediate
    if setup.quantization == "8bit":  # bitsandbytes keeps the inputs of its layers, also of frozen ones
        mlp += 2 * shape.hidden + shape.intermediate
    if shape.experts:
        mlp = shape.active_experts * (6 * shape.intermediate + shape.hidden)
    inputs = sum(inputs for inputs, _ in shape.adapted_layers(setup.targets))
    ranks = setup.rank * len(shape.adapted_layers(setup.targets))
    per_token = full * norms + size * (attention + mlp) + full * ((1 + setup.dropout) * inputs + ranks)
    scores = 0.0
    if shape.has_eager_attention:
        scores = SAVED_SCORES * setup.rows * setup.tokens**2 * shape.heads * size
    return round(setup.computed_tokens * per_token + scores)


def _logits_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Logits of some tokens, their log-probabilities and gradient, in float32; and in the base's precision."""
    tokens = min(HEAD_CHUNK_TOKENS, setup.trained_tokens)
    copies = 3 * WEIGHT_BYTES["float32"] + (setup.element_bytes if setup.precision != "float32" else 0)
    return round(tokens * shape.vocabulary * copies)


def _layer_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Gradients inside of one layer, which exist beside what all layers have saved."""
    width = 3 * shape.intermediate * max(1, shape.active_experts) + 4 * shape.hidden
    return round(setup.computed_tokens * width * setup.element_bytes)
