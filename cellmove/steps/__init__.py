"""The steps: each a list of actions. Nothing here knows how actions are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cellmove.core.move import Step
from cellmove.engine.action import AnyAction, require_order
from cellmove.steps import confirm, finish, prep_dest, prep_source, revert, sweep

ACTIONS: Mapping[Step, Sequence[AnyAction]] = {
    Step.PREP_DEST: prep_dest.ACTIONS,
    Step.PREP_SOURCE: prep_source.ACTIONS,
    Step.FINISH: finish.ACTIONS,
    Step.CONFIRM: confirm.ACTIONS,
    Step.REVERT: revert.ACTIONS,
    Step.SWEEP: sweep.ACTIONS,
}
"""All actions of every step, in the order in which they are done."""

require_order(ACTIONS)
