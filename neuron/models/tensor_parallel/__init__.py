"""One rank's part of a model that runs on several devices (Megatron-LM, Shoeybi et al. 2019).

A rank's part is a model of its own: as many layers of the same width between them, with fewer heads, narrower
MLPs and experts, and a part of the vocabulary in its head. So its configuration and tensors are cut before
anything is built, and whatever loads, probes, fuses and estimates models does so with a part.

    parts       which parts of a model are split: by the plan that its class declares, or one of ours
    recurrence  which heads or channels layers with states are split by
    sizes       the configuration of a rank's part, and where it is cut
    tensors     which pieces of each stored tensor it has
    checkpoint  both together: a checkpoint of one part
    spread      which experts it has, where each is whole on one rank, and which channels of convolutions
    adapters    its part of an adapter
    rank        what a loaded part does otherwise than a model: sums, and its piece of the head
"""
