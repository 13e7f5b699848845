"""Small fakes of what is outside: classes with behaviour, not mocks."""
