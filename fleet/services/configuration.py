"""The part of the database that the data plane knows, as one frozen value."""

from __future__ import annotations

from fleet.models import Alias, ApiKey, ConfigurationVersion, ModelProfile, Node
from fleet.services.database import connected
from fleet.snapshot import Configuration, KeyView, NodeConfig, ProfileView


@connected
def version() -> int:
    """The number of the latest configuration; it only grows."""
    return ConfigurationVersion.current()


@connected
def read() -> Configuration:
    """The configuration now. Rows may be newer than its `version`, never older: the next check notices."""
    number = ConfigurationVersion.current()
    keys = list(ApiKey.objects.all())
    return Configuration(
        version=number,
        nodes={node.name: node_config(node) for node in Node.objects.all()},
        profiles={profile.model_id: _profile(profile) for profile in ModelProfile.objects.all()},
        aliases=dict(Alias.objects.values_list("name", "target")),
        keys={key.digest: _key(key) for key in keys},
        has_keys=any(not key.of_session for key in keys),
    )


def node_config(node: Node) -> NodeConfig:
    return NodeConfig(
        name=node.name,
        endpoint=node.endpoint,
        token=node.token or None,
        kind="openai" if node.is_foreign else "neuron",
        models=node.model_names,
        max_requests=node.max_requests,
        first_byte_timeout_s=node.first_byte_timeout_s,
        idle_timeout_s=node.idle_timeout_s,
    )


def _profile(profile: ModelProfile) -> ProfileView:
    prices = {
        "input": profile.cost_input,
        "output": profile.cost_output,
        "cache_read": profile.cost_cache_read,
    }
    return ProfileView(
        id=profile.model_id,
        context=profile.context,
        output=profile.output,
        capabilities=tuple(profile.capabilities),
        cost={name: price for name, price in prices.items() if price is not None},
    )


def _key(key: ApiKey) -> KeyView:
    return KeyView(
        name=key.name,
        digest=key.digest,
        priority=key.priority,
        models=tuple(key.models),
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        disabled=key.disabled,
        limits=key.limits,
    )
