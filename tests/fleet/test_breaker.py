from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.breaker import FAILURES, MAX_BUSY_S, OPEN_S, PROBE_S, UNAUTHORIZED_S, Breaker


def broken(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admits(now)
        breaker.failed(now)
    return breaker


def test_opens_after_failures_in_a_row_and_probes_with_one_request():
    breaker = broken()
    assert (breaker.state(0.5), breaker.admits(0.5)) == ("open", False)
    assert breaker.retry_after_s(0.5) > 0
    later = OPEN_S[0]
    assert (breaker.state(later), breaker.admits(later)) == ("half-open", True)
    breaker.sent(later)
    assert not breaker.admits(later)
    breaker.succeeded()
    assert breaker.state(later) == "closed"


def test_a_probe_that_fails_opens_for_longer_and_a_lost_one_is_replaced():
    breaker = broken()
    breaker.sent(OPEN_S[0])
    assert breaker.admits(OPEN_S[0] + PROBE_S)
    breaker.failed(OPEN_S[0])
    assert not breaker.admits(OPEN_S[0] + OPEN_S[1] - 0.1)
    assert breaker.admits(OPEN_S[0] + OPEN_S[1])


def test_a_success_between_failures_keeps_it_closed():
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) == "closed"


def test_busy_is_per_model_bounded_and_not_broken():
    breaker = Breaker()
    breaker.refused_for_now("m", 0.0, 1e9)
    assert breaker.state(1.0) == "closed"
    assert breaker.is_busy("m", 1.0)
    assert not breaker.is_busy("other", 1.0)
    assert not breaker.is_busy("m", MAX_BUSY_S)


def test_a_token_that_is_not_accepted_is_tried_seldom():
    breaker = Breaker()
    breaker.denied(0)
    assert breaker.unauthorized
    assert (breaker.state(59), breaker.admits(59), breaker.state(61)) == ("open", False, "half-open")
    breaker.sent(61)
    assert not breaker.admits(62)
    breaker.denied(62)
    assert breaker.state(121) == "open"
    breaker.succeeded()
    assert (breaker.state(122), breaker.unauthorized) == ("closed", False)


@given(
    st.lists(
        st.tuples(st.sampled_from(["failed", "succeeded", "sent", "abandoned", "denied"]), st.floats(0, 20))
    )
)
def test_it_always_admits_again(steps):
    breaker, now = Breaker(), 0.0
    for name, seconds in steps:
        now += seconds
        method = getattr(breaker, name)
        method(now) if name in {"failed", "sent", "denied"} else method()
    longest = PROBE_S + max(UNAUTHORIZED_S, *OPEN_S)
    assert breaker.admits(now + longest)
    assert breaker.retry_after_s(now) <= longest
