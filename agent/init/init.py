"""`init`: write a protocol.json for any repository, and test it by running its command and extracting its metric."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import ValidationError

from agent.errors import AutoresearchError, ExperimentError, Interrupted, PreconditionError, UsageError, in_one_line
from agent.execution.measure import read
from agent.format import named
from agent.init import trial
from agent.init.choose import choose_metric
from agent.init.discover import (
    Candidate,
    Files,
    candidate_named,
    candidates,
    is_project,
    other_command,
    printed,
    prose,
    uses_uv,
)
from agent.init.draft import Draft, Plan, budget_of, limit_of, network_of, secondary, setup_of
from agent.init.explain import Because, explain, notes_on, tunes
from agent.init.length import Length, length_of
from agent.init.names import is_cost, meaning, slug
from agent.init.numbers import NUMBER, Found, in_json, in_lines, in_output, pytest_summary, without_number
from agent.init.surface import Surface, said_fixed, surface
from agent.protocol.load import fault_of
from agent.protocol.models import Constraints, Protocol
from agent.repository.checkout import Checkout
from agent.repository.excludes import adding
from agent.repository.workspace import Workspace
from agent.room.sandbox import Mode, choose_sandbox
from agent.system.files import write_whole
from agent.system.invocation import git_here, here, program, typed
from agent.system.names import PROTOCOL
from agent.system.patterns import matches, short

LONGEST_SAID = 120
LONGEST_RUN = 1800.0
MOST_TRIED, MOST_NAMED, MOST_NUMBERS = 4, 3, 10
OTHER_COMMAND = "name another one with --command"  # how hints end that another command may help
NO_FILE = ("FileNotFoundError", "No such file or directory")
THOUGH_TESTS_FAIL = " || [ $? -eq 1 ]"  # pytest exits with 1 if a test fails, which is a result here, not a crash
TAIL_LINES = 12  # last lines shown of a failed run, whose log is deleted with the copy
LONGEST_TWICE = 10.0  # seconds; shorter runs are repeated, to see whether the metric is the same
LONGEST_SET_UP = 60.0  # seconds; a repeated run has a room of its own, which needs the setup commands, too
LONGEST_BUDGET = 20.0  # seconds of training in a trial, if the code honors the budget
COUNTS = ("passed", "failed", "errors", "skipped", "total", "seconds")
UNKNOWN = {"name": "unknown", "direction": "minimize", "extract": {"kind": "regex", "pattern": "(.+)"}}


class NoNumber(AutoresearchError):
    """Raised if a command ran but printed no usable metric. Another command may.

    Attributes:
        numbers: the names of the numbers that it printed, in words.
    """

    def __init__(self, message: str, numbers: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.numbers = numbers


class NoDirection(AutoresearchError):
    """Raised if a command printed the metric that the user named, but its direction is unknown."""


@dataclass(frozen=True)
class InitConfig:
    """The flags of `init`, which override what is detected."""

    command: str | None = None
    metric: str | None = None
    direction: Literal["minimize", "maximize"] | None = None
    mutable: tuple[str, ...] = ()
    training_seconds: float | None = None
    run: bool = True
    force: bool = False
    sandbox: Mode = "auto"


def write_protocol(folder: Path, wanted: InitConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Write protocol.json.

    Args:
        folder: the workspace.
        wanted: the flags of `init`.
        say: prints a progress line.

    Returns:
        The protocol, the reason for each field, notes, and the next commands.

    Raises:
        AutoresearchError: no protocol could be written; nothing was changed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as set by `nohup`
            signal.signal(number, _stop)
    workspace = Workspace(folder, _everything())
    _ = workspace.head
    path = workspace.folder / PROTOCOL
    if path.exists() and not wanted.force:
        raise PreconditionError(f"{path} already exists", hint="add --force to overwrite it")
    above = workspace.top if workspace.top.resolve() != workspace.folder.resolve() else None
    plans = _plans(workspace.folder, above, workspace.files(workspace.head), wanted)
    outcome = _first_with_a_number(workspace, plans, wanted, say) if wanted.run else _untried(plans[0], wanted)
    changed = [name for name in Checkout(workspace).changes() if Path(name).name != PROTOCOL]
    protocol = _valid(outcome.protocol)
    explanations, notes = explain(outcome), notes_on(outcome, protocol, changed)
    if wanted.metric is None and outcome.plan.candidate.kind == "training" and is_cost(outcome.found.name):
        notes.append(
            f"no loss or score was recognized, so the metric is {outcome.found.name}: print one, such as "
            "`val_loss: 1.23`, or name another number with --metric"
        )
    if outcome.others:
        notes.append(f"also printed: {named(outcome.others, MOST_TRIED)}; name one with --metric")
    if others := _others(plans, outcome.plan):
        notes.append(f"also found: {named(others, MOST_TRIED)}; name one with --command")
    write_whole(path, json.dumps(outcome.protocol, indent=2, ensure_ascii=False) + "\n")
    return {
        "path": str(path),
        "protocol": outcome.protocol,
        "explanations": [dataclasses.asdict(because) for because in explanations],
        "notes": notes,
        "next": _next(wanted, workspace, path, searched=tunes(outcome, protocol)),
    }


def init_lines(data: dict[str, Any]) -> list[str]:
    """Return one line per field, then the notes and the next commands."""
    explained = [Because(**because).line for because in data["explanations"]]
    return [
        f"wrote {data['path']}",
        *explained,
        *(f"note          {note}" for note in data["notes"]),
        "",
        *data["next"],
    ]


def _stop(number: int, _frame: FrameType | None) -> None:
    """Raise an exception, which on its way out kills the run and removes the copy."""
    raise Interrupted("stopped: nothing was written", 128 + number)


def _plans(folder: Path, top: Path | None, files: Files, wanted: InitConfig) -> list[Plan]:
    """Return the plans to try, most likely first; a single one if the user named a command.

    Args:
        folder: the workspace.
        top: the repository's root if the workspace is below it, else None.
        files: the committed files of the workspace.
        wanted: the flags of `init`.

    Raises:
        PreconditionError: no command or no mutable file was found.
    """
    files = {path: text for path, text in files.items() if path != PROTOCOL}
    python = _python(folder, files)
    if wanted.command is not None:
        return [_plan(candidate_named(wanted.command, files), files, wanted)]
    if not (offered := candidates(files, python)):
        hint = _on_command(folder, files, python)
        if top is not None:
            hint = f"run `{program()} -C {shlex.quote(str(top))} init` for the whole repository, or {hint}"
        raise PreconditionError(
            f"no training script, benchmark or tests found among the committed files of {folder}",
            hint=hint,
        )
    first, *others = offered[:MOST_TRIED]
    plans = [_plan(first, files, wanted)]
    for candidate in others:
        with contextlib.suppress(PreconditionError):  # it reads no file that may change
            plans.append(_plan(candidate, files, wanted))
    return plans


def _on_command(folder: Path, files: Files, python: str) -> str:
    """Return a hint to name the command, with the likeliest one: the script of a notebook, or one of the README."""
    name = "name the command with --command"
    notebooks = [Path(path) for path in files if path.endswith(".ipynb")]
    exported = [path for path in files if path.endswith(".py") and Path(path).stem in {each.stem for each in notebooks}]
    if exported:
        return f"{name} {shlex.quote(f'{python} {shlex.quote(exported[0])}')}"
    if command := other_command(files):
        return f"{name}, such as --command {shlex.quote(command)} of the README"
    script = f"{name} 'python SCRIPT'"
    if notebooks:
        return f"run `jupyter nbconvert --to script {here(folder / notebooks[0])}`, commit the script, and {script}"
    return script


def _plan(candidate: Candidate, files: Files, wanted: InitConfig) -> Plan:
    uv = candidate.command.startswith("uv run")
    project = uv and is_project(files)
    around = surface(candidate, files, [*wanted.mutable], project)
    if not any(_may_change(path, around) for path in files):
        if wanted.mutable and not any(matches(path, glob) for path in files for glob in wanted.mutable):
            raise PreconditionError(
                f"no committed file matches --mutable {' or '.join(map(repr, wanted.mutable))}",
                hint="commit the files that may change, or name others",
            )
        raise PreconditionError(
            f"no committed file of `{candidate.command}` may change",
            hint=f"name the files with --mutable GLOB{_asked(around.read, files)}",
        )
    setup = setup_of(files, uv, project, candidate)
    budget = budget_of(around, files, wanted.training_seconds)
    timeless = candidate.kind == "training" and budget.seconds is None
    mutable = {path: text for path, text in files.items() if _may_change(path, around)}
    length = length_of(mutable) if timeless else Length()
    return Plan(files, candidate, around, setup, network_of(around, files), budget, length)


def _asked(read: Sequence[str], files: Files) -> str:
    """Return a clause with the sentences by which files that a command reads must not change."""
    asked = {path: said for path, said in said_fixed(files).items() if path in read}
    return "".join(f"; {path} is fixed by {short(said, LONGEST_SAID)}" for path, said in [*asked.items()][:MOST_NAMED])


def _first_with_a_number(
    workspace: Workspace, plans: list[Plan], wanted: InitConfig, say: Callable[[str], None]
) -> Draft:
    """Try the plans one after the other until a command prints a metric.

    Raises:
        AutoresearchError: no command did; the error is that of the first plan, with the numbers of the others.
    """
    silent: list[tuple[str, NoNumber]] = []
    for plan in plans:
        try:
            return _tried(workspace, plan, wanted, say)
        except NoNumber as error:
            say(f"`{plan.candidate.command}` printed no usable metric")
            silent.append((plan.candidate.command, error))
        except AutoresearchError as error:
            if not silent or isinstance(error, Interrupted | NoDirection):
                if (others := _others(plans, plan)) and error.hint.endswith(OTHER_COMMAND):
                    error.hint += f"; also found: {named(others, MOST_TRIED)}"
                raise
            say(in_one_line(error))
    (_, first), *rest = silent
    more = "".join(f", nor did `{command}` ({error.numbers})" for command, error in rest)
    raise NoNumber(f"{first}{more}", first.numbers, hint=first.hint)


def _others(plans: Sequence[Plan], chosen: Plan) -> list[str]:
    """Return the commands of the plans that were not chosen."""
    command = chosen.candidate.command.removesuffix(THOUGH_TESTS_FAIL)
    return [each.candidate.command for each in plans if each.candidate.command != command]


def _tried(workspace: Workspace, plan: Plan, wanted: InitConfig, say: Callable[[str], None]) -> Draft:
    """Run the command in a room, find its metric, write the extraction rule, and test it with the protocol itself."""
    protocol = _valid(plan.protocol(UNKNOWN, LONGEST_RUN))
    sandbox = choose_sandbox(wanted.sandbox, Constraints.model_validate({"networkPolicy": plan.network[0]}))
    with trial.stage_of(workspace, protocol, sandbox) as stage:
        outcome = _tried_in(stage, plan, wanted, say)
        if changed := trial.changed_tracked(workspace, stage):
            say(_tracked_and_written(workspace, changed))
        return outcome


def _tried_in(stage: trial.Stage, plan: Plan, wanted: InitConfig, say: Callable[[str], None]) -> Draft:
    given = plan.budget.seconds
    if given is not None and plan.budget.honoured:
        given = min(given, LONGEST_BUDGET)
    began = time.monotonic()
    _set_up(stage, plan, say)
    repeatable = time.monotonic() - began <= LONGEST_SET_UP
    say(
        f"running `{plan.candidate.command}` in a copy of the committed files, for up to {LONGEST_RUN / 60:.0f} minutes"
    )
    plan, ran = _attempted(stage, plan, given, say)
    in_files = (found for name, text in ran.files.items() for found in in_json(text, name))
    seen = [*in_output(ran.text, wanted.metric), *in_files]
    found = _chosen(plan, ran, seen, wanted, say)
    protocol = plan.protocol(found.metric, limit_of(ran.seconds, plan.budget, given))
    protocol["measurement"]["secondaryMetrics"] = secondary([each for each in seen if not each.listed], found.name)
    checked = _valid(protocol)
    value = read(stage.room, checked, checked.metric, ran.text, ran.before)
    seconds = f"one run took {ran.seconds:.1f} s" + (f" with {given:g} s of training" if given is not None else "")
    repeated = f"not measured: the {'run' if repeatable else 'set-up'} is too long to repeat"
    if ran.seconds <= LONGEST_TWICE and repeatable:
        second = _again(stage, plan, checked, given)
        repeated = f"two runs gave {value:g} and {second:g}" + (", the same" if value == second else ": runs are noisy")
        protocol["execution"]["determinism"]["notes"] = f"{repeated[0].upper()}{repeated[1:]}."
    ranked = sorted((each for each in seen if not each.listed), key=lambda each: -each.weight)
    others = tuple(dict.fromkeys(each.name for each in ranked if each.name != found.name))
    return Draft(plan, protocol, found, seconds, repeated, others, tuple(ran.rewritten))


def _again(stage: trial.Stage, plan: Plan, protocol: Protocol, given: float | None) -> float:
    """Return the metric of another run in a new room, as in the loop: the used one has the output of the first."""
    with trial.stage_of(stage.runner.workspace, protocol, stage.runner.sandbox, "init-again") as room:
        _set_up(room, plan, lambda _: None)
        return trial.again(room, protocol, given)


def _untried(plan: Plan, wanted: InitConfig) -> Draft:
    """Return a draft based on what the source code prints, without running it."""
    source = plan.files.get(plan.candidate.script or "", "")
    rule: dict[str, Any] = {"kind": "regex", "pattern": rf"^{re.escape(wanted.metric or '')}:\s+({NUMBER})\s*$"}
    if plan.candidate.kind == "tests":
        name = wanted.metric if wanted.metric in COUNTS else "seconds"
        better: Any = "maximize" if name in ("passed", "total", "skipped") else "minimize"
        found: Found | None = Found(name, 0.0, better, 0, {"kind": "pytest_summary", "count": name}, "pytest's summary")
    else:
        found = choose_metric(in_lines(printed(source)), wanted.metric, prose(plan.files))
        if found is None and wanted.metric:
            found = Found(wanted.metric, 0.0, meaning(wanted.metric)[0], 0, rule, "a line with the name that you gave")
    if found is None:
        raise PreconditionError(
            "the metric is unknown without a run", hint="name it with --metric NAME, or omit --no-run"
        )
    found = dataclasses.replace(
        _directed(found, wanted), extract={k: v for k, v in found.extract.items() if k != "exampleStdout"}
    )
    limit = max(900.0, 3 * (plan.budget.seconds or 0))
    protocol = plan.protocol(found.metric, limit, "discoveryDraft")
    return Draft(plan, protocol, found, "a default, as nothing was run", "not measured")


def _attempted(
    stage: trial.Stage, plan: Plan, given: float | None, say: Callable[[str], None]
) -> tuple[Plan, trial.Trial]:
    """Run the command; if it fails because it has no network, repeat it with one."""
    lenient = plan.candidate
    if lenient.kind == "tests":
        lenient = dataclasses.replace(lenient, command=f"{lenient.command}{THOUGH_TESTS_FAIL}")
    protocol = _valid(dataclasses.replace(plan, candidate=lenient).protocol(UNKNOWN, LONGEST_RUN))
    try:
        ran = trial.attempt(stage, protocol, given, network=plan.network[0] == "full")
    except ExperimentError as error:
        if plan.network[0] != "full" and trial.wants_network(stage):
            say("the command needs a network: repeating the run with one")
            open_to_all = dataclasses.replace(plan, network=("full", "the command failed without a network"))
            return _attempted(stage, open_to_all, given, say)
        for line in trial.tail(stage, TAIL_LINES):
            say(f"  | {line}")
        likely = _without_submodules(stage) + _in_own_folder(stage, plan.candidate)
        raise AutoresearchError(
            f"`{plan.candidate.command}` ({plan.candidate.why}) failed: {error}",
            hint=f"{likely}fix the command, or {OTHER_COMMAND}",
        ) from None
    summary = pytest_summary(ran.text, None, None) if lenient.kind == "tests" else None
    failing = summary is not None and summary.name == "passed"
    return (dataclasses.replace(plan, candidate=lenient) if failing else plan), ran


def _in_own_folder(stage: trial.Stage, candidate: Candidate) -> str:
    """Return a hint if the script of a subfolder misses a file: it may look for it from its own folder."""
    script = Path(candidate.script or "")
    said = "\n".join(trial.tail(stage, TAIL_LINES))
    if script.parent == Path() or not any(sign in said for sign in NO_FILE):
        return ""
    command = f"{program()} -C {here(stage.runner.workspace.folder / script.parent)} init"
    return f"if {script.name} works only in its own folder, run `{command}`; otherwise "


def _without_submodules(stage: trial.Stage) -> str:
    """Return a hint if a submodule is not checked out: its files are then missing from the copy as well."""
    workspace = stage.runner.workspace
    empty = [name for name in workspace.submodules() if not any((workspace.top / name).glob("*"))]
    if not empty:
        return ""
    update = f"{git_here(workspace.top)} submodule update --init --recursive"
    return f"the submodule {', '.join(empty[:MOST_NAMED])} is not checked out: run `{update}`; otherwise "


def _chosen(plan: Plan, ran: trial.Trial, seen: list[Found], wanted: InitConfig, say: Callable[[str], None]) -> Found:
    """Return the metric.

    Raises:
        NoNumber: the command printed no usable metric.
        AutoresearchError: its direction is unknown.
    """
    found = None
    if plan.candidate.kind == "tests" and (wanted.metric is None or wanted.metric in COUNTS):
        junit = re.search(r"--junit-?xml[= ](\S+)", plan.candidate.command)
        found = pytest_summary(ran.text, junit[1] if junit else None, wanted.metric)
    found = found or choose_metric(seen, wanted.metric, prose(plan.files))
    passed_over = _without_numbers(ran.text, seen, wanted, found)
    _require_number(plan, passed_over, wanted, found)
    where = _dated(ran, wanted, found, plan)
    if where and found is not None:
        say(f"note: {where}")
    if passed_over:
        say(f"note: without a finite number, so not considered as the metric: {named([*passed_over], MOST_NAMED)}")
    if found is not None and found.listed:
        raise NoNumber(
            f"`{plan.candidate.command}` gives {found.name} only in a list ({found.where}), whose last place varies",
            named(list(dict.fromkeys(f.name for f in seen if not f.listed)), MOST_NUMBERS) or "none",
            hint=f"print the final number, such as `{found.name}: 1.23`, or write it to the JSON outside of the list",
        )
    if found is not None:
        return _directed(found, wanted)
    names = named(list(dict.fromkeys(f.name for f in seen)), MOST_NUMBERS) or "none with a name"
    what = f"no number called {wanted.metric}" if wanted.metric else "no number with a known direction"
    raise NoNumber(
        f"`{plan.candidate.command}` ran for {ran.seconds:.1f} s but printed {what} (numbers found: {names})",
        names,
        hint=where
        or "print a line such as `loss: 1.23`, name a metric with --metric NAME, or another command with --command",
    )


def _dated(ran: trial.Trial, wanted: InitConfig, found: Found | None, plan: Plan) -> str:
    """Return where a likelier metric than the one found is, if it is in a file with another path in each run."""
    seen = [each for name, text in ran.dated.items() for each in in_json(text, name)]
    likely = choose_metric(seen, wanted.metric, prose(plan.files))
    if likely is None or (found is not None and found.weight >= likely.weight):
        return ""
    return (
        f"{likely.name} is in {likely.extract['path']}, which has another name in each run: print it, such as "
        f"`{likely.name}: 1.23`, or write it to a path that is the same in each run"
    )


def _without_numbers(text: str, seen: list[Found], wanted: InitConfig, found: Found | None) -> dict[str, int]:
    """Return the likelier metrics than the one found that a log gives as nan or inf, with the last place of each."""

    def is_likelier(name: str) -> bool:
        if wanted.metric:
            return slug(wanted.metric) == name
        return meaning(name)[0] is not None and (found is None or meaning(name)[1] > found.weight)

    numbers = {slug(each.name) for each in seen}
    return {name: at for name, at in without_number(text).items() if name not in numbers and is_likelier(name)}


def _require_number(plan: Plan, passed_over: Mapping[str, int], wanted: InitConfig, found: Found | None) -> None:
    """Refuse a run that ended in nan where a likelier metric than the one found should be.

    It did not if the one found was printed in a later line.
    """
    for name, at in passed_over.items():
        if wanted.metric or found is None or at >= (found.begin or 0):
            raise AutoresearchError(
                f"{name} is not a finite number at the end of `{plan.candidate.command}`",
                hint="fix the run, which diverges, or name another metric with --metric NAME",
            )


def _directed(found: Found, wanted: InitConfig) -> Found:
    direction = wanted.direction or found.direction
    if direction is None:
        raise NoDirection(
            f"the direction of the metric {found.name} is unknown",
            hint="add --direction minimize or --direction maximize",
        )
    return dataclasses.replace(found, direction=direction)


def _set_up(stage: trial.Stage, plan: Plan, say: Callable[[str], None]) -> None:
    try:
        trial.prepare(stage, _valid(plan.protocol(UNKNOWN, LONGEST_RUN)), say)
    except AutoresearchError as error:
        # The error's own hint names a flag of `run`.
        hint = "fix the cause shown above, or name a command that needs no setup with --command"
        raise AutoresearchError(str(error), hint=hint) from None


def _tracked_and_written(workspace: Workspace, names: list[str]) -> str:
    """Return a note on tracked files that every run changes, with the command that untracks them."""
    paths = " ".join(here(workspace.folder / name) for name in names[:MOST_NAMED])
    return (
        f"a run changes {named(names, MOST_NAMED)}, which git tracks: a manual run leaves uncommitted "
        f"changes, and then no session starts. To ignore them, run `{git_here(workspace.top)} rm --cached {paths}` and "
        "add them to .gitignore"
    )


def _next(wanted: InitConfig, workspace: Workspace, path: Path, *, searched: bool) -> list[str]:
    if not wanted.run:
        return [f"next: {typed('init --force')}"]
    return [
        f"next: {adding(workspace.git, path)} && {git_here(workspace.top)} commit -m protocol",
        f"then: {typed('run --tag first --max-experiments 3' + ('' if searched else ' --agent claude'))}",
    ]


def _python(folder: Path, files: Files) -> str:
    if uses_uv(files) and shutil.which("uv"):
        return "uv run"
    if (folder / ".venv" / "bin" / "python").exists():
        return ".venv/bin/python"
    return "python" if shutil.which("python") else "python3"


def _valid(drafted: Mapping[str, Any]) -> Protocol:
    """Return a protocol that was drafted.

    Raises:
        UsageError: flags or names of files in it are not valid.
    """
    try:
        return Protocol.model_validate(drafted)
    except ValidationError as error:
        hint = f"change the flag that it comes from, or write {PROTOCOL} by hand"
        raise UsageError(f"the protocol would be invalid: {fault_of(error)}", hint=hint) from None


def _may_change(path: str, around: Surface) -> bool:
    return any(matches(path, glob) for glob in around.mutable) and not any(
        matches(path, glob) for glob in (*around.forbidden, *around.harness)
    )


def _everything() -> Protocol:
    """Return a protocol under which every tracked file can be read."""
    return Protocol.model_validate(
        {
            "schemaKind": "discoveryDraft",
            "protocolVersion": "1.0",
            "meta": {"archetype": "unknown", "eligibility": "needs_harness"},
            "mutableSurface": {"allowedGlobs": ["**"]},
            "execution": {"command": "true"},
            "measurement": {"primaryMetric": UNKNOWN},
        }
    )
