"""What an agent should know before its next experiment, as text: the same briefing that a language model gets."""

from __future__ import annotations

from pathlib import Path

from agent.errors import PreconditionError
from agent.execution.measure import Runner
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path
from agent.playbook.entries import read_book
from agent.playbook.tell import told
from agent.playbook.tried import untried
from agent.proposers import earlier
from agent.proposers.model import prompt
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.context import context_of, program_of, rules_of
from agent.system.names import PROGRAM

TOKENS = 16_000


def briefing(folder: Path, tag: str | None) -> str:
    """Return goal, rules, machine, incumbent, constants with their ranges, and what was tried.

    Before the first session, return goal, rules and files.

    Raises:
        PreconditionError: the named session does not exist.
    """
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    try:
        path = journal_path(folder, find_session(folder, tag))
        state = fold(path)
    except PreconditionError:
        if tag is not None:
            raise
        state = None
    if state is None or state.session is None or state.incumbent is None:
        parts = [
            ("Goal and rules", rules_of(protocol, protocol.training_seconds)),
            ("Instructions from the user", program_of(folder / PROGRAM)),
            ("The playbook: ideas, not instructions", "\n".join(told(untried(read_book(folder).entries, [], {})))),
            ("Progress", "no experiment yet; the first one measures the baseline, too"),
        ]
        room = TOKENS * prompt.CHARACTERS_A_TOKEN - sum(len(title) + len(text) for title, text in parts)
        parts.append(("The files that may change", prompt.listed(workspace.files(workspace.head), room)))
        return "\n\n".join(f"## {title}\n{text}" for title, text in parts if text)
    seconds = state.session["fingerprint"].get("training_seconds")
    context = context_of(
        Runner(protocol, workspace, seconds),
        files=workspace.files(state.incumbent.commit),
        number=len(state.experiments),
        seed=0,
        incumbent=state.incumbent,
        history=tuple(state.experiments),
        fingerprint=state.session["fingerprint"],
        folder=folder,
        tick=lambda: None,
        earlier=earlier.read(path) if state.learned else (),
    )
    return prompt.briefing(context, TOKENS, can_read=True)
