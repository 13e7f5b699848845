"""Generate answers: the engine, sampling, constrained decoding, tool calls."""
