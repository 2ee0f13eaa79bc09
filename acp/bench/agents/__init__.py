"""helexa-acp beside other agents: the same ten tasks, by the same client, with the same model.

The model is a script on loopback (`bench.agents.endpoint`), so what differs is the agents alone. The client
is acpx. `bench.agents.tap` stands between the two and writes down each line with its time.
"""

from __future__ import annotations
