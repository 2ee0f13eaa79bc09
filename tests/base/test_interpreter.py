from __future__ import annotations

import gc

from cortex_site.base.interpreter import COLLECT_AFTER, collect_in_small_steps


def test_what_exists_is_left_alone_and_the_rest_collected_little_by_little():
    before = gc.get_threshold()
    try:
        collect_in_small_steps()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] < COLLECT_AFTER
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
