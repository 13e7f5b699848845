"""Score answers: graders, their expressions, text similarity."""
