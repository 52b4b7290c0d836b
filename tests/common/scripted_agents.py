"""Real coding agents from the package registry, each with a scripted model on loopback in place of its provider.

A script is a generator: it yields what the model wants to do, and gets the text that the agent's tool returned.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.common.model_server import Body, streamed

LONGEST_RUN = 300  # seconds
INSTALL_SECONDS = 600
DONE = "The experiments are done."


@dataclass(frozen=True)
class Call:
    """A call of one of the agent's tools.

    Attributes:
        space: group of the tool, for APIs that have groups.
    """

    tool: str
    arguments: dict[str, Any]
    space: str = ""


Script = Generator[Call, str, None]


@dataclass
class ScriptedModel:
    """A model that makes the calls of a script, in the format of one API.

    Attributes:
        script: the calls.
        calls: those that it has made.
        results: what the agent's tools returned, as the agent sent it to the model.
        bodies: every request of the conversation.
    """

    script: Script
    calls: list[Call] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    ended: bool = False

    @abstractmethod
    def found(self, body: Body) -> list[str]:
        """Return the results of all calls in a request."""

    @abstractmethod
    def events(self, number: int, call: Call | None) -> Iterator[Any]:
        """Yield the events of a streamed answer: a call, or the last words."""

    def answer(self, body: Body) -> Callable[[Any], None]:
        call: Call | None = None
        if body.get("tools"):  # agents also ask for titles and summaries, without tools
            self.bodies.append(body)
            call = self._next(self.found(body))
        return streamed(*self.events(len(self.calls), call))

    def _next(self, results: list[str]) -> Call | None:
        if len(results) < len(self.calls):  # a request that is repeated gets the same answer
            return self.calls[len(results)]
        self.results = results
        try:
            call = self.script.send(results[-1]) if results else next(self.script)
        except StopIteration:
            self.ended = True
            return None
        self.calls.append(call)
        return call


class AnthropicModel(ScriptedModel):
    """Messages: https://docs.anthropic.com/en/api/messages-streaming."""

    def found(self, body: Body) -> list[str]:
        blocks = [block for message in body["messages"] for block in message["content"] if isinstance(block, dict)]
        return [text_of(block["content"]) for block in blocks if block["type"] == "tool_result"]

    def events(self, number: int, call: Call | None) -> Iterator[Any]:
        usage = {"input_tokens": 10, "output_tokens": 5}
        message: Body = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "m", "content": []}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield {"type": "message_start", "message": message}
        block: Body
        if call is None:
            block, part = {"type": "text", "text": ""}, {"type": "text_delta", "text": DONE}
        else:
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": call.tool, "input": {}}
            part = {"type": "input_json_delta", "partial_json": json.dumps(call.arguments)}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        yield {"type": "content_block_delta", "index": 0, "delta": part}
        yield {"type": "content_block_stop", "index": 0}
        reason = "end_turn" if call is None else "tool_use"
        yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
        yield {"type": "message_stop"}


class ResponsesModel(ScriptedModel):
    """Responses: https://platform.openai.com/docs/api-reference/responses-streaming."""

    def found(self, body: Body) -> list[str]:
        return [text_of(item["output"]) for item in body["input"] if item["type"] == "function_call_output"]

    def events(self, number: int, call: Call | None) -> Iterator[Any]:
        yield {"type": "response.created", "response": {"id": f"resp_{number}"}}
        item: dict[str, Any]
        if call is None:
            content = [{"type": "output_text", "text": DONE}]
            item = {"type": "message", "role": "assistant", "id": f"msg_{number}", "content": content}
        else:
            item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": call.tool}
            item |= {"arguments": json.dumps(call.arguments), **({"namespace": call.space} if call.space else {})}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        yield {"type": "response.completed", "response": {"id": f"resp_{number}", "usage": usage}}


