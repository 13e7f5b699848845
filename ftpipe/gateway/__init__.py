"""The server in front of other hosts: it forwards chats to them, and trains at them."""
