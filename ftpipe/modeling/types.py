"""Names for objects of libraries that carry no types, so that a signature still says what it takes."""

from __future__ import annotations

from typing import Any, TypeAlias

CausalModel: TypeAlias = Any
"""A causal language model of transformers, or a peft model around one."""
Tokenizer: TypeAlias = Any
"""A fast tokenizer of transformers, or what it returned."""
Cache: TypeAlias = Any
"""Keys and values of the positions computed so far."""
Optimizer: TypeAlias = Any
"""An optimizer of torch."""
