"""Load base models, tokenize chats for them, choose the device, export adapters."""
