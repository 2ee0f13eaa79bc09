"""Over how many devices a model can be split by its family and its heads: the rules for profiles."""

from __future__ import annotations

# Families by `model_type` that `neuron.models.tensor_parallel.parts` finds nothing to split of.
_WHOLE = frozenset(
    """
    bart bert bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom
    blt camembert codegen cpmant ctrl data2vec-text dbrx diffllama electra emu3_text_model ernie falcon
    git gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj inkling_text jetmoe longcat_flash
    marian mbart megatron-bert mllama_text_model modernbert-decoder moshi mpt musicgen_decoder
    musicgen_melody_decoder mvp openai-gpt opt pegasus persimmon phi4_multimodal plbart prophetnet
    recurrent_gemma reformer rembert roberta roberta-prelayernorm roc_bert roformer rwkv stablelm trocr
    whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod zamba zamba2 zaya
    """.split()  # noqa: SIM905 - a line for each would be long
)


def family_problem(model_type: str) -> str | None:
    """Why models of a family are not split over devices; None where they are, or it is not known."""
    if model_type not in _WHOLE:
        return None
    return f"models of the family {model_type} are not split over devices; leave tensor_parallel out"


def heads_problem(heads: int, kv_heads: int, ranks: int) -> str | None:
    """Why a model's attention cannot be split over so many devices, with what can; None where it can.

    Each rank has as many heads, and its own key heads, or one that it shares with others.
    """

    def divides(count: int) -> bool:
        return heads % count == 0 and (kv_heads % count == 0 or count % kv_heads == 0)

    if divides(ranks):
        return None
    key, value = ("num_attention_heads", heads) if heads % ranks else ("num_key_value_heads", kv_heads)
    fitting = ", ".join(str(count) for count in range(1, 17) if divides(count))
    return f"{key} is {value}, which tensor_parallel {ranks} does not divide; use one of {fitting}"
