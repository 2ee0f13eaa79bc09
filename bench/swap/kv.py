"""A long session that left the device's pages for host memory, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import command
from bench.engine.models import LARGE, LEAST
from bench.engine.serving import prompt
from bench.swap.node import model_directory, node
from bench.swap.warm import DTYPE

FIGURES = ("kv_return_over_recompute",)


async def measure(run: command.Run, folder: Path) -> dict[str, Any]:
    tokens = run.pick(4000, 4000, 400)
    path = model_directory(folder / "model", run.pick(LARGE, LARGE, LEAST), DTYPE)
    limits = {"threads": run.options.threads, "kv_mb": run.pick(112, 112, 1), "kv_host_mb": 1024}
    recomputed, returned = [], []
    async with node(run.options.device, **limits) as here:
        await here.load(path)
        await here.first_token_s(path, prompt(-1, 16))
        for turn in run.budget.share(0.3).rounds(run.pick(3, 1, 1), "sessions"):
            session = prompt(100 + turn, tokens)
            recomputed.append(await here.first_token_s(path, session))
            await here.first_token_s(path, prompt(1000 + turn, tokens))  # which takes most pages
            returned.append(await here.first_token_s(path, session))
    return {
        "kv_return_over_recompute": min(returned) / min(recomputed),
        "runs": {"returned_s": returned, "recomputed_s": recomputed},
    }
