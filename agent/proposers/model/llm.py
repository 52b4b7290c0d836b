"""A language model proposes: told all that is known, it answers with edits; what cannot be used goes back to it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from agent.journal.experiment import Experiment, Proposal
from agent.journal.journal import APPEND
from agent.proposers.answer import parse_notes, summary_of_change
from agent.proposers.base import Context, NoProposal, Unavailable
from agent.proposers.model import blocks
from agent.proposers.model.blocks import UnusableEdit
from agent.proposers.model.cost import SpendingCap
from agent.proposers.model.prompt import SYSTEM, TOKENS, about_crash, briefing
from agent.proposers.model.thinking import answered
from agent.proposers.model.wire import Answer, Broken, Message, ModelSpec, complete
from agent.proposers.search.space import tunable_parameters
from agent.proposers.validate import Seen, why_invalid
from agent.system.files import read_bounded

MOST_CORRECTIONS = 2
MOST_TOKENS = 16_000  # of an answer
LARGEST_TRANSCRIPT = 64 * 2**20


class LLMProposer:
    """Asks a model over the network. silence: seconds without a byte after which a server is taken to be gone."""

    name = "llm"

    def __init__(self, model: ModelSpec, budget: SpendingCap, silence: float, tokens: int = TOKENS) -> None:
        self.model = model
        self._budget, self._silence, self._tokens = budget, silence, tokens
        self._seen = Seen()
        self._over: dict[Path, int] = {}  # transcript -> answers of conversations that have come to nothing

    def tell(self, experiment: Experiment) -> None:
        """The history in the context says it all."""

    def ask(self, context: Context) -> Proposal:
        """Raises Unavailable where the model cannot be had, NoProposal where it gives nothing that can be measured."""
        return self._converse(context, "answers.jsonl", briefing(context, self._tokens))

    def repair(self, context: Context, error: str, attempt: int) -> Proposal:
        """Repair a candidate that crashed, which is what the context's files are; `error` is the end of its log."""
        return self._converse(context, f"mend-{attempt}.jsonl", about_crash(context, error))

    def _converse(self, context: Context, transcript: str, opening: str) -> Proposal:
        """The first usable answer. One without a hypothesis or an expected effect is asked for them once."""
        messages: list[Message] = [{"role": "user", "content": opening}]
        path = context.folder / transcript if context.folder else None
        said = _Transcript(path, self._over.get(path, 0) if path else 0)
        why, unsaid = "", None
        for _ in range(1 + MOST_CORRECTIONS):
            try:
                answer = said.next() or self._complete(context, messages, said)
                proposal = self._candidate(context, answer)
                if unsaid or (proposal.reasoning and proposal.expected is not None):
                    return proposal
                unsaid = proposal
                raise UnusableEdit("it does not begin with the three lines, with a hypothesis and an expected effect")
            except (Unavailable, NoProposal):
                if unsaid:
                    return unsaid
                raise
            except UnusableEdit as reason:
                why = str(reason)
                messages += [
                    {"role": "assistant", "content": answer.text or "(nothing)"},
                    {
                        "role": "user",
                        "content": f"That cannot be used: {why}. Answer again, whole, in the same format.",
                    },
                ]
        if unsaid:
            return unsaid
        if path:
            self._over[path] = self._over.get(path, 0) + 1 + MOST_CORRECTIONS
        raise NoProposal(f"{self.model.label} gave nothing usable in {1 + MOST_CORRECTIONS} answers: {why}")

    def _complete(self, context: Context, messages: Sequence[Message], said: _Transcript) -> Answer:
        prompt = SYSTEM + "".join(message["content"] for message in messages)
        self._budget.require(context.number, prompt, MOST_TOKENS)
        self._budget.reserve(context.number, prompt, MOST_TOKENS)
        try:
            tick = context.workspace.tick
            answer = complete(self.model, SYSTEM, messages, most_tokens=MOST_TOKENS, silence=self._silence, tick=tick)
        except Broken:
            self._budget.charge(context.number, prompt, MOST_TOKENS, None)
            raise
        except Unavailable:
            self._budget.refund(context.number)
            raise
        # Kept before anything else can go wrong: it has cost money.
        said.add(answer)
        self._budget.charge(context.number, prompt, MOST_TOKENS, answer)
        return answer

    def _candidate(self, context: Context, answer: Answer) -> Proposal:
        """The proposal in an answer. Raises UnusableEdit with the reason that the model is told."""
        if answer.cut:
            raise UnusableEdit(f"it was cut off at {MOST_TOKENS} tokens: be shorter, and edit with small blocks")
        text = answered(answer.text)
        try:
            changed = blocks.apply(text, context.files, context.workspace.allows)
        except UnusableEdit as unusable:
            if text.strip() == answer.text.strip():
                raise
            why = f"{unusable} (what stands in its thinking is no answer: give all of it after that)"
            raise UnusableEdit(why) from None
        whole = {**context.files, **changed}
        reason = why_invalid(whole, context, self._seen)
        if reason:
            raise UnusableEdit(reason)
        said = parse_notes(text)
        return Proposal(
            files=changed,
            description=said.description or summary_of_change(context.files, changed),
            reasoning=said.hypothesis,
            parameters=tunable_parameters(whole, context.constants),
            expected=said.expected,
        )


class _Transcript:
    """The answers to one question, on disk: a session that died while it asked does not pay for them again.

    skip: how many of them have had their effect.
    """

    def __init__(self, path: Path | None, skip: int) -> None:
        self._path = path
        content = _content(path) if path else b""
        self._torn = bool(content) and not content.endswith(b"\n")
        self._kept = _answers(content)[skip:]

    def next(self) -> Answer | None:
        return self._kept.pop(0) if self._kept else None

    def add(self, answer: Answer) -> None:
        if self._path is None:
            return
        line = json.dumps({"text": answer.text, "cut": answer.cut}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self._path, APPEND, 0o666), "a", encoding="utf-8") as file:
            file.write("\n" + line if self._torn else line)
            file.flush()
            os.fsync(file.fileno())
        self._torn = False


def _content(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST_TRANSCRIPT)
    except OSError:
        return b""


def _answers(content: bytes) -> list[Answer]:
    """Of the whole lines: a torn one was cut off with the loop, and one that is damaged counts as none."""
    found = []
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            said = json.loads(line)
            if isinstance(said["text"], str):
                found.append(Answer(said["text"], None, None, bool(said["cut"])))
    return found
