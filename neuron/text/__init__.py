"""Text on both sides of the engine: chats become prompt tokens, generated tokens become events.

`directory` reads what a model's directory says about text into a `ModelText`, once per model. `AnswerStream`
is a chain of pure state machines, fed one token at a time: detokenizer → stop strings → reasoning → tool
calls. Nothing here knows HTTP, the engine or a clock.
"""

from __future__ import annotations
