#!/usr/bin/env bash
# Triton 3.9.0: its interpreter (TRITON_INTERPRET=1) multiplies bfloat16 tiles in `tl.dot` by their bits, taken for
# integers, and says nothing: bfloat16 is kept as uint16 there, and only 8-bit floats are converted before the product.
# Seen: the product of two tiles of ones is 4.2e9 and not 16; with float16 it is 16.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet triton==3.9.0 torch==2.13.0 numpy
cat > "$work/ones.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def multiply(x, y):
    at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tile = tl.load(x + at)
    tl.store(y + at, tl.dot(tile, tile))


found = {}
for dtype in (torch.float16, torch.bfloat16):
    out = torch.empty(16, 16)
    multiply[(1,)](torch.ones(16, 16, dtype=dtype), out)
    found[dtype] = out[0, 0].item()
    print(dtype, found[dtype])
assert found[torch.float16] == 16
assert found[torch.bfloat16] != 16, "the interpreter multiplies bfloat16 now"
PYTHON
TRITON_INTERPRET=1 "$work/venv/bin/python" "$work/ones.py"
