"""Let a language model propose: it is told everything known and answers with edits; unusable ones go back to it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.journal.experiment import Experiment, Proposal
from agent.journal.journal import APPEND
from agent.proposers.answer import parse_notes, summary_of_change
from agent.proposers.base import Context, NoProposal, Unavailable, question_of
from agent.proposers.ideas import cited
from agent.proposers.model import blocks
from agent.proposers.model.cost import SpendingCap
from agent.proposers.model.placing import UnusableEdit
from agent.proposers.model.prompt import SYSTEM, about_crash, briefing
from agent.proposers.model.servers import ModelSpec
from agent.proposers.model.sizes import Sizes, fitted
from agent.proposers.model.thinking import answered
from agent.proposers.model.wire import CALLS, Answer, Broken, Message, Refused, complete
from agent.proposers.search.space import tunable_parameters
from agent.proposers.validate import Seen, why_invalid
from agent.system.files import read_bounded

ANSWERS = "answers.jsonl"
MOST_CORRECTIONS = 2
# Characters that go back to the model: of an answer that cannot be used, of one before it, and of the reason.
LONGEST_REPEATED, LONGEST_OLDER, LONGEST_REASON = 4000, 1000, 2000
# Where the fault is, in a reason: a block by its number, or a line of the answer.
PLACE = re.compile(r"\bblock (\d{1,6})\b|(?:^|begins in |whole file in )line (\d{1,6})\b")
BLOCK = re.compile(r"^.{0,20}<{5,}", re.MULTILINE)
AT_LIMIT = ("length", "max_tokens", "")  # reasons for the end of a long answer; earlier versions saved no other
LARGEST_TRANSCRIPT = 64 * 2**20


class LLMProposer:
    """A proposer that asks a model over the network.

    Args:
        silence: idle timeout in seconds.
    """

    name = "llm"

    def __init__(self, model: ModelSpec, budget: SpendingCap, silence: float) -> None:
        self.model = model
        self._budget, self._silence = budget, silence
        self._seen = Seen()
        self._sizes = self._tried = Sizes()  # of the next request, and what the next refusal reduces
        self._used: dict[Path, int] = {}  # transcript -> number of its answers up to the end of the last conversation

    def tell(self, experiment: Experiment) -> None:
        """Do nothing: the context has the history."""

    def ask(self, context: Context) -> Proposal:
        """Return the model's candidate.

        Raises:
            Unavailable: the model is unavailable.
            NoProposal: it gave no usable proposal.
        """
        return self._converse(context, ANSWERS, lambda tokens: briefing(context, tokens))

    def repair(self, context: Context, error: str, attempt: int) -> Proposal:
        """Return a repaired version of the crashed candidate in `context.files`; `error` is the end of its log."""
        return self._converse(context, f"mend-{attempt}.jsonl", lambda _: about_crash(context, error))

    def _converse(self, context: Context, transcript: str, opening: Callable[[int], str]) -> Proposal:
        """Return the first usable proposal. If it lacks a hypothesis or a line on its effect, the model is asked once.

        Args:
            opening: returns the first message in at most so many tokens.
        """
        opening, failed = functools.cache(opening), list[tuple[Answer, str]]()
        path = context.folder / transcript if context.folder else None
        said = _Transcript(path, question_of(context), self._used.get(path, 0) if path else 0)
        incomplete = None
        for _ in range(1 + MOST_CORRECTIONS):
            try:
                opens = transcript == ANSWERS and not failed
                answer = said.next() or self._fitting(context, opening, _turns(failed), said, opens=opens)
                proposal = self._candidate(context, answer)
                if incomplete or parse_notes(answered(answer.text, context.files)).is_complete:
                    self._use(said)
                    return proposal
                incomplete = proposal
                raise UnusableEdit("it does not begin with the three lines, with a hypothesis and an expected effect")
            except (Unavailable, NoProposal) as reason:
                rejects = isinstance(reason, Refused) and bool(failed)
                if incomplete or rejects:  # it would reject the saved answers again each time
                    self._use(said)
                if incomplete:
                    return incomplete
                if rejects:
                    raise NoProposal(f"a correction was refused: {reason}") from None
                raise
            except UnusableEdit as reason:
                failed.append((answer, str(reason)))
        self._use(said)
        if incomplete:
            return incomplete
        why = f"no usable proposal from {self.model.label} in {1 + MOST_CORRECTIONS} answers: {failed[-1][1]}"
        raise NoProposal(why, replayed=not said.grown)

    def _use(self, said: _Transcript) -> None:
        """Mark the answers as used: if the same question comes up again in this process, the model is asked again."""
        if said.path:
            self._used[said.path] = said.read

    def _fitting(
        self,
        context: Context,
        opening: Callable[[int], str],
        turns: Sequence[Message],
        said: _Transcript,
        *,
        opens: bool,
    ) -> Answer:
        """Ask the model; once more, with less, if its server refuses because of the size.

        Smaller sizes are kept if the server takes them: the refusal may have had another reason. Otherwise the next
        call begins as this one did, and its second request is smaller than that of this one.
        """

        def asked(sizes: Sizes) -> Answer:
            messages: list[Message] = [{"role": "user", "content": opening(sizes.prompt)}, *turns]
            answer = self._complete(context, messages, said, sizes.answer, opens=opens)
            self._sizes = self._tried = sizes
            return answer

        try:
            return asked(self._sizes)
        except Refused as refused:
            smaller = fitted(self._tried, refused.said) or fitted(self._sizes, refused.said)
            if smaller is None:
                raise
        try:
            return asked(smaller)
        except Refused:
            self._tried = smaller
            raise

    def _complete(
        self, context: Context, messages: Sequence[Message], said: _Transcript, most: int, *, opens: bool
    ) -> Answer:
        prompt = SYSTEM + "".join(message["content"] for message in messages)
        self._budget.require(context.number, prompt, most, opens=opens)
        self._budget.reserve(context.number, prompt, most)
        try:
            tick = context.workspace.tick
            answer = complete(self.model, SYSTEM, messages, most_tokens=most, silence=self._silence, tick=tick)
        except Broken:
            self._budget.charge(context.number, prompt, most, None)
            raise
        except Unavailable:
            self._budget.refund(context.number)
            raise
        # Save it before anything else can fail: it has cost money.
        said.add(answer)
        self._budget.charge(context.number, prompt, most, answer)
        return answer

    def _candidate(self, context: Context, answer: Answer) -> Proposal:
        """Return the proposal in an answer.

        Raises:
            UnusableEdit: there is none that can be measured; the model is told the reason.
        """
        if answer.cut and answer.finish.lower() in AT_LIMIT:
            raise UnusableEdit(f"it was cut off at {self._sizes.answer} tokens: be brief, and use small edit blocks")
        if answer.cut:
            raise UnusableEdit(f"the server ended it before you did ({answer.finish}), so that a part may be missing")
        if answer.finish.lower() in CALLS and not answer.text.strip():
            raise UnusableEdit("it calls a tool, but there are none: write the edits as text")
        text = answered(answer.text, context.files)
        try:
            changed = blocks.apply(text, context.files, context.workspace.allows, context.workspace.tick)
        except UnusableEdit as unusable:
            if text.strip() == answer.text.strip():
                raise
            why = f"{unusable} (edits inside your thinking do not count: give the whole answer after it)"
            raise UnusableEdit(why) from None
        whole = {**context.files, **changed}
        reason = why_invalid(whole, context, self._seen)
        if reason:
            raise UnusableEdit(reason)
        said = parse_notes(text)
        return Proposal(
            files=changed,
            description=said.description or summary_of_change(context.files, changed, context.constants),
            reasoning=said.hypothesis,
            parameters=tunable_parameters(whole, context.constants),
            expected=said.expected,
            playbook=cited(context, said.playbook),
        )


def _turns(failed: Sequence[tuple[Answer, str]]) -> list[Message]:
    """Return the messages for answers that cannot be used, each with its reason."""
    turns: list[Message] = []
    for number, (answer, why) in enumerate(failed, start=1):
        most = LONGEST_REPEATED if number == len(failed) else LONGEST_OLDER
        told = f"Your answer cannot be used: {why[:LONGEST_REASON]}. Give a complete new one in the same format."
        turns += [
            {"role": "assistant", "content": _part(answer.text, why, most)},
            {"role": "user", "content": told},
        ]
    return turns


def _part(text: str, why: str, most: int) -> str:
    """Return the part of an answer that its fault is about, or beginning and end, if it is longer than `most`."""
    if not text.strip():
        return "(nothing)"  # servers reject a message without text
    if len(text) <= most:
        return text
    text = after if (after := answered(text)).strip() else text  # the places are those of the text after thinking
    found = PLACE.search(why)
    begin = _position(text, found) if found else None
    if begin is not None:
        begin = max(0, begin - most // 4)
        return _left_out(begin) + text[begin : begin + most] + _left_out(len(text) - begin - most)
    return text[: most // 2] + _left_out(len(text) - most) + text[-most // 2 :] if len(text) > most else text


def _left_out(count: int) -> str:
    return f"\n[{count:,} characters left out]\n" if count > 0 else ""


def _position(text: str, place: re.Match[str]) -> int | None:
    """Return where a block or a line begins, or None if the text has none of that number."""
    begins = re.compile(r"^", re.MULTILINE) if place[2] else BLOCK
    number = int(place[1] or place[2])
    found = next(itertools.islice(begins.finditer(text), max(0, number - 1), None), None)
    return found.start() if found else None


class _Transcript:
    """The saved answers to one question, so that a session that was killed does not pay for them twice.

    Args:
        path: None to save nothing.
        question: its hash. After a kill, the incumbent may be another one, and old answers do not fit it.
        skip: how many of the answers in the file were used before.

    Attributes:
        read: how many of them are used now, or outdated.
        grown: whether an answer was added.
    """

    def __init__(self, path: Path | None, question: str, skip: int) -> None:
        self.path, self.read, self._question = path, skip, question
        self.grown = False
        content = _content(path) if path else b""
        self._torn = bool(content) and not content.endswith(b"\n")
        saved = _answers(content)
        self._count = len(saved)
        # Earlier versions did not save the question.
        numbered = enumerate(saved[skip:], start=skip + 1)
        self._kept = [(number, answer) for number, (of, answer) in numbered if of in (None, question)]

    def next(self) -> Answer | None:
        if not self._kept:
            return None
        self.read, answer = self._kept.pop(0)
        return answer

    def add(self, answer: Answer) -> None:
        self.grown = True
        self._count += 1
        self.read = self._count
        if self.path is None:
            return
        said = {"of": self._question, "text": answer.text, "cut": answer.cut, "finish": answer.finish}
        line = json.dumps(said) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, APPEND, 0o666), "a", encoding="utf-8") as file:
            file.write("\n" + line if self._torn else line)
            file.flush()
            os.fsync(file.fileno())
        self._torn = False


def _content(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST_TRANSCRIPT)
    except OSError:
        return b""


def _answers(content: bytes) -> list[tuple[object, Answer]]:
    """Return question and answer of complete lines; a line cut off by a kill, or damaged, counts as missing."""
    found: list[tuple[object, Answer]] = []
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            said = json.loads(line)
            if isinstance(said["text"], str):
                finish = str(said.get("finish", ""))
                found.append((said.get("of"), Answer(said["text"], None, None, bool(said["cut"]), finish)))
    return found
