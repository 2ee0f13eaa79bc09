"""Makes the `TemplateTraits` of a chat template."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from neuron.text.notations.notation import Notation
from neuron.text.reasoning import KNOWN_MARKERS, ReasoningMarkers
from neuron.text.template import ChatTemplate
from neuron.text.traits.call_form import CALL
from neuron.text.traits.call_probes import call_traits
from neuron.text.traits.message_probes import find_base, message_traits
from neuron.text.traits.prober import Prober
from neuron.text.traits.template_traits import TemplateTraits
from neuron.text.traits.thought_probes import find_switches, thought_traits


def probe_template(
    template: ChatTemplate,
    notations: Iterable[Notation],
    *,
    hidden: Collection[str] = (),
    known_tokens: Collection[str] = (),
) -> TemplateTraits:
    """What the template takes, by some forty renderings, rarely more; their number and time are bounded.

    `hidden` are the special tokens of the tokenizer, which leave no text in an answer; `known_tokens` are
    all of its added tokens. Raises `TemplateRefusedError`, the first, when it refuses every chat.
    """
    notations = list(notations)
    known = known_thoughts(notations)
    probe = Prober(template)
    find_base(probe)
    messages = message_traits(probe)
    calls, form = call_traits(probe, notations, known, hidden, known_tokens)
    switches = find_switches(probe)
    thoughts = thought_traits(probe, form.round(CALL), switches, known, known_tokens)
    if probe.refusal and not probe.has_rendered:
        raise probe.refusal
    return TemplateTraits(
        **messages,
        **calls,
        **thoughts,
        switches=switches,
        variables=template.variables,
        num_renders=probe.num_renders,
    )


def known_thoughts(notations: Iterable[Notation]) -> list[ReasoningMarkers]:
    """All pairs of markers that models put around their thoughts."""
    of_families = [markers for notation in notations for markers in notation.thoughts]
    return list(dict.fromkeys([*KNOWN_MARKERS, *of_families]))
