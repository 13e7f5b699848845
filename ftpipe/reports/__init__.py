"""Records as text, JSON, HTML and charts; nothing here prints, knows a terminal or asks a network."""
