"""Where files lie, how they are written and locked, and how a command reads its settings and ends."""
