"""The files of each agent: installed once, outdated by another version, and removed without a trace."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from agent.errors import AutoresearchError
from agent.skill.agents import AGENTS, Agent, find_agent
from agent.skill.guide import guide
from agent.skill.install import apply, describe, plan, strip
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

NOTES = "# Mine\n\nUse tabs.\n"
CODEX = '# mine\nmodel = "m"  # good\n\n[mcp_servers.other]\ncommand = "y"\n'


def install(folder: Path, agent: Agent, program: str = "autoresearch") -> list[str]:
    changes = plan(folder, agent.parts(program))
    apply(folder, changes)
    return [each.action for each in changes]


def remove(folder: Path, agent: Agent) -> list[str]:
    changes = plan(folder, agent.parts("another program"), remove=True)
    apply(folder, changes)
    return [each.action for each in changes]


def states(folder: Path, agent: Agent) -> list[str]:
    return [file["state"] for file in describe(folder, [agent])[0]["files"]]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda each: each.name)
def test_install_twice_and_remove_leaves_nothing(tmp_path: Path, agent: Agent) -> None:
    assert states(tmp_path, agent) == ["missing", "missing"]
    assert install(tmp_path, agent) == ["create", "create"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert install(tmp_path, agent) == ["none", "none"]
    assert {path: path.read_bytes() for path in before} == before
    assert states(tmp_path, agent) == ["installed", "installed"]
    assert install(tmp_path, agent, "uv run autoresearch") == ["change", "change"]
    assert states(tmp_path, agent) == ["outdated", "outdated"]
    assert remove(tmp_path, agent) == ["delete", "delete"]
    assert list(tmp_path.iterdir()) == []
    assert remove(tmp_path, agent) == ["none", "none"]


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("codex", "AGENTS.md", NOTES),
        ("codex", "AGENTS.md", NOTES.strip()),
        ("codex", "AGENTS.md", NOTES.replace("\n", "\r\n")),
        ("gemini", "GEMINI.md", NOTES),
        ("codex", ".codex/config.toml", CODEX),
        ("codex", ".codex/config.toml", CODEX.strip()),
        ("claude", ".mcp.json", '{"mcpServers": {"other": {"command": "y"}}}'),
        ("gemini", ".gemini/settings.json", '{\n\t"theme": "Default"\n}\n'),
        ("cursor", ".cursor/mcp.json", '{\n  "mcpServers": {\n    "other": {}\n  }\n}'),
        ("opencode", "opencode.json", '{\n  "model": "m",\n  "mcp": {}\n}\n'),
    ],
)
def test_everything_else_in_a_file_stays(tmp_path: Path, name: str, path: str, text: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode())
    file.chmod(0o640)
    agent = find_agent(name)
    install(tmp_path, agent)
    new = file.read_bytes().decode()
    assert new != text
    assert file.stat().st_mode & 0o777 == 0o640
    if path.endswith(".md"):
        assert new.startswith(text)
    if path.endswith(".toml"):
        mine = tomllib.loads(new)
        assert mine["mcp_servers"].pop("autoresearch")["command"] == "autoresearch"
        assert mine == tomllib.loads(text)
    remove(tmp_path, agent)
    expected = '{\n  "model": "m"\n}\n' if path == "opencode.json" else text
    assert file.read_bytes().decode() == expected


def test_section_is_replaced_where_it_stands(tmp_path: Path) -> None:
    codex, file = find_agent("codex"), tmp_path / "AGENTS.md"
    file.write_text(NOTES)
    install(tmp_path, codex)
    file.write_text(file.read_text() + "\nMore of mine.\n")
    install(tmp_path, codex, "uv run autoresearch")
    text = file.read_text()
    assert text.startswith(NOTES)
    assert text.endswith("\nMore of mine.\n")
    assert "`uv run autoresearch status`" in text
    assert "`autoresearch status`" not in text
    remove(tmp_path, codex)
    assert file.read_text() == f"{NOTES}\n\nMore of mine.\n"


@pytest.mark.parametrize(
    ("name", "path", "text", "fault"),
    [
        ("claude", ".claude/skills/autoresearch/SKILL.md", "mine", "was not written by this program"),
        ("claude", ".mcp.json", '{"mcpServers": {}} // mine', "is not valid JSON"),
        ("opencode", "opencode.json", '{\n  // mine\n  "model": "m"\n}', "has comments"),
        ("codex", ".codex/config.toml", "model = ", "is not valid TOML"),
        ("codex", ".codex/config.toml", f"a = {'9' * 5000}", "is not valid TOML"),
        ("codex", ".codex/config.toml", '[mcp_servers.autoresearch]\ncommand = "x"\n', "has a table"),
        ("claude", ".mcp.json", '{"mcpServers": {"autoresearch": {"command": "x"}}}', "has an entry mcpServers"),
        ("claude", ".mcp.json", '{"mcpServers": {"autoresearch": {"url": "http://192.0.2.7"}}}', "has an entry"),
        ("gemini", ".gemini/settings.json", '{"mcpServers": {"autoresearch": []}}', "has an entry"),
        ("opencode", "opencode.json", '{"mcp": {"autoresearch": {"command": ["./mine", "mcp"]}}}', "has an entry"),
        ("codex", ".codex/config.toml", "mcp_servers = {}\n", "cannot have the table"),
        ("codex", "AGENTS.md", "<!-- autoresearch end -->\n", "needs one line"),
        ("gemini", "GEMINI.md", "\x00\xff", "is not UTF-8 text"),
        ("gemini", "GEMINI.md", "x" * (2**20 + 1), "is larger than 1 MiB"),
    ],
)
def test_unfit_file_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, path: str, text: str, fault: str
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("latin-1"))
    agent = find_agent(name)
    with pytest.raises(AutoresearchError, match=fault):
        install(tmp_path, agent)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [file]
    assert file.read_bytes() == text.encode("latin-1")
    index = [part.path for part in agent.parts("autoresearch")].index(path)
    assert states(tmp_path, agent)[index] in ("unreadable", "missing")


@pytest.mark.parametrize(
    ("name", "path", "key"),
    [
        ("claude", ".mcp.json", "mcpServers"),
        ("gemini", ".gemini/settings.json", "mcpServers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
        ("opencode", "opencode.json", "mcp"),
    ],
)
def test_what_a_user_adds_to_an_entry_stays(tmp_path: Path, name: str, path: str, key: str) -> None:
    agent, file = find_agent(name), tmp_path / path
    install(tmp_path, agent)
    content = json.loads(file.read_text())
    content[key]["autoresearch"] |= {"env": {"K": "v"}, "trust": True}
    file.write_text(json.dumps(content, indent=2) + "\n")
    text = file.read_text()
    assert states(tmp_path, agent)[1] == "installed"
    for program in ("uv run autoresearch", "/opt/my tools/bin/autoresearch", "/usr/bin/python3 -m agent"):
        install(tmp_path, agent, shlex.quote(program) if "tools" in program else program)
        assert states(tmp_path, agent)[1] == "outdated"
        assert "trust" in json.loads(file.read_text())[key]["autoresearch"]
    install(tmp_path, agent)
    assert file.read_text() == text
    assert remove(tmp_path, agent) == ["delete", "delete"]


def test_entry_of_the_user_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / ".mcp.json"
    file.write_text('{"mcpServers": {"autoresearch": {"command": "mine"}}}')
    assert remove(tmp_path, find_agent("claude")) == ["none", "none"]
    strip(tmp_path)
    assert "mine" in file.read_text()


def test_entry_that_the_docs_name_is_ours(tmp_path: Path) -> None:
    """A proposing agent must not find the server of the workspace in its copy."""
    file = tmp_path / ".mcp.json"
    text = '{"mcpServers": {"autoresearch": {"command": "autoresearch", "args": ["-C", "/path/to/recipe", "mcp"]}}}'
    file.write_text(text)
    strip(tmp_path)
    assert not file.exists() or "recipe" not in file.read_text()
    file.write_text(text)
    assert remove(tmp_path, find_agent("claude"))[1] == "delete"


def test_file_that_changed_since_the_question_is_kept(tmp_path: Path) -> None:
    agents, codex = tmp_path / "AGENTS.md", find_agent("codex")
    agents.write_text(NOTES)
    changes = plan(tmp_path, codex.parts("autoresearch"))
    agents.write_text("newer")
    with pytest.raises(AutoresearchError, match="has changed in the meantime"):
        apply(tmp_path, changes)
    assert agents.read_text() == "newer"
    assert [*tmp_path.iterdir()] == [agents]


def test_links_are_followed_inside_the_workspace_only(tmp_path: Path) -> None:
    folder, codex = tmp_path / "workspace", find_agent("codex")
    folder.mkdir()
    (folder / "CLAUDE.md").write_text(NOTES)
    (folder / "AGENTS.md").symlink_to("CLAUDE.md")
    install(folder, codex)
    assert (folder / "AGENTS.md").is_symlink()
    assert "autoresearch try" in (folder / "CLAUDE.md").read_text()
    remove(folder, codex)
    assert (folder / "CLAUDE.md").read_text() == NOTES
    (folder / "CLAUDE.md").write_text("")
    install(folder, codex)
    remove(folder, codex)
    assert (folder / "CLAUDE.md").read_text() == ""
    (tmp_path / "outside").mkdir()
    for path, target in ((".codex", "../outside"), (".codex", ".git"), ("AGENTS.md", "../outside/new.md")):
        (folder / path).unlink(missing_ok=True)
        (folder / ".git").mkdir(exist_ok=True)
        (folder / path).symlink_to(target)
        with pytest.raises(AutoresearchError, match="is a link that leads out") as refused:
            install(folder, codex)
        assert refused.value.exit_code == 3
        assert list((tmp_path / "outside").iterdir()) == list((folder / ".git").iterdir()) == []
        (folder / path).unlink()


def test_file_that_a_link_leads_to_is_emptied_and_names_its_other_agents(tmp_path: Path) -> None:
    codex, gemini = find_agent("codex"), find_agent("gemini")
    install(tmp_path, codex)
    (tmp_path / "GEMINI.md").symlink_to("AGENTS.md")
    assert install(tmp_path, gemini) == ["none", "create"]
    guide, _ = plan(tmp_path, gemini.parts("autoresearch"), remove=True)
    assert (guide.action, guide.shared) == ("change", (codex,))
    assert remove(tmp_path, gemini) == ["change", "delete"]
    assert (tmp_path / "AGENTS.md").read_text() == ""
    assert install(tmp_path, codex) == ["change", "none"]
    assert remove(tmp_path, codex) == ["change", "delete"]  # GEMINI.md would lead to nothing
    assert install(tmp_path, gemini) == ["change", "create"]
    remove(tmp_path, gemini)
    (tmp_path / "GEMINI.md").unlink()
    (tmp_path / "AGENTS.md").unlink()
    install(tmp_path, codex)
    assert [each.shared for each in plan(tmp_path, codex.parts("autoresearch"), remove=True)] == [(), ()]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda each: each.name)
def test_windows_line_ends_stay(tmp_path: Path, agent: Agent) -> None:
    install(tmp_path, agent)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert install(tmp_path, agent) == ["none", "none"]
    assert install(tmp_path, agent, "uv run autoresearch") == ["change", "change"]
    assert all(path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n") for path in files)
    remove(tmp_path, agent)
    assert list(tmp_path.iterdir()) == []


def test_linked_file_of_its_own_is_installed_again(tmp_path: Path) -> None:
    claude, path = find_agent("claude"), tmp_path / ".claude/skills/autoresearch/SKILL.md"
    path.parent.mkdir(parents=True)
    (tmp_path / "SKILL.md").write_text("")
    path.symlink_to(tmp_path / "SKILL.md")
    for _ in range(2):
        assert install(tmp_path, claude)[0] == "change"
        assert remove(tmp_path, claude)[0] == "change"
    assert path.is_symlink()


def test_entries_start_the_server(tmp_path: Path) -> None:
    for agent in AGENTS:
        install(tmp_path, agent, "uv run autoresearch")
    for path in (".mcp.json", ".gemini/settings.json", ".cursor/mcp.json"):
        entry = json.loads((tmp_path / path).read_text())["mcpServers"]["autoresearch"]
        assert [entry["command"], *entry["args"][:2], entry["args"][-1]] == ["uv", "run", "autoresearch", "mcp"]
    entry = json.loads((tmp_path / "opencode.json").read_text())["mcp"]["autoresearch"]
    assert entry["command"] == ["uv", "run", "autoresearch", "mcp"]
    entry = tomllib.loads((tmp_path / ".codex" / "config.toml").read_text())["mcp_servers"]["autoresearch"]
    assert [entry["command"], *entry["args"]] == ["uv", "run", "autoresearch", "mcp"]


def test_copy_for_a_proposing_agent_is_stripped(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES)
    (tmp_path / ".mcp.json").write_text("damaged")
    for agent in AGENTS[1:]:
        install(tmp_path, agent)
    strip(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mcp.json", "AGENTS.md"]
    assert (tmp_path / "AGENTS.md").read_text() == NOTES


def test_guide_is_short_and_names_commands_that_exist() -> None:
    text = guide("autoresearch")
    assert len(text.splitlines()) < 80
    assert all(len(line) <= 100 for line in text.splitlines())
    for command in ("status", "try", "wait", "show", "diff", "log", "confirm", "adopt"):
        assert f"## autoresearch {command}" in (ROOT / "docs" / "cli.md").read_text(), command
        assert f"autoresearch {command}" in text
