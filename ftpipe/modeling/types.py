"""Names for objects of untyped libraries, so that signatures say what they take."""

from __future__ import annotations

from typing import Any, TypeAlias

CausalModel: TypeAlias = Any
"""A causal language model of transformers, or a peft model around one."""
Tokenizer: TypeAlias = Any
"""A fast tokenizer of transformers, or its output."""
Cache: TypeAlias = Any
"""Keys and values of the positions computed so far."""
Optimizer: TypeAlias = Any
"""An optimizer of torch."""
