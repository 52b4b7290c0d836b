"""Repositories of real users: rows of other tools, names with a special meaning for git, conflicting branches."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.errors import AutoresearchError, PreconditionError, Violation
from agent.journal.paths import journal_path
from agent.protocol.load import load_protocol
from agent.repository import excludes
from agent.repository.checkout import Checkout
from agent.repository.ready import require_clean, require_unedited
from agent.repository.workspace import Workspace
from tests.common.processes import other_git
from tests.common.workspaces import Cli, commit, commit_all, commit_many, git, go, quick_protocol, repository

THEIRS = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\nabc1234\t2.100000\t26.9\tkeep\tsomebody's\n"


@pytest.mark.parametrize("ending", ["", "# no last newline\t0\t0\tkeep\tx"])
def test_rows_of_others_stay_above_ours(quick: Path, cli: Cli, ending: str) -> None:
    (quick / "results.tsv").write_text(THEIRS + ending)
    commit(quick)
    go(cli, quick)
    text = (quick / "results.tsv").read_text()
    assert text.startswith(THEIRS + ending)
    assert text.count("val_bpb") == 1
    with (quick / "results.tsv").open(newline="") as file:
        described = [row["description"] for row in csv.DictReader(file, delimiter="\t")]
    assert described[0] == "somebody's"
    assert described[-3] == "baseline"
    assert "has all rows of the journal (3)" in cli(quick, "doctor").stdout


def test_rows_of_an_earlier_session_stay_above_those_of_one_that_begins_on_its_branch(quick: Path, cli: Cli) -> None:
    go(cli, quick, "first")
    first = (quick / "results.tsv").read_text()
    go(cli, quick, "second")
    second = (quick / "results.tsv").read_text()
    assert second.startswith(first)
    assert len(second.splitlines()) == len(first.splitlines()) + 3


def test_rows_that_are_no_text_keep_their_bytes(quick: Path, cli: Cli) -> None:
    theirs = THEIRS.encode() + b"abc\t1\t1\tkeep\tr\xe9glage\r\n"
    (quick / "results.tsv").write_bytes(theirs)
    git(quick, "config", "core.autocrlf", "false")
    commit(quick)
    go(cli, quick)
    assert (quick / "results.tsv").read_bytes().startswith(theirs)


@pytest.mark.parametrize(
    "content", ["step,loss\n1,2.0\n", "commit\tval_bpb\nabc\t1\n", "notes of mine\n", "x" * 200_000]
)
def test_rows_in_other_columns_are_refused_with_what_to_do(quick: Path, cli: Cli, content: str) -> None:
    (quick / "results.tsv").write_text(content)
    commit(quick)
    for more in (["--dry-run"], []):
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *more)
        assert done.returncode == 3
        assert "git mv results.tsv earlier-results.tsv" in done.stderr
    assert (quick / "results.tsv").read_text() == content
    assert git(quick, "branch", "--show-current") == "main"


@pytest.mark.parametrize("name", ["autoresearch/t", "t", "main", "HEAD"])
def test_a_tag_called_like_a_branch_is_in_nobody_s_way(quick: Path, cli: Cli, name: str) -> None:
    git(quick, "tag", name)
    go(cli, quick)
    go(cli, quick, count=3)
    assert git(quick, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/t"
    assert len((quick / "results.tsv").read_text().splitlines()) == 5
    git(quick, "switch", "--quiet", "main")
    go(cli, quick, count=4)
    assert git(quick, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/t"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (("branch", "autoresearch"), "git branch -m autoresearch NAME"),
        (("branch", "autoresearch/t"), "`git branch -D autoresearch/t"),
        (("switch", "--quiet", "-c", "autoresearch/t"), "`git switch --detach && git branch -D autoresearch/t`"),
        (("branch", "autoresearch/t/more"), "git branch -m autoresearch/t/more NAME"),
        (("update-ref", "refs/autoresearch", "HEAD"), "while refs/autoresearch exists"),
        (("update-ref", "refs/autoresearch/t", "HEAD"), "while refs/autoresearch/t exists"),
        (
            ("update-ref", "refs/autoresearch/t/1", "HEAD"),
            "of a session that no longer exists here",
        ),
    ],
)
def test_a_name_in_the_way_is_found_before_a_session_begins(
    quick: Path, cli: Cli, make: tuple[str, ...], words: str
) -> None:
    git(quick, *make)
    for more in (["--dry-run"], []):
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *more)
        assert done.returncode == 3
        assert words in done.stderr
    assert not (quick / ".autoresearch" / "sessions" / "t" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("make", "helps"),
    [
        (("branch", "autoresearch"), "or commit another branchPattern in protocol.json"),
        (("branch", "autoresearch/t/more"), "or choose another --tag"),
        (("update-ref", "refs/autoresearch", "HEAD"), "rename refs/autoresearch\n"),
        (("update-ref", "refs/autoresearch/t", "HEAD"), "or choose another --tag"),
    ],
)
def test_hint_about_a_name_in_the_way_names_what_helps(
    quick: Path, cli: Cli, make: tuple[str, ...], helps: str
) -> None:
    git(quick, *make)
    done = cli(quick, "run", "--tag", "t", "--dry-run")
    assert helps in done.stderr
    assert ("--tag" in done.stderr) == ("--tag" in helps)


def test_a_branch_pattern_that_git_does_not_take_is_refused(quick: Path, cli: Cli) -> None:
    protocol = quick_protocol()
    protocol["provenance"]["gitWorkflow"]["branchPattern"] = "lab/<tag>..now"
    (quick / "protocol.json").write_text(json.dumps(protocol))
    commit(quick)
    done = cli(quick, "run", "--tag", "t", "--dry-run")
    assert done.returncode in (2, 3)
    assert "branch" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("_x.py", "-x.py", "~x.py", ":x.py"),
        *(pytest.param(f"{sign}x.py", marks=pytest.mark.slow) for sign in "@#=%^!"),
    ],
)
def test_a_path_is_a_path_whatever_it_begins_with(quick: Path, cli: Cli, name: str) -> None:
    protocol = quick_protocol()
    protocol["mutableSurface"]["allowedGlobs"] = [name]
    protocol["execution"]["command"] = protocol["execution"]["command"].replace("train.py", f"./{name}")
    (quick / "protocol.json").write_text(json.dumps(protocol))
    (quick / "train.py").rename(quick / name)
    commit(quick)
    go(cli, quick, count=3)
    assert len((quick / "results.tsv").read_text().splitlines()) == 5
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert name in cli(quick, "diff", "1").stdout


def test_git_s_variables_of_a_hook_lead_to_no_other_repository(quick: Path, cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs.txt").write_text("theirs")
    git(other, "init", "--quiet")
    git(other, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--allow-empty", "-m", "theirs")
    before = git(other, "for-each-ref") + git(other, "status", "--porcelain")
    hostile = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects"),
        "GIT_NAMESPACE": "elsewhere",
        "GIT_PREFIX": "sub/",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": str(other),
        "GIT_GLOB_PATHSPECS": "1",
    }
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2", **hostile).returncode == 0
    assert git(other, "for-each-ref") + git(other, "status", "--porcelain") == before
    assert git(quick, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/t"
    for command in (["status"], ["doctor"], ["diff"], ["report"]):
        assert cli(quick, *command, **hostile).returncode == 0


@pytest.mark.parametrize("by", ["configuration", "configuration of roles", "numbered variables", "address variable"])
def test_commits_have_the_names_that_git_would_give_them(
    quick: Path, by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"user.name": "User", "user.email": "u@example.invalid"}
    if by == "configuration of roles":
        settings |= {"author.name": "Pseudonym", "author.email": "p@x.invalid", "committer.name": "Committer"}
    git(quick, "config", "--remove-section", "user")
    if by == "numbered variables":
        hooks = {"core.worktree": str(tmp_path), "core.sshCommand": "false", "alias.status": "!false"}
        for i, (key, value) in enumerate({**hooks, **settings}.items()):
            monkeypatch.setenv(f"GIT_CONFIG_KEY_{i}", key)
            monkeypatch.setenv(f"GIT_CONFIG_VALUE_{i}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", "5")
    else:
        if by == "address variable":
            monkeypatch.setenv("EMAIL", settings.pop("user.email"))
        for key, value in settings.items():
            git(quick, "config", key, value)
    workspace = Workspace(quick, load_protocol(quick))
    assert sorted(key for name, key in os.environ.items() if name.startswith("GIT_CONFIG_KEY_")) == (
        ["user.email", "user.name"] if by == "numbered variables" else []
    )
    ours = workspace.commit_files(workspace.head, {"train.py": "RATE = 0.3\n"}, "ours")
    git(quick, "commit", "--quiet", "--allow-empty", "-m", "mine")
    names = git(quick, "log", "-1", "--format=%an <%ae> %cn <%ce>")
    assert git(quick, "log", "-1", "--format=%an <%ae> %cn <%ce>", ours) == names
    assert workspace.author is not None
    assert names.startswith(workspace.author)


def test_a_session_goes_on_beside_notes_of_a_person(quick: Path, cli: Cli) -> None:
    for name in ("program.md", "docs/ideas.md"):
        (quick / name).parent.mkdir(exist_ok=True)
        (quick / name).write_text("try a larger rate\n")
    commit(quick)
    go(cli, quick)
    for name in ("program.md", "docs/ideas.md"):
        (quick / name).write_text("try a smaller rate\n")
    go(cli, quick, count=4)
    assert (quick / "program.md").read_text() == (quick / "docs/ideas.md").read_text() == "try a smaller rate\n"
    assert git(quick, "show", "HEAD:program.md") == "try a larger rate"
    assert len((quick / "results.tsv").read_text().splitlines()) == 6


@pytest.mark.parametrize("name", ["train.py", "prepare.py", "protocol.json"])
def test_changes_of_what_is_measured_are_refused_when_a_session_goes_on(quick: Path, cli: Cli, name: str) -> None:
    go(cli, quick)
    text = (quick / name).read_text() + "\n"
    (quick / name).write_text(text)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 3
    assert (quick / name).read_text() == text


FILTER = {
    "clean": "sed s/smudged/plain/",
    "smudge": "sed s/plain/smudged/",
    "required": "true",
}


@pytest.mark.parametrize(
    ("attributes", "config"),
    [
        ("*.py text eol=crlf\n*.tsv text eol=crlf\n", {}),
        ("* text=auto\n", {"core.autocrlf": "true"}),
        pytest.param("* text=auto\n", {"core.eol": "crlf"}, marks=pytest.mark.slow),
        pytest.param("*.py ident\n", {}, marks=pytest.mark.slow),
        ("*.py filter=own\n", {f"filter.own.{name}": value for name, value in FILTER.items()}),
        ("*.py working-tree-encoding=UTF-16\n", {}),
        pytest.param("*.tsv merge=union diff=none -text\n", {}, marks=pytest.mark.slow),
    ],
)
def test_what_git_makes_of_bytes_on_their_way_to_the_checkout_dirties_nothing(
    quick: Path, cli: Cli, attributes: str, config: dict[str, str]
) -> None:
    for name, value in config.items():
        git(quick, "config", name, value)
    text = (quick / "train.py").read_text().replace('"""Prints', '"""$Id$ plain Prints')
    (quick / "train.py").write_text(text, newline="\n", encoding="utf-16" if "UTF-16" in attributes else "utf-8")
    if "UTF-16" in attributes:  # Python reads no such program: the checkout alone is in it
        protocol = quick_protocol()
        protocol["execution"]["command"] = "sh -c 'iconv -f UTF-16 -t UTF-8 train.py | python3'"
        (quick / "protocol.json").write_text(json.dumps(protocol))
        (quick / "prepare.py").write_text("HARNESS = True\n", encoding="utf-16")
    (quick / ".gitattributes").write_text(attributes)
    commit(quick)
    git(quick, "rm", "--quiet", "-r", "--cached", ".")
    git(quick, "reset", "--quiet", "--hard")
    go(cli, quick, count=6)
    assert git(quick, "status", "--porcelain") == ""
    go(cli, quick, count=7)
    assert len(git(quick, "show", "HEAD:results.tsv").splitlines()) == 9
    # A candidate differs from the baseline only in its own change.
    assert git(quick, "diff", "--stat", "main", "refs/autoresearch/t/1", "--", "train.py").endswith(
        "1 insertion(+), 1 deletion(-)"
    )


@pytest.mark.parametrize("name", ["run.log", "__pycache__/x.cpython-311.pyc", "docs/run.log", "junit.xml"])
def test_a_tracked_file_that_runs_write_stays_as_it_is(quick: Path, cli: Cli, name: str) -> None:
    (quick / name).parent.mkdir(exist_ok=True)
    (quick / name).write_bytes(b"theirs\n")
    git(quick, "add", "--force", name)
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(f"{text}open({name!r}, 'w').write('a run was here')\n".replace("sys.exit(0)", ""))
    commit(quick)
    go(cli, quick, count=3)
    assert (quick / name).read_bytes() == b"theirs\n"
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert len((quick / "results.tsv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "settings",
    [
        {
            "diff.noprefix": "true",
            "color.ui": "always",
            "diff.external": "false",
            "diff.relative": "true",
            "core.splitIndex": "true",
            "core.untrackedCache": "true",
            "index.version": "4",
            "core.abbrev": "no",
            "checkout.guess": "false",
            "branch.autoSetupMerge": "always",
            "advice.detachedHead": "true",
        },
        {
            "diff.mnemonicPrefix": "true",
            "i18n.commitEncoding": "ISO-8859-1",
            "commit.gpgSign": "true",
            "core.sparseCheckout": "true",
            "status.showUntrackedFiles": "all",
            "core.quotePath": "true",
        },
    ],
)
def test_how_a_person_likes_git_changes_nothing(quick: Path, cli: Cli, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        git(quick, "config", name, value)
    text = (quick / "train.py").read_text().replace('"""Prints', '"""λ Prints')
    (quick / "train.py").write_text(text)
    git(quick, "-c", "commit.gpgSign=false", "commit", "--quiet", "-am", "theirs")
    go(cli, quick, count=4)
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    patch = cli(quick, "diff", "1").stdout
    (quick.parent / "patch").write_text(patch)
    git(quick, "checkout", "--quiet", "--detach", "main")
    git(quick, "apply", str(quick.parent / "patch"))
    assert git(quick, "diff", "--no-ext-diff", "--no-color", "refs/autoresearch/t/1", "--", "train.py") == ""


def test_a_repository_with_hashes_of_sha_256(tmp_path: Path, quick: Path, cli: Cli) -> None:
    folder = tmp_path / "sha256"
    folder.mkdir()
    for name in ("protocol.json", "train.py", "prepare.py", "pyproject.toml"):
        (folder / name).write_bytes((quick / name).read_bytes())
    git(folder, "init", "--quiet", "--object-format=sha256", "--initial-branch", "main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@example.invalid")
    commit(folder)
    go(cli, folder, count=4)
    go(cli, folder, count=5)
    assert git(folder, "status", "--porcelain") == ""
    assert cli(folder, "doctor").returncode == 0
    assert cli(folder, "show", "1").returncode == 0


@pytest.mark.parametrize("name", ["autoresearch", "autoresearch/t/a(b)&c"])
def test_a_branch_in_the_way_is_renamed_by_the_hint(quick: Path, cli: Cli, name: str) -> None:
    git(quick, "branch", name)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    (command,) = re.findall("`(git [^`]*)`", done.stderr)
    subprocess.run(command.replace("NAME", "mine"), shell=True, cwd=quick, check=True)
    go(cli, quick, count=1)


@pytest.mark.parametrize(
    ("mode", "says"), [("auto", "cannot follow it"), ("off", "can follow it, because the sandbox")]
)
def test_a_tracked_link_to_keys_is_named(quick: Path, cli: Cli, mode: str, says: str) -> None:
    (quick.parent / ".ssh").mkdir()
    (quick / "k").symlink_to("../.ssh")
    commit(quick)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0", "--sandbox", mode)
    assert done.returncode == 0, done.stderr
    assert f"k may lead to keys: runs {says}" in done.stderr


def test_what_a_tracked_link_shows_to_runs_is_named(quick: Path, cli: Cli) -> None:
    (quick.parent / "corpus").mkdir()
    (quick / "data").symlink_to("../corpus")
    (quick / "same.py").symlink_to("train.py")
    commit(quick)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    assert f"runs see what tracked links lead to: data -> {(quick.parent / 'corpus').resolve()}\n" in done.stderr


def test_an_untracked_file_in_the_way_of_a_folder_is_named(quick: Path) -> None:
    workspace, main = Workspace(quick, load_protocol(quick)), git(quick, "branch", "--show-current")
    (quick / "lib").write_text("mine\n")
    with pytest.raises(PreconditionError, match="another lib, which git does not track"):
        require_unedited(workspace, main, {"lib/deep/extra.py": "extra = 1\n"})
    (quick / "lib").unlink()
    (quick / "lib").symlink_to(quick.parent)
    with pytest.raises(PreconditionError, match="another lib, which git does not track"):
        require_unedited(workspace, main, {"lib/extra.py": "extra = 1\n"})
    (quick / "lib").unlink()
    (quick / "lib").mkdir()
    require_unedited(workspace, main, {"lib/deep/extra.py": "extra = 1\n"})


@pytest.mark.parametrize("begin", [("merge", "--no-ff", "--no-commit", "other"), ("bisect", "start")])
def test_an_unfinished_operation_is_refused_beside_files_to_commit(quick: Path, begin: tuple[str, ...]) -> None:
    workspace, text = Workspace(quick, load_protocol(quick)), "RATE = 0.3\n"
    git(quick, "switch", "--quiet", "-c", "other")
    git(quick, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    git(quick, "switch", "--quiet", "main")
    git(quick, *begin)
    (quick / "train.py").write_text(text)
    with pytest.raises(PreconditionError, match="git is in the middle of a merge"):
        require_unedited(workspace, "main", {"train.py": text})
    # Nothing of the operation is on another branch.
    require_unedited(workspace, "other", {"train.py": text})


@pytest.mark.parametrize("name", ["playbook.md", "train.py"])
def test_conflicts_that_a_stash_left_are_refused_before_a_session_exists(quick: Path, cli: Cli, name: str) -> None:
    path = quick / name
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}# one\n")
    commit_all(quick, "first", name)
    path.write_text(f"{text}# two\n")
    git(quick, "stash", "--quiet")
    path.write_text(f"{text}# three\n")
    commit_all(quick, "second", name)
    with pytest.raises(subprocess.CalledProcessError):
        git(quick, "stash", "pop", "--quiet")
    for command in (("run", "--tag", "t", "--max-experiments", "1"), ("try", "--tag", "t")):
        done = cli(quick, *command)
        assert done.returncode == 3, done.stderr
        assert f"the working tree has unresolved conflicts ({name})" in done.stderr
        assert "hint: resolve them and `git add` the files, then run the same command again" in done.stderr
    assert not journal_path(quick, "t").exists()
    git(quick, "checkout", "--quiet", "--ours", "--", name)
    git(quick, "add", "--", name)
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0


@pytest.mark.parametrize("setting", [("core.autocrlf", "true"), ("core.eol", "crlf")])
def test_files_to_commit_are_no_changes_in_other_line_ends(quick: Path, setting: tuple[str, str]) -> None:
    """A kept edit of `try`, or a killed `adopt`, leaves them in the checkout."""
    git(quick, "config", *setting)
    (quick / ".git" / "info" / "attributes").write_text("*.py text\n")
    workspace = Workspace(quick, load_protocol(quick))
    (quick / "train.py").write_bytes(b"RATE = 0.3\r\n")
    require_unedited(workspace, "main", {"train.py": "RATE = 0.3\n"})
    with pytest.raises(PreconditionError, match="uncommitted changes"):
        require_unedited(workspace, "main", {"train.py": "RATE = 0.2\n"})


def test_the_hint_for_a_changed_submodule_works(quick: Path, tmp_path: Path) -> None:
    """Git stashes nothing of a submodule."""
    module, own = repository(tmp_path / "module", {"a.txt": "a\n"}), quick / "module"
    git(quick, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(module), "module")
    git(quick, "commit", "--quiet", "-m", "module")
    workspace = Workspace(quick, load_protocol(quick))
    require_clean(workspace)
    (own / "a.txt").write_text("mine\n")
    with pytest.raises(PreconditionError, match=r"uncommitted changes \(module\)") as refused:
        require_clean(workspace)
    assert "stash` inside of module, and commit it here or run `git" in refused.value.hint
    git(own, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-am", "mine")
    (quick / "prepare.py").write_text("HARNESS = 2\n")
    with pytest.raises(PreconditionError, match=r"uncommitted changes \(module, prepare.py\)") as refused:
        require_clean(workspace)
    assert refused.value.hint.startswith("commit or `git stash` the other files; ")
    assert "submodule update`" in refused.value.hint
    git(quick, "stash", "--quiet")
    git(quick, "submodule", "--quiet", "update")
    require_clean(workspace)


@pytest.mark.parametrize(
    "files",
    [{"notes/a.py": "x = 1\n"}, {"package": "x = 1\n"}, {"new": "x = 1\n", "new/a.py": "x = 1\n"}],
    ids=["folder-over-file", "file-over-folder", "both-new"],
)
def test_candidate_takes_no_file_away_for_a_name_that_it_needs(quick: Path, files: dict[str, str]) -> None:
    rules = quick_protocol()
    rules["mutableSurface"]["allowedGlobs"] = ["**/*", "package", "new"]
    (quick / "protocol.json").write_text(json.dumps(rules))
    (quick / "notes").write_text("mine\n")
    (quick / "package").mkdir()
    (quick / "package" / "model.py").write_text("x = 1\n")
    commit(quick)
    workspace = Workspace(quick, load_protocol(quick))
    with pytest.raises(AutoresearchError, match="update-index"):
        workspace.commit_candidate("refs/t/1", workspace.head, files, "a try")
    assert workspace.resolve("refs/t/1") is None


def test_text_that_its_encoding_lacks_is_refused(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    texts = {"train.py": "# coding: latin-1\nprint('\u2014')\n"}
    said = r"changes train.py with '\\u2014', which its encoding latin-1 lacks"
    with pytest.raises(Violation, match=said):
        workspace.commit_candidate("refs/t/1", workspace.head, texts, "")
    with pytest.raises(PreconditionError, match=said):
        workspace.commit_files(workspace.head, texts, "")


def test_new_file_in_a_submodule_is_refused(quick: Path, tmp_path: Path) -> None:
    rules = quick_protocol()
    rules["mutableSurface"]["allowedGlobs"] = ["train.py", "**/*.py"]
    (quick / "protocol.json").write_text(json.dumps(rules))
    commit(quick)
    git(quick, "clone", "--quiet", str(quick), str(tmp_path / "lib"))
    git(quick, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "lib"), "lib")
    commit(quick)
    workspace = Workspace(quick, load_protocol(quick))
    for path in ("lib/new.py", "lib/deep/new.py"):
        with pytest.raises(Violation, match=f"changes {path}, which is in the submodule lib"):
            workspace.commit_candidate("refs/t/1", workspace.head, {path: "x = 1\n"}, "a try")
    workspace.commit_candidate("refs/t/1", workspace.head, {"library/new.py": "x = 1\n"}, "a try")


def test_patterns_of_the_user_stay_as_they_are(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """Whatever their encoding and their last line, and if the file is a link."""
    exclude = quick / ".git" / "info" / "exclude"
    exclude.unlink()
    exclude.symlink_to(tmp_path / "mine")
    own = "gr\u00fc\u00dfe*\x0b\n".encode("latin-1") + b"*.bak"
    (tmp_path / "mine").write_bytes(own)
    (quick / ".gitignore").write_text("data/\n")
    commit(quick)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_bytes() == own + b"\n/.autoresearch/\n/run.log\n"
    assert exclude.is_symlink()
    excludes.exclude(Workspace(quick, load_protocol(quick)), [".autoresearch/", "run.log"])
    assert (tmp_path / "mine").read_bytes().count(b"run.log") == 1


@pytest.mark.parametrize("below", [".", "sub folder/[x]"])
def test_what_a_gitignore_names_is_not_excluded_once_more(quick: Path, below: str) -> None:
    """Neither the folder nor the log exists yet."""
    workspace = quick / below
    if below != ".":
        shutil.copytree(quick, workspace, ignore=shutil.ignore_patterns(".git", "sub folder"))
    exclude = quick / ".git" / "info" / "exclude"
    (quick / ".gitignore").write_text(".autoresearch/\n")
    commit(quick)
    before = exclude.read_text()
    there = Workspace(workspace, load_protocol(workspace))
    excludes.exclude(there, [".autoresearch/", "run.log"])
    assert exclude.read_text() == before + ("/run.log\n" if below == "." else "/sub\\ folder/\\[x]/run.log\n")
    (workspace / "run.log").write_text("")
    (quick / "other").mkdir()
    (quick / "other" / "run.log").write_text("mine\n")
    assert git(quick, "status", "--porcelain", "--untracked-files=all") == "?? other/run.log"
    (quick / "other" / "run.log").unlink()
    (quick / ".gitignore").write_text(".autoresearch/\n*.log\n")
    exclude.write_text(before)
    excludes.exclude(there, [".autoresearch/", "run.log"])
    assert exclude.read_text() == before


def test_changes_of_many_commits_are_their_diffs(quick: Path) -> None:
    texts = [f"RATE = {n}\n{n:040x}\n" for n in range(1, 4)]  # a line like a hash is no border between diffs
    commits = commit_many(quick, texts)
    workspace = Workspace(quick, load_protocol(quick))
    missing = "f" * 40
    found = workspace.changes([commits[0], missing, *commits])
    assert set(found) == set(commits)
    for each in commits:
        assert found[each].strip() == workspace.diff(f"{each}^", each).strip()
    (quick / "results.tsv").write_text("row\n")
    git(quick, "add", "results.tsv")
    git(quick, "commit", "--quiet", "-m", "only a row")
    assert not any(workspace.changes([git(quick, "rev-parse", "HEAD")]).values())
    assert workspace.changes([]) == {}


def test_a_git_of_2021_is_enough(quick: Path, program: Cli, tmp_path: Path) -> None:
    """`git worktree list -z` came with 2.36, `rev-parse --path-format` with 2.31."""
    other_git(tmp_path / "bin", '*" worktree list "*" -z "*|*" --path-format"*', "error: unknown switch", 129)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = program(quick, "run", "--tag", "t", "--max-experiments", "2", PATH=path)
    assert done.returncode == 0, done.stderr
    assert git(quick, "rev-list", "--count", "main..autoresearch/t") != "0"


def test_an_older_git_is_refused(quick: Path, program: Cli, tmp_path: Path) -> None:
    other_git(tmp_path / "bin", '*" version "*', "git version 2.25.1", 0)
    done = program(quick, "run", "--tag", "t", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 3
    assert "error: git 2.25 is too old: 2.29 or later is needed" in done.stderr


@pytest.mark.parametrize("call", ["rev-parse --verify --quiet", "symbolic-ref --quiet"])
def test_a_git_that_is_killed_says_nothing_about_a_branch(quick: Path, tmp_path: Path, call: str) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    other_git(tmp_path / "bin", f'*" {call} "*', "", 0, kill="kill -9 $$;")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        other = Workspace(quick, workspace.protocol)
        with pytest.raises(AutoresearchError, match="failed in"):
            _ = other.resolve("refs/heads/main") if "verify" in call else Checkout(other).branch
    assert workspace.resolve("refs/heads/none") is None
    git(quick, "switch", "--quiet", "--detach")
    assert Checkout(workspace).branch is None
