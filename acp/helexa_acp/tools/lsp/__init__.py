"""Language servers: their messages, their processes, and what they say of a file."""
