#!/usr/bin/env bash
# transformers 5.23.0: a configuration with an infinite number is saved as {"__float__": "Infinity"}, so that
# config.json stays valid JSON, and only transformers' own file readers turn that back. A program that reads
# config.json itself and calls `from_dict` gets a validation error for a file that transformers wrote.
# Seen with BambaConfig, whose default time_step_limit is (0.0, inf): from_dict raises, from_pretrained reads it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0
cd "$work"
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from transformers import BambaConfig

BambaConfig().save_pretrained("model")
written = json.loads(Path("model/config.json").read_text())
print("written:", written["time_step_limit"])
assert written["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
try:
    BambaConfig.from_dict(written)
except Exception as error:
    print("from_dict:", type(error).__name__)
else:
    raise SystemExit("from_dict reads it now")
read = BambaConfig.from_pretrained("model").time_step_limit
print("from_pretrained:", read)
assert tuple(read) == (0.0, float("inf"))
PYTHON
