"""Shadow traffic: a share of the chats with one model is also answered by another, and the answers are compared."""
