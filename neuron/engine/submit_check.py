"""What is wrong with a request, before it is queued."""

from __future__ import annotations

from neuron.pipe import Refused, Submit


def refusal(submit: Submit, *, context: int, vocab_size: int, sees_later: bool) -> Refused | None:
    """Return the refusal of a request that cannot run, or None.

    If some of its prompt's tokens see later ones (`sees_later`), they have no logprobs.
    """
    length = len(submit.tokens)
    if length >= context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your prompt has {length} "
            "tokens, which leaves no room for an answer. Please shorten it."
        )
        return Refused(submit.id, 400, "context_length_exceeded", message)
    if not length or submit.max_tokens < 0:
        message = "a request needs a prompt, and max_tokens that are not negative"
        return Refused(submit.id, 400, "invalid_request", message)
    if submit.score_prompt and sees_later:
        message = "the tokens of this model's prompts see later ones, so they have no logprobs"
        return Refused(submit.id, 400, "invalid_request", message, field="echo")
    biased = [token for token, _ in submit.sampling.logit_bias]
    for field, ids in (("tokens", submit.tokens), ("stop_ids", submit.stop_ids), ("logit_bias", biased)):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            message = f"the model's token ids end at {vocab_size - 1}; {max(ids)} is none of them"
            return Refused(submit.id, 400, "invalid_request", message, field=field)
    return None
