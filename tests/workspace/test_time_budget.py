"""A time budget, with a clock that the test moves."""

from workspace.time_budget import TimeBudget


def test_a_piece_begins_only_if_the_longest_one_so_far_would_fit() -> None:
    now = [100.0]
    budget = TimeBudget(10.0, lambda: now[0])
    assert budget.may_go_on()  # nothing is known about pieces yet
    now[0] += 4
    assert budget.may_go_on() and not budget.is_used_up
    now[0] += 3
    assert not budget.may_go_on()  # 7 s are over, and a piece may take 4
    assert not budget.is_used_up
    now[0] += 3
    assert budget.is_used_up


def test_without_a_number_there_is_always_time() -> None:
    now = [0.0]
    budget = TimeBudget(None, lambda: now[0])
    now[0] = 1e9
    assert budget.may_go_on() and budget.may_go_on() and not budget.is_used_up
