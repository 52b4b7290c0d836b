"""Test honest, broken and hostile coding agents as real processes. None may harm the user's workspace."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.errors import Interrupted
from agent.execution.measure import Runner
from agent.journal.experiment import Experiment, Proposal, Run, Verdict, digest
from agent.proposers.agent import presets
from agent.proposers.agent.command import CommandProposer, filled_command
from agent.proposers.agent.presets import PRESETS, check_available, how_to_start, own_folders
from agent.proposers.base import Context, NoProposal, Unavailable
from agent.proposers.hybrid import HybridProposer
from agent.proposers.search.search import SearchProposer
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room import sandbox
from agent.room.sandbox import UNCONFINED, Sandbox, Way
from agent.session.context import context_of
from tests.common.agents import (
    BEGIN,
    BETTER,
    CONFINED,
    HONEST,
    HOSTILE,
    NEEDS_ONE,
    WITH_NOTES,
    agent,
    counting,
    unheard,
)
from tests.common.workspaces import QUICK, commit_all, git

BOXES = [pytest.param(UNCONFINED, id="off"), pytest.param(CONFINED, id="confined", marks=NEEDS_ONE)]

WAYS: list[Any] = [
    pytest.param(way, marks=pytest.mark.skipif(not sandbox.works(way, True), reason=f"{way} does not work here"))
    for way in ("namespaces", "bubblewrap", "Landlock")
]


@pytest.fixture(params=BOXES)
def box(request: pytest.FixtureRequest) -> Sandbox:
    found: Sandbox = request.param
    return found


@pytest.fixture
def context(quick: Path, tmp_path: Path) -> Context:
    return context_for(Workspace(quick, load_protocol(quick)), tmp_path / "kept")


def context_for(workspace: Workspace, folder: Path, tick: Callable[[], None] = lambda: None) -> Context:
    baseline = Experiment(
        number=0,
        proposer="baseline",
        description="baseline",
        commit=workspace.head,
        digest=digest(workspace.files(workspace.head)),
        parameters={},
        runs=(Run(1.1, 1.0),),
        verdict=Verdict("keep", "baseline"),
    )
    runner = Runner(load_protocol(workspace.folder), workspace, None)
    return context_of(
        runner,
        files=workspace.files(workspace.head),
        number=1,
        seed=0,
        incumbent=baseline,
        history=(baseline,),
        fingerprint={},
        folder=folder,
        tick=tick,
    )


@pytest.fixture
def unharmed(quick: Path) -> Iterator[Callable[[], None]]:
    """Check that the user's checkout is unchanged, at the latest when the test ends."""

    def state() -> list[Any]:
        texts = [(str(path), path.read_bytes()) for path in sorted(quick.glob("*")) if path.is_file()]
        asked = (["rev-parse", "HEAD"], ["symbolic-ref", "HEAD"], ["status", "--porcelain"], ["for-each-ref"], ["log"])
        return [texts, [git(quick, *args) for args in asked]]

    before = state()

    def check() -> None:
        assert state() == before

    yield check
    check()


def test_honest_change_becomes_proposal(
    context: Context, tmp_path: Path, box: Sandbox, unharmed: Callable[[], None]
) -> None:
    proposal = agent(tmp_path, HONEST + WITH_NOTES, box).ask(context)
    assert dict(proposal.files) == {"train.py": BETTER}
    assert proposal.description == "a larger rate"
    assert proposal.reasoning == "it was too small"
    assert proposal.expected == -0.05
    assert proposal.parameters["RATE"] == 0.3
    prompt = (tmp_path / "kept" / "agent-prompt.md").read_text()
    for told in ("All that is known.", "only these files in the current folder: train.py", "DESCRIPTION:"):
        assert told in prompt
    unharmed()


