"""Create the proposer that the flags of `run` choose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from agent.errors import PreconditionError, UsageError
from agent.journal.journal import Journal
from agent.journal.paths import require_own_state, state_folder
from agent.proposers.ahead import AheadProposer
from agent.proposers.base import Proposer
from agent.proposers.hybrid import SHARE, HybridProposer
from agent.proposers.model.servers import parse_model
from agent.proposers.search.search import SearchProposer
from agent.repository.workspace import Workspace
from agent.room.sandbox import Sandbox
from agent.system.placeholders import require_unquoted

NAMES = ("search", "llm", "command", "hybrid")
EXAMPLE_MODEL = "--model ollama:qwen3-coder"


@dataclass(frozen=True)
class ProposerConfig:
    """The flags that choose and configure the proposer.

    Attributes:
        proposer: one of NAMES; None means hybrid if a model or an agent is named, otherwise search.
        share: fraction of the experiments that the model or agent of a hybrid proposes.
        fallback_after, model_timeout, agent_timeout: seconds.
        max_cost, max_cost_per_experiment: dollars.
        ahead: make the next proposal while a run is in progress; None does it unless the model runs on this machine.
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
    ahead: bool | None = None


def choose_proposer(wanted: ProposerConfig, journal: Journal, workspace: Workspace, sandbox: Sandbox) -> Proposer:
    """Return the proposer that the flags choose.

    Raises:
        UsageError: the flags contradict each other.
        PreconditionError: something that they need is missing.
    """
    require_own_state(workspace.folder)
    named = [wanted.model, wanted.agent, wanted.agent_cmd]
    if "" in named:
        flag = ("--model", "--agent", "--agent-cmd")[named.index("")]
        raise UsageError(f"{flag} is empty", hint="name one, or leave the flag out: then the built-in search proposes")
    if sum(each is not None for each in named) > 1:
        raise UsageError("--model, --agent and --agent-cmd are mutually exclusive", hint="pass only one of them")
    name = wanted.proposer or ("hybrid" if any(named) else "search")
    if name not in NAMES:
        raise UsageError(f"unknown proposer {name!r}; choose from {', '.join(NAMES)}")
    _require_model_for_caps(wanted)
    if name == "search":
        return SearchProposer()
    if name == "llm" and not wanted.model:
        raise UsageError("--proposer llm needs --model", hint=f"add it, for example `{EXAMPLE_MODEL}`")
    if name == "command" and not (wanted.agent or wanted.agent_cmd):
        raise UsageError(
            "--proposer command needs --agent or --agent-cmd", hint="add one, for example `--agent claude`"
        )
    if not any(named):
        raise UsageError(
            "--proposer hybrid needs --model, --agent or --agent-cmd", hint=f"add one, for example `{EXAMPLE_MODEL}`"
        )
    consulted = _model(wanted, journal, workspace) if wanted.model else _command(wanted, journal, sandbox)
    hybrid = HybridProposer(
        name,
        SearchProposer(),
        consulted,
        share=wanted.share if name == "hybrid" else 1.0,
        fallback_after=wanted.fallback_after,
        announce=journal.append,
    )
    # A model on this machine would slow down the run in progress.
    early = not (wanted.model and parse_model(wanted.model).here) if wanted.ahead is None else wanted.ahead
    return AheadProposer(hybrid, journal, early=early)


def _require_model_for_caps(wanted: ProposerConfig) -> None:
    """Reject a cost cap without a model: only model calls have a known price, so no other cap can be enforced."""
    caps = {"--max-cost": wanted.max_cost, "--max-cost-per-experiment": wanted.max_cost_per_experiment}
    given = [flag for flag, cap in caps.items() if cap is not None]
    if given and wanted.model is None:
        agent = wanted.agent or wanted.agent_cmd
        why = "the cost of an agent is unknown" if agent else "the built-in search is free"
        raise UsageError(f"{given[0]} needs --model: {why}", hint=f"leave it out, or add `{EXAMPLE_MODEL}`")


def _model(wanted: ProposerConfig, journal: Journal, workspace: Workspace) -> Proposer:
    from agent.proposers.model.cost import SpendingCap, price_of
    from agent.proposers.model.llm import LLMProposer
    from agent.proposers.model.prompt import beyond_limit

    assert wanted.model is not None
    model = parse_model(wanted.model)
    price = price_of(model, state_folder(workspace.folder) / "prices.toml")
    if long := beyond_limit(workspace.files(workspace.head)):
        journal.show("note", text=long)
    caps = (wanted.max_cost, wanted.max_cost_per_experiment)
    return LLMProposer(
        model, SpendingCap(model, price, *caps, lambda: journal.state.spent, journal.append), wanted.model_timeout
    )


def _command(wanted: ProposerConfig, journal: Journal, sandbox: Sandbox) -> Proposer:
    from agent.proposers.agent.command import CommandProposer, confinement
    from agent.proposers.agent.presets import PRESETS, check_available, how_to_start
    from agent.proposers.model.prompt import briefing

    if wanted.agent and wanted.agent not in PRESETS:
        raise UsageError(
            f"unknown agent {wanted.agent!r}; choose from {', '.join(PRESETS)}",
            hint="use `--agent-cmd` for any other agent",
        )
    command = PRESETS[wanted.agent] if wanted.agent else wanted.agent_cmd
    assert command is not None
    require_unquoted("--agent-cmd", command, "{prompt}")
    missing = check_available(command)
    if missing:
        raise PreconditionError(missing, hint=how_to_start(command))
    journal.show("note", text=f"agent: {confinement(command, sandbox)}")
    return CommandProposer(
        command,
        time_limit=wanted.agent_timeout,
        sandbox=sandbox,
        briefing=partial(briefing, can_read=True),
        announce=journal.append,
    )
