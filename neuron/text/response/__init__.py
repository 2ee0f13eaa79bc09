"""A checkpoint's own description of its answers: `response_template`, as transformers 5.23 reads it."""
