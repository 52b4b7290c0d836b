"""Which proposer the flags of `run` ask for."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import PreconditionError, UsageError
from agent.journal.journal import Journal
from agent.journal.paths import require_own_state, state_folder
from agent.proposers.base import Proposer
from agent.proposers.hybrid import SHARE, Consulted, HybridProposer
from agent.proposers.search.search import SearchProposer
from agent.repository.workspace import Workspace
from agent.room.sandbox import Sandbox

NAMES = ("search", "llm", "command", "hybrid")


@dataclass(frozen=True)
class ProposerConfig:
    """Who proposes. proposer None: hybrid as soon as a model or an agent is named, else search.

    share: of the experiments that the model or agent proposes in a hybrid. fallback_after, model_timeout,
    agent_timeout: seconds. max_cost, max_cost_per_experiment: dollars.
    """

    proposer: str | None = None
    model: str | None = None
    agent: str | None = None
    agent_cmd: str | None = None
    share: float = SHARE
    fallback_after: float = 300.0
    model_timeout: float = 120.0
    agent_timeout: float = 900.0
    max_cost: float | None = None
    max_cost_per_experiment: float | None = None


def choose_proposer(wanted: ProposerConfig, journal: Journal, workspace: Workspace, sandbox: Sandbox) -> Proposer:
    """Raises UsageError where the flags do not go together, PreconditionError where something they need is missing."""
    require_own_state(workspace.folder)
    named = [wanted.model, wanted.agent, wanted.agent_cmd]
    if sum(each is not None for each in named) > 1:
        raise UsageError("--model, --agent and --agent-cmd exclude each other: name one of them")
    name = wanted.proposer or ("hybrid" if any(named) else "search")
    if name not in NAMES:
        raise UsageError(f"there is no proposer {name!r}; there is {', '.join(NAMES)}")
    _require_model_for_caps(wanted)
    if name == "search":
        return SearchProposer()
    if name == "llm" and not wanted.model:
        raise UsageError("--proposer llm needs --model, for example --model ollama:qwen3-coder")
    if name == "command" and not (wanted.agent or wanted.agent_cmd):
        raise UsageError("--proposer command needs --agent or --agent-cmd, for example --agent claude")
    if not any(named):
        raise UsageError("--proposer hybrid needs --model, --agent or --agent-cmd")
    consulted = _model(wanted, journal, workspace) if wanted.model else _command(wanted, journal, sandbox)
    return HybridProposer(
        name,
        SearchProposer(),
        consulted,
        share=wanted.share if name == "hybrid" else 1.0,
        fallback_after=wanted.fallback_after,
        announce=journal.append,
    )


def _require_model_for_caps(wanted: ProposerConfig) -> None:
    """Only a model's calls have a price here: a cap on anything else would be a promise that nobody keeps."""
    caps = {"--max-cost": wanted.max_cost, "--max-cost-per-experiment": wanted.max_cost_per_experiment}
    given = [flag for flag, cap in caps.items() if cap is not None]
    if given and wanted.model is None:
        known = "an agent's costs are its own" if wanted.agent or wanted.agent_cmd else "the search costs nothing"
        raise UsageError(f"{given[0]} needs --model, for example --model ollama:qwen3-coder: {known}")


def _model(wanted: ProposerConfig, journal: Journal, workspace: Workspace) -> Consulted:
    from agent.proposers.model.cost import SpendingCap, price_of
    from agent.proposers.model.llm import LLMProposer
    from agent.proposers.model.wire import parse_model

    assert wanted.model is not None
    model = parse_model(wanted.model)
    price = price_of(model, state_folder(workspace.folder) / "prices.toml")
    caps = (wanted.max_cost, wanted.max_cost_per_experiment)
    return LLMProposer(
        model, SpendingCap(model, price, *caps, lambda: journal.state.spent, journal.append), wanted.model_timeout
    )


def _command(wanted: ProposerConfig, journal: Journal, sandbox: Sandbox) -> Consulted:
    from agent.proposers.agent.command import CommandProposer, confinement
    from agent.proposers.agent.presets import PRESETS, check_available
    from agent.proposers.model.prompt import briefing

    if wanted.agent and wanted.agent not in PRESETS:
        known = ", ".join(PRESETS)
        raise UsageError(f"there is no agent {wanted.agent!r}; there is {known}, and --agent-cmd for any other")
    command = PRESETS[wanted.agent] if wanted.agent else wanted.agent_cmd
    assert command is not None
    missing = check_available(command)
    if missing:
        raise PreconditionError(missing)
    journal.show("note", text=f"agent: {confinement(command, sandbox)}")
    return CommandProposer(
        command, time_limit=wanted.agent_timeout, sandbox=sandbox, briefing=briefing, announce=journal.append
    )
