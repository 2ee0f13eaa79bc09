"""What a model keeps in its slots besides pages: it is one request's, and begins with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neuron.device.memory import MIB
from neuron.device.state_pool import bytes_per_slot
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.pipe import Finished
from neuron.step import CacheShape, StepPlan, StepResult
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.serving import Serving, alone, check_preemption, check_small_chunks, decoder, prompt, texts
from tests.device.zoo import save

# Each way to keep a state: of transformers' layers, and of our own.
GENERAL = ("lfm2", "jamba", "bamba", "falcon_h1", "qwen3_next", "minimax", "recurrent_gemma", "rwkv", "zamba")
OWN = ("lfm2", "qwen3_5_text", "qwen3_next", "bamba")
KINDS = [*((name, False) for name in GENERAL), *((name, True) for name in OWN)]
SNAPSHOTS = CacheShape(num_pages=200, page_size=8, num_slots=8, context=256, num_snapshots=16)
TIGHT = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128)


@pytest.fixture(
    scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}, {'own' if kind[1] else 'general'}"
)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    name, is_own = request.param
    found = decoder(save(tmp_path_factory.mktemp("model"), name), fused=is_own)
    assert isinstance(found, FusedDecoder) == is_own
    return found


def test_a_preemption_does_not_change_a_text(loaded: AnyDecoder):
    check_preemption(loaded, TIGHT)


def test_small_chunks_come_to_the_same_text(loaded: AnyDecoder):
    check_small_chunks(loaded)


def test_a_request_may_join_before_its_first_chunk(loaded: AnyDecoder):
    """As one does whose images are encoded in a step of their own."""
    serving = Serving(loaded, CacheShape(num_pages=40, page_size=8, num_slots=1, context=128))
    run = serving.runner.run

    def in_two(plan: StepPlan) -> StepResult:
        assert run(StepPlan((), plan.joined)).tokens == ()
        return run(replace(plan, joined=()))

    serving.runner.run = in_two  # type: ignore[method-assign]
    serving.submit(0, prompt(2, 9))
    assert serving.drain()[0] == alone(loaded, prompt(2, 9))


def test_a_slot_forgets_the_request_that_had_it(loaded: AnyDecoder):
    serving = Serving(loaded, CacheShape(num_pages=40, page_size=8, num_slots=1, context=128))
    serving.submit(0, prompt(0, 30), max_tokens=40)
    serving.step()
    serving.step()
    assert serving.scheduler.cancel(0)
    serving.submit(1, prompt(1, 1))
    serving.submit(2, prompt(2, 9))
    answers = serving.drain()
    assert answers[1] == alone(loaded, prompt(1, 1))
    assert answers[2] == alone(loaded, prompt(2, 9))


def cached(serving: Serving) -> list[int]:
    return [end.cached_tokens for end in serving.ends.values() if isinstance(end, Finished)]


def test_a_prompt_that_was_read_before_begins_at_its_snapshot(loaded: AnyDecoder):
    serving = Serving(loaded, SNAPSHOTS)
    first = prompt(1, 50)
    for number in range(2):
        serving.submit(number, first)
        serving.drain()
    assert serving.tokens[0] == serving.tokens[1] == alone(loaded, first)
    turn = [*first, *serving.tokens[0], *prompt(2, 9)]
    other = [*first[:20], *prompt(3, 20)]  # shares pages, but none of them ends with a snapshot
    for number, tokens in ((2, turn), (3, other)):
        serving.submit(number, tokens)
    answers = serving.drain()
    assert answers[2] == alone(loaded, turn)
    assert answers[3] == alone(loaded, other)
    assert cached(serving) == [0, 48, 72, 0]


def test_without_room_for_snapshots_nothing_is_shared(loaded: AnyDecoder):
    serving = Serving(loaded)
    for number in range(2):
        serving.submit(number, prompt(1, 50))
        serving.drain()
    assert serving.tokens[0] == serving.tokens[1]
    assert cached(serving) == [0, 0]


def test_a_preempted_request_goes_on_from_a_snapshot(loaded: AnyDecoder):
    shape = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128, num_snapshots=6)
    prompts = {seed: prompt(seed % 2, 20) for seed in range(5)}
    serving = Serving(loaded, shape)
    for number, tokens in prompts.items():
        serving.submit(number, tokens, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > len(prompts)
    assert crowded == {number: alone(loaded, tokens, 40) for number, tokens in prompts.items()}


def test_states_are_counted_and_bound_how_many_requests_run(tmp_path: Path):
    path = save(
        tmp_path, "qwen3_next", linear_num_value_heads=32, linear_key_head_dim=128, linear_value_head_dim=128
    )
    size = bytes_per_slot(decoder(path).states)
    assert size > MIB
    limits = SchedulerLimits(max_running=16)

    def load(memory_mb: int) -> ModelPool:
        settings = WorkerSettings(memory_mb=memory_mb, kv_mb=1, limits=limits)
        models = ModelPool(torch.device("cpu"), settings)
        models.load("m", path, lambda _: None)
        return models

    counted = 16 + 16 + 32  # slots, slots before drafts, snapshots
    roomy = load(32_000).models["m"]
    assert roomy.runner.shape.num_slots == 16
    assert roomy.runner.shape.num_snapshots == 32
    assert roomy.num_bytes > counted * size
    needed = load(32_000).used // MIB - counted * size // MIB
    pool = load(needed + 10 * size // MIB)
    assert pool.used <= pool.budget
    crowded = pool.models["m"]
    assert 1 <= crowded.runner.shape.num_slots < 16
    assert crowded.scheduler.status().max_running == crowded.runner.shape.num_slots
    with pytest.raises(ModelLoadError) as raised:
        load(needed - 8)
    assert raised.value.code == "insufficient_memory"


def test_a_model_without_attention_has_pages_that_take_nothing(tmp_path: Path):
    models = ModelPool(torch.device("cpu"), WorkerSettings(limits=SchedulerLimits(max_running=4)))
    resident = models.load("m", save(tmp_path, "mamba"), lambda _: None)
    assert resident.runner.shape.context == 512
    assert resident.scheduler.status().kv_pages_free > 0
    assert resident.num_bytes < 64 * MIB


def test_the_states_of_a_model_in_bfloat16_keep_their_own_types(tmp_path: Path):
    loaded = decoder(save(tmp_path, "qwen3_next"), "bfloat16")
    kinds = {name.kind: shape.dtype for name, shape in loaded.states.items()}
    assert kinds == {"conv": torch.bfloat16, "recurrent": torch.float32}
    assert len(alone(loaded, prompt(0, 20))) == 24


def test_zamba2_holds_to_its_least_time_step_token_by_token_too(tmp_path: Path):
    model = decoder(save(tmp_path, "zamba2", time_step_min=0.2))
    tokens = prompt(3, 30)
    shape = CacheShape(num_pages=200, page_size=8, num_slots=4, context=256)
    assert texts(model, {0: tokens}, shape=shape, step_tokens=5)[0] == alone(model, tokens)
