"""Small real classes that stand in for what is outside."""