def test_without_notes_the_change_is_summarised(context: Context, tmp_path: Path) -> None:
    assert agent(tmp_path, HONEST).ask(context).description == "RATE 0.1 -> 0.3"
    context = dataclasses.replace(context, folder=tmp_path / "another")
    added = agent(tmp_path, 'put("print(\\"---\\")", "print(\\"---\\")\\nloss += 0")').ask(context)
    assert added.description == "1 line added, 0 removed in train.py"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_agent_keeps_only_honest_change(
    context: Context, tmp_path: Path, box: Sandbox, unharmed: Callable[[], None], name: str
) -> None:
    script, line = HOSTILE[name]
    said: list[dict[str, Any]] = []
    proposer = agent(tmp_path, HONEST + script, box, announce=lambda _, **details: said.append(details))
    proposal = proposer.ask(context)
    assert [event["what"] for event in said] == ([[line]] if line else [])
    assert dict(proposal.files) == {"train.py": BETTER}
    assert proposal.reasoning == (f"dropped: it {line}" if line else "")
    unharmed()
    if line:
        agent_again(proposer, tmp_path).ask(context)
        told = (tmp_path / "kept" / "agent-prompt.md").read_text()
        assert f"Dropped from your last attempt: you {line}." in told


def agent_again(proposer: CommandProposer, folder: Path, script: str = HONEST) -> CommandProposer:
    """Return the same proposer with another script of its agent."""
    (folder / "agent.py").write_text(BEGIN + script)
    return proposer


def test_agent_log_is_truncated(context: Context, tmp_path: Path) -> None:
    agent(tmp_path, HONEST + HOSTILE["prints ten megabytes"][0]).ask(context)
    log = tmp_path / "kept" / "agent.log"
    assert log.stat().st_size < 1.1 * 2**20
    assert "the first 10 MiB are omitted" in log.read_text()[:100]


@NEEDS_ONE
@pytest.mark.usefixtures("unharmed")
def test_writes_outside_are_refused(
    context: Context, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".python3").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    script = f"""
tries = {{"checkout": {str(quick)!r}, "home": {str(home)!r}, "beside": {str(tmp_path)!r},
    "own": {str(home / ".python3")!r}, "temporary": os.environ["TMPDIR"], "copy": "."}}
for name, folder in tries.items():
    try:
        pathlib.Path(folder, "new.txt").write_text("x")
        print(name, flush=True)
    except OSError:
        pass
"""
    proposer = agent(tmp_path, HONEST + script, CONFINED)
    # Named after the program, because an agent may write to folders of its own name.
    (tmp_path / "python3").symlink_to(sys.executable)
    proposer.command = proposer.command.replace(shlex.quote(sys.executable), str(tmp_path / "python3"))
    assert dict(proposer.ask(context).files) == {"train.py": BETTER}
    # If the room has its own root, the home folder is the room's.
    written = (tmp_path / "kept" / "agent.log").read_text().split()
    assert written == [*(["home"] if CONFINED.has_root else []), "own", "temporary", "copy"]
    assert not (home / "new.txt").exists()
    assert not (tmp_path / "new.txt").exists()


def test_daemon_of_agent_is_killed(
    context: Context, tmp_path: Path, box: Sandbox, unharmed: Callable[[], None]
) -> None:
    mark = f"{tmp_path.name}-{os.getpid()}-{time.monotonic_ns()}"
    script = (
        "quiet = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}], "
        "start_new_session=True, **quiet)\n"
    )
    assert agent(tmp_path, HONEST + script, box).ask(context).files
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in (p.info["cmdline"] or ())]
    assert [p for p in left if p.info["status"] != psutil.STATUS_ZOMBIE] == []
    unharmed()


def test_endless_agent_is_killed_at_time_limit(context: Context, tmp_path: Path, unharmed: Callable[[], None]) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as away:
        agent(tmp_path, "print('thinking', flush=True)\ntime.sleep(600)", time_limit=1.5).ask(context)
    assert str(away.value) == (
        "the agent changed nothing before it was stopped (timed out: killed after the hard limit of 1.5 s): thinking"
    )
    assert not away.value.lasting
    assert time.monotonic() - began < 20
    unharmed()


def test_changes_before_time_limit_are_taken(context: Context, tmp_path: Path) -> None:
    proposal = agent(tmp_path, HONEST + "time.sleep(600)", time_limit=2).ask(context)
    assert proposal.files["train.py"] == BETTER
    assert proposal.reasoning == (
        "dropped: it ran until it was stopped (timed out: killed after the hard limit of 2 s)"
    )


