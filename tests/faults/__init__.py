"""Attacks on the money path: a scripted endpoint, a chaos proxy, and what must hold under each fault."""
