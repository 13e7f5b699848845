"""One program for each Python client; it imports the client, and otherwise only the standard library."""