LINKS = {
    "a link to a file": "os.remove('train.py'); os.symlink('/etc/passwd', 'train.py')",
    "a link to itself": "os.remove('train.py'); os.symlink('train.py', 'train.py')",
    "a folder": "os.remove('train.py'); os.mkdir('train.py'); pathlib.Path('train.py/x').write_text('')",
    "a pipe": "os.remove('train.py'); os.mkfifo('train.py')",
    "nothing": "os.remove('train.py')",
    "bytes": "train.write_bytes(b'\\xff\\xfe')",
    "zeros": "train.write_bytes(bytes(10))",
    "too much": "train.write_text('x = 1\\n' * 200_000)",
    "a sparse giant": "os.truncate('train.py', 2**33)",
    "its folder as a link": (
        "here = os.getcwd(); os.rename(here, here + '2'); os.symlink('/etc', here)"
        "\npathlib.Path(here + '2', 'train.py').write_text('')"
    ),
}


@pytest.mark.parametrize("name", LINKS)
def test_only_a_plain_file_is_taken(context: Context, tmp_path: Path, unharmed: Callable[[], None], name: str) -> None:
    with pytest.raises(NoProposal, match=r"the agent changed nothing; dropped: it (changed|deleted|removed) "):
        agent(tmp_path, LINKS[name]).ask(context)
    unharmed()


