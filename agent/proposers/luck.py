"""Take the luck of a seed out of a candidate: it is measured with the incumbent's seed.

Where equal programs give equal numbers, a lucky seed would otherwise pass for a gain of whatever changed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.errors import UsageError
from agent.journal.experiment import Proposal
from agent.proposers.base import Context
from agent.proposers.search.space import tunable_parameters
from agent.source.seed import moved_seeds

SAME_SEED = " (same seed)"


def with_own_seed(proposal: Proposal, context: Context, base: Mapping[str, str] | None = None) -> Proposal:
    """Return a proposal with the incumbent's seeds. Its description and reasoning say so if they differed.

    Args:
        base: the mutable files of the incumbent; None if the context has them.
    """
    whole = {**context.files, **proposal.files}
    found = moved_seeds(base or context.files, whole, context.constants)
    if not found:
        return proposal
    whole |= found
    try:
        parameters = tunable_parameters(whole, context.constants)
    except UsageError:  # a search comment is malformed, as it may be in an edit
        parameters = dict(proposal.parameters)
    why = f"measured with the seed of #{context.incumbent.number}, because the luck of another one is no gain"
    said = proposal.description.removesuffix(SAME_SEED)
    return replace(
        proposal,
        files={path: text for path, text in whole.items() if text != context.files.get(path)},
        description=f"{said}{SAME_SEED}",
        reasoning=f"{proposal.reasoning}; {why}".removeprefix("; "),
        parameters=parameters,
    )
