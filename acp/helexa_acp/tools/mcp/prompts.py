"""The prompts of MCP servers, which users call as slash commands."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING, Any

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import reason
from helexa_acp.tools.mcp.contents import text_of
from helexa_acp.tools.truncation import clip, one_line

if TYPE_CHECKING:
    import mcp

PROMPT_TIMEOUT_S = 60.0
MAX_PROMPTS = 100


class McpPrompt:
    """A prompt of a connected server. Its `name` is `server:prompt`."""

    def __init__(self, client: mcp.Client, server: str, prompt: Any) -> None:
        self._client = client
        self._prompt = prompt.name
        arguments = prompt.arguments or []
        self._arguments = [argument.name for argument in arguments]
        self._required = [argument.name for argument in arguments if argument.required]
        self.name = re.sub(r"[^A-Za-z0-9_.:-]", "_", f"{server}:{prompt.name}").lstrip("_:.-")
        self.description = one_line(prompt.description or prompt.title or f"A prompt of {server}")
        self.hint = " ".join(name if name in self._required else f"[{name}]" for name in self._arguments)

    async def expand(self, words: str) -> str:
        """Return the prompt with its arguments filled in. Raises ToolError."""
        values = self._values(words)
        try:
            async with asyncio.timeout(PROMPT_TIMEOUT_S):
                result = await self._client.get_prompt(self._prompt, values)
        except TimeoutError:
            raise ToolError(f"{self.name}: no answer for {PROMPT_TIMEOUT_S:.0f} s") from None
        except Exception as error:
            raise ToolError(f"{self.name}: {reason(error)}") from error
        texts = [_said(message) for message in result.messages]
        return clip("\n\n".join(text for text in texts if text))

    def _values(self, words: str) -> dict[str, str]:
        """Return the arguments: in their order, or as name=value. A single one takes all words."""
        if len(self._arguments) == 1 and words:
            return {self._arguments[0]: words.removeprefix(f"{self._arguments[0]}=")}
        values: dict[str, str] = {}
        for word in _split(words):
            name, equals, value = word.partition("=")
            if equals and name in self._arguments:
                values[name] = value
                continue
            free = next((other for other in self._arguments if other not in values), None)
            if free is None:
                raise ToolError(f"{self.name} takes {self.hint or 'no arguments'}")
            values[free] = word
        missing = [name for name in self._required if name not in values]
        if missing:
            raise ToolError(f"{self.name} needs {', '.join(missing)}")
        return values


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError:
        return words.split()


def _said(message: Any) -> str:
    text = text_of(message.content)
    return text if message.role == "user" or not text else f"Assistant: {text}"