def test_value_that_the_incumbent_contains_is_no_secret_of_an_edit(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = 'print(f"val_bpb:'
    assert present in context.files["train.py"]
    monkeypatch.setenv("BUCKET_KEY", present)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    found = agent(tmp_path, 'put("RATE = 0.1", "RATE = 0.3  # eu-central-1")').ask(context)
    assert "RATE = 0.3  # eu-central-1" in found.files["train.py"]


def test_key_is_neither_logged_nor_committed(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("SOME_API_KEY", key)
    proposer = agent(tmp_path, "print('refused:', os.environ['SOME_API_KEY'])\nsys.exit(1)")
    with pytest.raises(Unavailable) as away:
        proposer.ask(context)
    assert str(away.value).endswith("failed with exit code 1: refused: (SOME_API_KEY)")
    steals = 'put("RATE = 0.1", "RATE = 0.3  # " + os.environ["SOME_API_KEY"])'
    with pytest.raises(NoProposal, match=r"changed train\.py, which contains the value of SOME_API_KEY"):
        agent_again(proposer, tmp_path, steals).ask(context)
    named = 'pathlib.Path(os.environ["SOME_API_KEY"] + ".txt").touch()'
    with pytest.raises(NoProposal, match=r"created \(SOME_API_KEY\)\.txt, which is not a mutable file"):
        agent_again(proposer, tmp_path, named).ask(context)
    kept = [path.read_text() for path in (tmp_path / "kept").iterdir()]
    assert kept
    assert not any(key in text for text in kept)


def test_key_from_a_file_with_windows_line_ends_is_not_logged(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef\r")
    with pytest.raises(Unavailable, match=r"refused: \(SOME_API_KEY\)") as away:
        agent(tmp_path, "print('refused:', os.environ['SOME_API_KEY'].strip(), '!')\nsys.exit(1)").ask(context)
    told = [str(away.value), *(path.read_text() for path in (tmp_path / "kept").iterdir())]
    assert not any("sk-0123" in text for text in told)


def test_agent_is_unavailable_after_three_empty_answers(context: Context, tmp_path: Path) -> None:
    proposer = agent(tmp_path, "")
    for _ in range(2):
        with pytest.raises(NoProposal, match=r"^the agent changed nothing$"):
            proposer.ask(context)
    with pytest.raises(Unavailable, match="changed nothing 3 times in a row") as away:
        proposer.ask(context)
    assert away.value.lasting
    agent_again(proposer, tmp_path).ask(context)
    with pytest.raises(NoProposal):
        agent_again(proposer, tmp_path, "").ask(context)


def test_search_replaces_idle_agent(context: Context, tmp_path: Path) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    hybrid = HybridProposer(
        "command",
        SearchProposer(),
        agent(tmp_path, ""),
        share=1.0,
        fallback_after=0.0,
        announce=lambda kind, **details: said.append((kind, details)),
    )
    proposals = [hybrid.ask(context) for _ in range(4)]
    assert {proposal.proposer for proposal in proposals} == {"search"}
    assert [kind for kind, _ in said] == ["nothing", "nothing", "away"]
    assert "3 times in a row" in said[-1][1]["reason"]


def test_agent_corrects_its_mistake(context: Context, tmp_path: Path) -> None:
    script = """
if "cannot be used" not in prompt:
    put("RATE = 0.1", "RATE = = 0.3")
    pathlib.Path("prepare.py").write_text("")
else:
    assert "train.py does not compile" in prompt and "you changed prepare.py" in prompt
    assert pathlib.Path("prepare.py").read_text() == "HARNESS = True\\n"
    put("RATE = = 0.3", "RATE = 0.3")
"""
    proposal = agent(tmp_path, script).ask(context)
    assert proposal.files["train.py"] == BETTER
    assert proposal.reasoning == ""
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "agent.log", "agent-prompt.md", "agent-left.json", "agent-2.log", "agent-2-prompt.md", "agent-2-left.json"
    }  # fmt: skip


def test_no_file_of_an_agent_ends_the_loop(context: Context, tmp_path: Path) -> None:
    """Unparsable files and search comments go back to the agent; a rewritten file is described quickly."""
    script = """
if "cannot be used" not in prompt:
    put("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.3  # search: whatever I like")
elif "search comment" in prompt:
    put("RATE = 0.3  # search: whatever I like", "RATE = " + "-" * 100_000 + "1")
else:
    assert "does not compile" in prompt
    train.write_text("".join(f"value_{i} = {i * 7919 % 10007}\\n" for i in range(20_000)))
"""
    with_one = "".join(f"value_{i} = {i * 7907 % 10009}\n" for i in range(20_000))
    long = dataclasses.replace(context, files={"train.py": context.files["train.py"] + with_one})
    began = time.monotonic()
    assert agent(tmp_path, script).ask(long).description.endswith(" removed in train.py")
    assert time.monotonic() - began < 60


def test_three_mistakes_give_no_proposal(context: Context, tmp_path: Path) -> None:
    script = 'put("RATE", "RATE + = 1\\nRATE")\nnote(prompt)'
    with pytest.raises(
        NoProposal, match=r"no usable proposal from the agent in 3 attempts: train\.py does not compile"
    ):
        agent(tmp_path, script).ask(context)
    context = dataclasses.replace(context, folder=tmp_path / "another")
    with pytest.raises(NoProposal, match="fails on import"):
        agent(tmp_path, "if 'used:' not in prompt: put('import sys', 'import sys, no_such_module')").ask(context)


def test_finished_agent_work_survives_restart(context: Context, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    script = counting(counter) + HONEST + "pathlib.Path('new.txt').touch()\n" + WITH_NOTES
    first = agent(tmp_path, script).ask(context)
    said: list[dict[str, Any]] = []
    again = agent(tmp_path, script, announce=lambda _, **details: said.append(details)).ask(context)
    assert first == again
    assert counter.read_text() == "x"
    assert said[0]["what"] == ["created new.txt, which is not a mutable file"]
    moved = dataclasses.replace(context.incumbent, commit="0" * 40)
    text = context.files["train.py"].replace("DEPTH = 4", "DEPTH = 5")
    others: tuple[dict[str, Any], ...] = ({"incumbent": moved}, {"files": {"train.py": text}}, {"number": 2})
    for number, changes in enumerate(others, start=2):
        agent(tmp_path, script).ask(dataclasses.replace(context, **changes))
        assert counter.read_text() == "x" * number
    for damage in ("", "{", "[]", '{"of": 1}'):
        (tmp_path / "kept" / "agent-left.json").write_text(damage)
        assert agent(tmp_path, script).ask(context) == first
    assert counter.read_text() == "x" * 8


def test_draft_is_kept_when_correction_fails(context: Context, tmp_path: Path) -> None:
    """The second attempt fails: asked again, in this loop or the next, the agent continues from its draft."""
    counter = tmp_path / "count"
    mistake = counting(counter) + 'put("RATE = 0.1", "RATE = = 0.3") if "cannot be used" not in prompt else sys.exit(1)'
    proposer = agent(tmp_path, mistake)
    with pytest.raises(Unavailable, match="failed with exit code 1"):
        proposer.ask(context)
    mended = counting(counter) + 'assert "cannot be used" in prompt\nput("RATE = = 0.3", "RATE = 0.3")'
    assert agent_again(proposer, tmp_path, mended).ask(context).files["train.py"] == BETTER
    assert agent(tmp_path, "sys.exit(9)").ask(context).files["train.py"] == BETTER
    assert counter.read_text() == "xxx"


def test_repeated_candidate_is_refused_whatever_its_comments(context: Context, quick: Path, tmp_path: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    commit = workspace.commit_candidate("refs/autoresearch/t/1", workspace.head, {"train.py": BETTER}, "a larger rate")
    earlier = dataclasses.replace(
        context.history[0], number=1, commit=commit, description="a larger rate", verdict=Verdict("discard", "worse")
    )
    known = dataclasses.replace(context, number=2, history=(*context.history, earlier))
    script = """
if "cannot be used" not in prompt:
    put("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.3   # much better")
elif "experiment #1 (discard: a larger rate)" in prompt:
    train.write_text(train.read_text().replace("RATE = 0.3", "RATE = 0.1"))
else:
    assert "same program as the incumbent" in prompt
    put("DEPTH = 4", "DEPTH = 6")
"""
    assert "DEPTH = 6" in agent(tmp_path, script).ask(known).files["train.py"]


def test_repair_starts_from_crashed_candidate(context: Context, tmp_path: Path) -> None:
    crashed = dataclasses.replace(context, files={"train.py": QUICK.replace("RATE = 0.1", "RATE = 0.2 / 0")})
    script = 'assert "ZeroDivisionError" in prompt\nput("RATE = 0.2 / 0", "RATE = 0.3")'
    proposal = agent(tmp_path, script).repair(crashed, "ZeroDivisionError: division by zero", 1)
    assert dict(proposal.files) == {"train.py": BETTER}
    assert (tmp_path / "kept" / "agent-mend-1.log").exists()


def test_new_files_are_taken_where_they_are_allowed(context: Context, tmp_path: Path) -> None:
    allowing = dataclasses.replace(context.workspace, allows=lambda path: path.endswith(".py") and path != "prepare.py")
    free = dataclasses.replace(context, workspace=allowing)
    script = "pathlib.Path('parts').mkdir(); pathlib.Path('parts/loss.py').write_text('SCALE = 1\\n')\n"
    script += "pathlib.Path('.hidden.py').write_text(''); pathlib.Path('a\\nb.py').write_text('')\n"
    proposal: Proposal = agent(tmp_path, HONEST + script).ask(free)
    assert dict(proposal.files) == {"train.py": BETTER, "parts/loss.py": "SCALE = 1\n"}
    assert "which is not a mutable file" in proposal.reasoning
    assert "hidden" not in proposal.reasoning


def test_missing_agent_is_reported(context: Context) -> None:
    cases = {
        "no-such-agent -p {prompt}": "the agent no-such-agent is not installed",
        "KEY=1 no-such-agent": "the agent no-such-agent is not installed",
        "cd . && no-such-agent": "the agent cannot be started (exit code 127)",
        "./no-such-agent": "the agent cannot be started (exit code 127)",
        "'no": "cannot parse the agent's command (No closing quotation)",
    }
    for command, says in cases.items():
        with pytest.raises(Unavailable) as away:
            CommandProposer(command, time_limit=60, sandbox=UNCONFINED, briefing=lambda _: "", announce=unheard).ask(
                context
            )
        assert says in str(away.value)
        assert away.value.lasting
    assert check_available(f"A=1 {shlex.quote(sys.executable)} x") is None
    assert how_to_start("'no") == "check the quotes in `--agent-cmd`"
    assert how_to_start("no-such-agent").startswith("install it")


def test_second_ctrl_c_ends_agent(quick: Path, tmp_path: Path) -> None:
    def tick() -> None:
        if (tmp_path / "kept" / "agent.log").read_text():
            raise Interrupted("enough", 130)

    workspace = Workspace(quick, load_protocol(quick))
    with pytest.raises(Interrupted):
        agent(tmp_path, "print(os.getpid(), flush=True)\ntime.sleep(600)").ask(
            context_for(workspace, tmp_path / "kept", tick)
        )
    pid = int((tmp_path / "kept" / "agent.log").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_agent_has_own_git(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unharmed: Callable[[], None], quick: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(quick / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(quick))
    script = "print(subprocess.run('git log --format=%an:%s; git status --short --untracked-files=no; git rev-parse --show-toplevel', shell=True, capture_output=True, text=True).stdout)\nprint(os.getcwd())\n"  # noqa: E501
    agent(tmp_path, HONEST + WITH_NOTES + script).ask(context)
    log, status, top, cwd = (tmp_path / "kept" / "agent.log").read_text().split("\n", 3)
    assert log == "agent:the incumbent"
    assert status.strip() == "M train.py"
    assert top == cwd.strip()
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    unharmed()


def test_prompt_can_be_an_argument(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shows = "import sys; print(len(sys.argv[1]), sys.argv[1][:40])"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(shows)} {{prompt}}"
    briefing = "it's $HOME `here`\n"
    proposer = CommandProposer(
        command, time_limit=60, sandbox=UNCONFINED, briefing=lambda _: briefing, announce=unheard
    )
    with pytest.raises(NoProposal):
        proposer.ask(context)
    assert "it's $HOME `here`" in (tmp_path / "kept" / "agent.log").read_text()
    monkeypatch.setattr("agent.proposers.agent.command.LONGEST_ARGUMENT", 10)
    with pytest.raises(NoProposal):
        proposer.ask(context)
    assert "Read autoresearch-prompt.md and do what" in (tmp_path / "kept" / "agent.log").read_text()


def test_presets_fill_in_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(PRESETS) == {"claude", "codex", "gemini", "opencode", "aider", "mini"}
    for name, line in PRESETS.items():
        assert "{prompt" in line
        assert not any(word in line for word in ("dangerously", "danger-full-access", "bypass"))
        filled = filled_command(line, "p", tmp_path / "it's", ["train.py"])
        assert "{prompt" not in filled
        assert "{files}" not in filled
        monkeypatch.setenv("PATH", str(tmp_path))
        assert f"the agent {name} is not installed" in str(check_available(line))


def test_only_its_own_folders_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "CODEX_HOME"):
        monkeypatch.setenv(name, "" if name != "HOME" else str(tmp_path))
    for name in (".codex", ".ssh", ".config/codex", ".config/git", ".cache/uv", ".config/mini-swe-agent", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    assert own_folders("A=1 codex exec x") == [tmp_path / ".codex", tmp_path / ".config" / "codex"]
    assert own_folders("env A=1 /bin/codex --ssh ssh") == own_folders("codex")
    assert own_folders(PRESETS["mini"]) == [tmp_path / ".config" / "mini-swe-agent"]
    assert own_folders("uv tool run x") == own_folders("sh -c x") == own_folders("'no") == []
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "elsewhere"))
    assert tmp_path / "elsewhere" in own_folders("codex")
    assert [name for name in PRESETS if presets.confines_itself(PRESETS[name])] == ["codex"]


def test_failed_copy_makes_agent_unavailable(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.proposers.agent.worktree.GIT_SECONDS", 0)
    with pytest.raises(Unavailable, match="cannot create the agent's copy: `git init` failed in"):
        agent(tmp_path, HONEST).ask(context)


@pytest.mark.parametrize("way", WAYS)
def test_no_link_leads_an_agent_to_the_cache(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """The text on which the metric is evaluated lies there, or in a folder of texts. What lies beside it is shown."""
    around, cache = tmp_path / "caches", tmp_path / "caches" / "autoresearch"
    (cache / "snapshots" / "a").mkdir(parents=True)
    (cache / "snapshots" / "a" / "val_0.npy").touch()
    (cache / "current").write_text("a")
    (cache / "snapshots" / "a" / "snapshot.json").write_text(json.dumps({"source": str(around / "text")}))
    (around / "text").mkdir()
    (around / "text" / "z.parquet").touch()
    (around / "other.txt").touch()
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache))
    (quick / "data").symlink_to(cache)
    (quick / "all").symlink_to(around)
    commit_all(quick, "links", "data", "all")
    text = "snapshots/a/val_0.npy"
    paths = ["all/other.txt", f"data/{text}", f"all/autoresearch/{text}", f"{cache}/{text}"]
    paths += ["all/text/z.parquet", f"{around}/text/z.parquet"]
    looks = (
        "def opens(path):\n    try:\n        return not open(path).close()\n    except OSError:\n        return False\n"
        f"note('DESCRIPTION: ' + ' '.join(filter(opens, {paths!r})))\n"
    )
    context = context_for(Workspace(quick, load_protocol(quick)), tmp_path / "kept")
    proposal = agent(tmp_path, HONEST + looks, Sandbox(way, hide=True)).ask(context)
    assert proposal.description == "all/other.txt"
