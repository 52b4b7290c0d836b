"""The guide: one text for all agents, in the form that each of them reads."""

from __future__ import annotations

from importlib import resources

from agent.system.invocation import NAME

DESCRIPTION = (
    "Measure edits of train.py as experiments with autoresearch, and keep those that beat the noise. Use it when the "
    "user asks to improve, tune or research the recipe of this folder, or whether an edit of it is better."
)
# It is in each file that belongs to the program as a whole. Files without it belong to the user.
MARK = f"Written by `{NAME} skill`, which can remove it."


def guide(program: str) -> str:
    """Return the text, with its commands as they work in the workspace.

    Args:
        program: what starts this program there: "autoresearch", "uv run autoresearch" or a path.
    """
    text = resources.files("agent.skill").joinpath("guide.md").read_text(encoding="utf-8")
    return (
        text
        if program == NAME
        else text.replace(f"`{NAME} ", f"`{program} ").replace(f"    {NAME} ", f"    {program} ")
    )


def skill_file(program: str) -> str:
    """Return the guide as a skill: https://agentskills.io/specification."""
    return f"---\nname: {NAME}\ndescription: {DESCRIPTION}\n---\n\n<!-- {MARK} -->\n\n{guide(program)}"


def cursor_rule(program: str) -> str:
    """Return the guide as a rule that Cursor applies if its description fits the task."""
    return f"---\ndescription: {DESCRIPTION}\nalwaysApply: false\n---\n\n<!-- {MARK} -->\n\n{guide(program)}"
