"""Whose images the device encodes: one request's at a time, in as many steps as that takes.

A vision tower computes for as long as many decode steps. So the images that a chunk would show are encoded in
steps before it, each of which gives them as much time as prompts may take beside streams, and streams go on.
"""

from __future__ import annotations

from neuron.engine.prefill_budget import turn_s
from neuron.engine.request import EngineRequest
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.step import Encoding, EncodingResult, PromptImage, StepPlan


class ImageEncodings:
    """Plans the encodings of one model's steps."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._planned: EngineRequest | None = None  # of the step that is planned, with its images
        self._images: tuple[PromptImage, ...] = ()
        self.begun: EngineRequest | None = None  # whose image the device has begun, and not ended

    def begin(self, tokens: int) -> int:
        """Begin a step, and return what is left to prompts of its budget."""
        self._planned, self._images = None, ()
        return tokens - tokens // 2 if self.begun else tokens

    def delays(self, request: EngineRequest, end: int) -> bool:
        """Return whether images are still to be encoded before a request's tokens up to `end` can run.

        They are in this step if no others are.
        """
        images = request.images_to_encode(end)
        if images and self._planned is None:
            self._planned, self._images = request, images
        return bool(images)

    def plan(self, streams_s: float, left: float) -> Encoding | None:
        """Return what is encoded in this step, beside streams whose steps take `streams_s`. Of what else may
        run beside them, a part is `left`."""
        if self._planned is None or self._planned.slot is None:
            return None
        return Encoding(self._planned.slot, self._images, left * turn_s(self._limits, streams_s))

    def apply(self, encoded: EncodingResult | None) -> tuple[EngineRequest, str] | None:
        """Take in what has been encoded; return a request that has an image which cannot be, and why."""
        request, images = self._planned, self._images
        self._planned, self._images, self.begun = None, (), None
        if request is None or encoded is None:
            return None
        if encoded.count:
            request.encoded_end = images[encoded.count - 1].end
        if encoded.failure:
            return request, encoded.failure
        if encoded.count < len(images):
            self.begun = request
        return None

    def fail(self, plan: StepPlan) -> None:
        """Note that a step has failed, and that the device may have begun with its image."""
        self.begun = (self._planned or self.begun) if plan.slots else None
        self._planned, self._images = None, ()