class ChatModel(ScriptedModel):
    """Chat completions: https://platform.openai.com/docs/api-reference/chat-streaming."""

    def found(self, body: Body) -> list[str]:
        return [text_of(message["content"]) for message in body["messages"] if message["role"] == "tool"]

    def events(self, number: int, call: Call | None) -> Iterator[Any]:
        delta: dict[str, Any] = {"role": "assistant", "content": DONE}
        if call is not None:
            function = {"name": call.tool, "arguments": json.dumps(call.arguments)}
            made = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
            delta = {"role": "assistant", "content": None, "tool_calls": [made]}
        rest = {"id": f"chat_{number}", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        reason = "stop" if call is None else "tool_calls"
        yield {**rest, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {**rest, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        yield {**rest, "choices": [], "usage": usage}
        yield "[DONE]"


class GeminiModel(ScriptedModel):
    """Generate content: https://ai.google.dev/api/generate-content."""

    def found(self, body: Body) -> list[str]:
        parts = [part for content in body["contents"] for part in content["parts"]]
        return [text_of(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]

    def events(self, number: int, call: Call | None) -> Iterator[Any]:
        part: Body = {"text": DONE} if call is None else {"functionCall": {"name": call.tool, "args": call.arguments}}
        answer = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        yield {"candidates": [answer], "usageMetadata": usage, "responseId": f"answer_{number}"}


def text_of(content: Any) -> str:
    """Return the text of a tool's result: a text, or a list of blocks."""
    if isinstance(content, list):
        return "\n".join(text_of(each) for each in content)
    if isinstance(content, dict):
        return str(content.get("text") or content.get("output") or json.dumps(content))
    return str(content)


class RealAgent:
    """An agent of the registry, and how a model uses its tools.

    Attributes:
        name: what `autoresearch skill` calls it.
        package: its package, with its version.
        model: the API that it speaks.
    """

    name: str
    package: str
    model: type[ScriptedModel]

    @abstractmethod
    def set_up(self, home: Path, folder: Path, url: str, mcp: bool, /) -> tuple[list[str], dict[str, str]]:
        """Write its settings. Return the arguments and variables with which it starts on its prompt.

        Args:
            mcp: whether it measures over MCP, and so needs less permission.
        """

    @abstractmethod
    def read_guide(self, folder: Path, /) -> Iterator[Call]:
        """Yield the calls that read the guide of a workspace; none if it is in each prompt."""

    @abstractmethod
    def edit(self, file: Path, old: str, new: str) -> Iterator[Call]:
        """Yield the calls that replace a text in a file."""

    @abstractmethod
    def shell(self, command: str) -> Generator[Call, str, str]:
        """Run a command to its end, and return its output."""

    @abstractmethod
    def mcp(self, tool: str, arguments: dict[str, Any]) -> Generator[Call, str, str]:
        """Call a tool of the server `autoresearch`, and return its result."""

    def install(self, folder: Path) -> Path:
        """Install its package, and return its program."""
        folder.mkdir()
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), self.package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return folder / "node_modules" / ".bin" / self.name

    def run(self, program: Path, home: Path, folder: Path, url: str, *, mcp: bool) -> subprocess.CompletedProcess[str]:
        """Start the agent in a workspace with a new home folder, and wait for its end."""
        home.mkdir()
        # Some start a login shell, for which the system's profile sets PATH anew.
        (home / ".profile").write_text(f"export PATH={shlex.quote(os.environ['PATH'])}\n")
        arguments, variables = self.set_up(home, folder, url, mcp)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ANTHROPIC_", "OPENAI_"))
        }
        # As in a shell: an agent may take the folder from PWD.
        env = {**kept, "HOME": str(home), "PWD": str(folder), "NO_PROXY": "127.0.0.1", **variables}
        return subprocess.run(
            [str(program), *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN,
            check=False,
        )


class Claude(RealAgent):
    name, package, model = "claude", "@anthropic-ai/claude-code@2.1.332", AnthropicModel

    def set_up(self, _home: Path, _folder: Path, url: str, mcp: bool, /) -> tuple[list[str], dict[str, str]]:
        allowed = "Edit,Read,Skill,ToolSearch,mcp__autoresearch" if mcp else "Bash,Edit,Read,Skill"
        arguments = ["-p", PROMPT, "--model", "claude-sonnet-4-5", "--allowed-tools", allowed]
        quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        return arguments, {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-scripted", **quiet}

    def read_guide(self, _folder: Path, /) -> Iterator[Call]:
        yield Call("Skill", {"skill": "autoresearch"})

    def edit(self, file: Path, old: str, new: str) -> Iterator[Call]:
        yield Call("Read", {"file_path": str(file)})
        yield Call("Edit", {"file_path": str(file), "old_string": old, "new_string": new})

    def shell(self, command: str) -> Generator[Call, str, str]:
        return (yield Call("Bash", {"command": command, "description": "Measure the edit"}))

    def mcp(self, tool: str, arguments: dict[str, Any]) -> Generator[Call, str, str]:
        # It loads the tools of a server only when the model asks for them.
        yield Call("ToolSearch", {"query": f"select:mcp__autoresearch__{tool}", "max_results": 5})
        return (yield Call(f"mcp__autoresearch__{tool}", arguments))


class Codex(RealAgent):
    name, package, model = "codex", "@openai/codex@0.171.0", ResponsesModel

    def set_up(self, home: Path, folder: Path, url: str, mcp: bool, /) -> tuple[list[str], dict[str, str]]:
        (home / ".codex").mkdir()
        provider = {"name": "scripted", "base_url": f"{url}/v1", "wire_api": "responses", "env_key": "SCRIPTED_KEY"}
        lines = ['model = "scripted"', 'model_provider = "scripted"', "[model_providers.scripted]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in provider.items()]
        lines += [f"[projects.{json.dumps(str(folder))}]", 'trust_level = "trusted"']
        (home / ".codex" / "config.toml").write_text("\n".join(lines))
        # Its sandbox makes .git read-only, so that `try` cannot commit. It starts the server outside of the sandbox.
        freedom = ["--sandbox", "workspace-write"] if mcp else ["--dangerously-bypass-approvals-and-sandbox"]
        return ["exec", *freedom, PROMPT], {"SCRIPTED_KEY": "sk-scripted"}

    def read_guide(self, _folder: Path, /) -> Iterator[Call]:
        yield from ()  # AGENTS.md is in each prompt

    def edit(self, file: Path, old: str, new: str) -> Iterator[Call]:
        # A patch has whole lines.
        line = next(each for each in file.read_text().splitlines() if old in each)
        lines = [f"-{line}", *(f"+{each}" for each in line.replace(old, new).splitlines())]
        patch = "\n".join(["*** Begin Patch", f"*** Update File: {file.name}", "@@", *lines, "*** End Patch"])
        yield Call("exec_command", {"cmd": f"apply_patch <<'EOF'\n{patch}\nEOF"})

    def shell(self, command: str) -> Generator[Call, str, str]:
        said = yield Call("exec_command", {"cmd": command, "yield_time_ms": 30_000})
        output = said
        while "session ID " in said.partition("Output:")[0]:
            number = int(said.partition("session ID ")[2].split()[0])
            said = yield Call("write_stdin", {"session_id": number, "chars": "", "yield_time_ms": 30_000})
            output += said
        return output

    def mcp(self, tool: str, arguments: dict[str, Any]) -> Generator[Call, str, str]:
        # It asks the model before the server has started: a real model would take longer than that.
        while (said := (yield Call(tool, arguments, "mcp__autoresearch"))).startswith("unsupported call"):
            yield Call("exec_command", {"cmd": "sleep 1"})
        return said


class OpenCode(RealAgent):
    name, package, model = "opencode", "opencode-ai@1.18.33", ChatModel

    def set_up(self, home: Path, _folder: Path, url: str, mcp: bool, /) -> tuple[list[str], dict[str, str]]:
        model = {"name": "m", "tool_call": True, "limit": {"context": 100_000, "output": 8_000}}
        options = {"baseURL": f"{url}/v1", "apiKey": "sk-scripted"}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "scripted", "options": options, "models": {"m": model}}
        settings: Body = {"provider": {"scripted": provider}, "model": "scripted/m", "small_model": "scripted/m"}
        settings |= {"autoupdate": False, "permission": {"*": "allow", **({"bash": "deny"} if mcp else {})}}
        place = home / ".config" / "opencode"
        place.mkdir(parents=True)
        (place / "opencode.json").write_text(json.dumps(settings))
        return ["run", PROMPT], {"OPENCODE_DISABLE_AUTOUPDATE": "1"}

    def read_guide(self, folder: Path, /) -> Iterator[Call]:
        if shutil.which("rg"):
            yield Call("skill", {"name": "autoresearch"})
        else:  # its tool for skills would first download ripgrep from GitHub
            yield Call("read", {"filePath": str(folder / ".agents" / "skills" / "autoresearch" / "SKILL.md")})

    def edit(self, file: Path, old: str, new: str) -> Iterator[Call]:
        yield Call("read", {"filePath": str(file)})
        yield Call("edit", {"filePath": str(file), "oldString": old, "newString": new})

    def shell(self, command: str) -> Generator[Call, str, str]:
        return (yield Call("bash", {"command": command, "description": "Measure the edit"}))

    def mcp(self, tool: str, arguments: dict[str, Any]) -> Generator[Call, str, str]:
        return (yield Call(f"autoresearch_{tool}", arguments))


class Gemini(RealAgent):
    name, package, model = "gemini", "@google/gemini-cli@0.61.0", GeminiModel

    def set_up(self, home: Path, _folder: Path, url: str, _mcp: bool, /) -> tuple[list[str], dict[str, str]]:
        (home / ".gemini").mkdir()
        settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        # Without a terminal, it offers no tool that needs an approval in another mode.
        arguments = ["--approval-mode", "yolo", "-m", "gemini-2.5-flash", "-p", PROMPT]
        trust = {"GEMINI_CLI_TRUST_WORKSPACE": "true"}
        return arguments, {"GEMINI_API_KEY": "scripted", "GOOGLE_GEMINI_BASE_URL": url, **trust}

    def read_guide(self, _folder: Path, /) -> Iterator[Call]:
        yield from ()  # GEMINI.md is in each prompt

    def edit(self, file: Path, old: str, new: str) -> Iterator[Call]:
        yield Call("read_file", {"file_path": str(file)})
        arguments = {"file_path": str(file), "old_string": old, "new_string": new, "instruction": "Change the recipe."}
        yield Call("replace", arguments)

    def shell(self, command: str) -> Generator[Call, str, str]:
        return (yield Call("run_shell_command", {"command": command, "description": "Measure the edit"}))

    def mcp(self, tool: str, arguments: dict[str, Any]) -> Generator[Call, str, str]:
        while f'"mcp_autoresearch_{tool}\\" not found' in (said := (yield Call(f"mcp_autoresearch_{tool}", arguments))):
            yield Call("run_shell_command", {"command": "sleep 1"})  # as for Codex
        return said


PROMPT = "Improve the metric with autoresearch: three experiments."
REAL_AGENTS: tuple[RealAgent, ...] = (Claude(), Codex(), Gemini(), OpenCode())


def transcript(model: ScriptedModel) -> str:
    """Return the calls of the model and the results as the agent sent them."""
    pairs = itertools.zip_longest(model.calls, model.results, fillvalue="(none)")
    lines = []
    for number, (call, said) in enumerate(pairs, start=1):
        shown = f"{call.tool} {json.dumps(call.arguments)}" if isinstance(call, Call) else call
        lines += [f"--- call {number}: {shown}", str(said)]
    return "\n".join(lines) + "\n"
