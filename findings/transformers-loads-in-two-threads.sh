#!/usr/bin/env bash
# transformers 5.23.0: `from_pretrained` replaces PreTrainedModel.tie_weights for the whole process while it builds a
# model, and then puts back what it found. If two threads load at once, the second finds the first one's replacement
# and puts that back at last: from then on no model of the process ties its weights, and nothing is said of it.
# Seen with a Llama of tied embeddings: loaded alone both weights are one tensor on the CPU; after two loads that
# overlapped, a third load has one of them on the meta device, without data.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0
cd "$work"
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import threading

from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True)).save_pretrained("model")
first_builds, second_builds, first_is_over = (threading.Event() for _ in range(3))


class First(LlamaForCausalLM):
    def __init__(self, config):
        first_builds.set()
        assert second_builds.wait(60)
        super().__init__(config)


class Second(LlamaForCausalLM):
    def __init__(self, config):
        second_builds.set()
        assert first_is_over.wait(60)
        super().__init__(config)


def devices():
    model = LlamaForCausalLM.from_pretrained("model")
    return sorted({parameter.device.type for parameter in model.parameters()})


print("alone:", alone := devices())
first = threading.Thread(target=First.from_pretrained, args=("model",))
second = threading.Thread(target=Second.from_pretrained, args=("model",))
first.start()
assert first_builds.wait(60)
second.start()
first.join()
first_is_over.set()
second.join()
print("after two at once:", after := devices())
assert alone == ["cpu"]
assert "meta" in after, "overlapping loads put tie_weights back now"
PYTHON
