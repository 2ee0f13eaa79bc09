"""neuron's HTTP: thin operations around the daemon's verbs, and the OpenAI dialect of its answers."""

from __future__ import annotations

from neuron.django_settings import configure

configure()
