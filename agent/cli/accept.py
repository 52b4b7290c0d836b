"""Accept an edit made by hand as the next experiment of a session: make it safe, and say what it does not contain."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence

from agent.errors import AutoresearchError, PreconditionError
from agent.format import named, one_line, plain
from agent.journal import edits
from agent.journal.edits import Edit
from agent.journal.experiment import digest
from agent.journal.journal import Journal
from agent.journal.paths import candidate_ref, commits_ref
from agent.proposers.answer import summary_of_change
from agent.proposers.search.space import tunable_parameters
from agent.repository.checkout import Checkout
from agent.repository.edit import Found, in_checkout, in_commits, own_commits, require_rules
from agent.repository.workspace import Workspace
from agent.session import recovery
from agent.session.context import known_constants
from agent.session.opening import require_startable
from agent.source.seed import differing_seeds, moved_seeds
from agent.system.invocation import git_here, here

MOST_LEFT = 100
LONGEST_DESCRIPTION, LONGEST_REASONING = 120, 2000


@dataclasses.dataclass(frozen=True)
class Desk:
    """Where edits are accepted for a session, while the workspace is locked."""

    workspace: Workspace
    journal: Journal
    tag: str
    branch: str

    def accept(self, why: str | None) -> tuple[int, bool]:
        """Make the edit safe, and return the number of its experiment and whether it may be withdrawn after an error.

        It may if it is new, and the working tree still has it.

        An experiment that a killed process left unfinished keeps its number, and is measured first.

        Raises:
            PreconditionError: there is nothing to measure, or the session cannot continue.
        """
        workspace, state = self.workspace, self.journal.state
        settled = self._finish_last() if state.session else []
        head = state.head or workspace.head
        commits = own_commits(workspace, self.branch, head) if state.session else ()
        on_branch = Checkout(workspace).branch == self.branch
        require_rules(workspace, state.session["base"] if state.session and on_branch else None)
        if state.session is None:
            require_startable(workspace, self.branch, self.tag, switch=False)
        found = in_commits(workspace, commits[-1], head) if commits and not on_branch else in_checkout(workspace, head)
        if commits and on_branch:
            committed = in_commits(workspace, commits[-1], head).tracked
            found = dataclasses.replace(found, tracked=tuple(sorted({*found.tracked, *committed})))
        waiting = edits.unsettled(self.journal.path)
        known = next((number for number, edit in waiting.items() if _is_same(edit, found, on_branch)), None)
        if known is None and not commits and (not found.files or self._is_old(found, head)):
            known = max([*waiting, *self._pending(), *settled], default=None)
            if known is None:
                raise self._nothing(found, head)
        if commits and not found.files:
            raise self._nothing_in(commits, head)
        number = known or max(1, len(state.experiments), *(each + 1 for each in (*waiting, *self._pending())))
        if known is None:
            self._save(number, self._edit(found, head, commits, why), head)
        elif number in waiting and workspace.resolve(candidate_ref(self.tag, number)) is None:
            workspace.keep(candidate_ref(self.tag, number), waiting[number].commit)
        if commits:
            workspace.keep(commits_ref(self.tag, commits[-1]), commits[-1])
            Checkout(workspace).uncommit(self.branch, head, commits[-1])
        return number, known is None and not commits

    def is_done(self, number: int) -> bool:
        return number < len(self.journal.state.experiments)

    def withdraw(self, number: int) -> None:
        """Forget an edit that was not proposed: an error ended the session before. It is still in the working tree."""
        state = self.journal.state
        if self.is_done(number) or (state.pending is not None and state.pending.number == number):
            return
        with contextlib.suppress(AutoresearchError, OSError):
            self.workspace.forget(candidate_ref(self.tag, number))
            edits.drop(self.journal.path, number)

    def _finish_last(self) -> list[int]:
        """Finish what a kill left half done in the checkout. Return the numbers of edits that were measured."""
        recovery.finish_move(self.journal, self.workspace, self.branch)
        waiting = edits.unsettled(self.journal.path)
        for text in recovery.settle(self.journal, self.workspace, waiting):
            self.journal.show("note", text=text)
        return [number for number in waiting if self.is_done(number)]

    def _pending(self) -> list[int]:
        """Return the number of the experiment in progress, unless it is the baseline."""
        pending = self.journal.state.pending
        return [pending.number] if pending is not None and pending.number > 0 else []

    def _is_old(self, found: Found, head: str) -> bool:
        """Return whether the files are committed and were measured before, so that they are no edit."""
        whole = digest({**self.workspace.files(head), **found.files})
        return not found.fresh and whole in {each.digest for each in self.journal.state.experiments}

    def _edit(self, found: Found, head: str, commits: Sequence[str], why: str | None) -> Edit:
        """Describe an edit.

        Raises:
            PreconditionError: it changes the seed and something else.
            UsageError: a search comment in it is malformed.
        """
        workspace, state, known = self.workspace, self.journal.state, self.workspace.files(head)
        constants = known_constants(workspace.protocol)
        whole = {**known, **found.files}
        tunable_parameters(whole, constants)
        if moved := moved_seeds(known, whole, constants):
            raise PreconditionError(
                f"the edit of {named([*moved])} changes the seed along with the rest, and luck is no gain: "
                f"{named(differing_seeds(whole, moved, constants))}",
                hint="put the seed back, then run the same command again",
            )
        said = plain(why or "") or (
            workspace.subject(commits[-1]) if commits else summary_of_change(known, found.files, constants)
        )
        description = one_line(said)[:LONGEST_DESCRIPTION]
        on_branch, notes = Checkout(workspace).branch == self.branch, []
        if commits:
            ref = commits_ref(self.tag, commits[-1])
            notes.append(f"{self.branch} goes on from the session's own commit; yours are kept under {ref}")
            if not on_branch:
                notes.append(f"the commits on {self.branch} were measured, and not the working tree")
        if found.undoes and not on_branch and state.session is not None:
            start = self._restore(found.undoes)
            what = f"{', '.join(found.undoes)} lacks changes that session {self.tag} has kept, so the edit undoes them"
            notes.append(f"{what}; to start from its best, run `{start}` and edit again")
        if found.tracked:
            notes.append(f"runs use the committed version of {named(found.tracked)}: no candidate may change it")
        return Edit(
            files=dict(found.files),
            description=description,
            reasoning=said[:LONGEST_REASONING] if said != description else "",
            commit="",
            left_alone=(*found.tracked, *found.untracked)[:MOST_LEFT],
            notes=tuple(notes),
            in_checkout=on_branch or not commits,
        )

    def _save(self, number: int, edit: Edit, head: str) -> None:
        message = f"experiment #{number}: {edit.description}\n\n{edit.reasoning}".strip()
        # First the file: a ref without it would be in the way of a session that has not begun.
        self.workspace.commit_candidate(
            candidate_ref(self.tag, number),
            head,
            edit.files,
            message,
            lambda commit: edits.write(self.journal.path, number, dataclasses.replace(edit, commit=commit)),
        )

    def _nothing(self, found: Found, head: str) -> PreconditionError:
        """Return the error for a checkout without an edit."""
        best, again = self.journal.state.incumbent, "then run the same command again"
        known = [*self.workspace.files(head)]
        files = named(known)
        same = "is" if len(known) == 1 else "are"
        if found.files:
            restore = self._restore([*found.files])
            return PreconditionError(
                f"no edit to measure: {files} {same} as in an experiment of session {self.tag}",
                hint=f"start from its best with `{restore}`, edit, {again}",
            )
        where = f"the best of session {self.tag}, experiment #{best.number}" if best else "the last commit"
        changed = (*found.tracked, *found.untracked)
        others = f"; {named(changed)} changed, but no candidate may change it" if changed else ""
        return PreconditionError(
            f"no edit to measure: {files} {same} as in {where}{others}",
            hint=f"edit {'it' if len(known) == 1 else 'one of them'}, {again}",
        )

    def _nothing_in(self, commits: Sequence[str], head: str) -> PreconditionError:
        """Return the error for commits without an edit."""
        git = git_here(self.workspace.top)
        return PreconditionError(
            f"the new commits on {self.branch} change no file that a candidate may change",
            hint=f"keep them with `{git} branch NAME {commits[-1][:12]}`, and put the branch back with "
            f"`{git} update-ref {shlex.quote(f'refs/heads/{self.branch}')} {head[:12]}`",
        )

    def _restore(self, paths: Sequence[str]) -> str:
        """Return the command that gives files their content on the session's branch."""
        files = " ".join(here(self.workspace.folder / path) for path in paths)
        return f"{git_here(self.workspace.top)} restore --source {shlex.quote(self.branch)} -- {files}"


def _is_same(edit: Edit, found: Found, on_branch: bool) -> bool:
    """Return whether the checkout holds an edit that was accepted before.

    On another branch, committed files may also lack what the session has kept since.
    """
    if dict(edit.files) == dict(found.files):
        return True
    more = {*found.files} - {*edit.files}
    parts = {path: text for path, text in found.files.items() if path in edit.files}
    return not on_branch and parts == dict(edit.files) and not more & {*found.fresh}
