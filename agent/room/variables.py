"""The environment variables that a run sees: only those that are known to be harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.system.masking import LOGIN, SECRET

KEEP_VARIABLE = "AUTORESEARCH_KEEP_ENV"

# Variables of the system, of numerical libraries and devices, and of compilers and interpreters.
HARMLESS = re.compile(
    r"PATH|LANG|LANGUAGE|LC_\w+|TZ|TERM|USER|LOGNAME|SHELL|COLUMNS|LINES|NO_COLOR|EDITOR|"
    r"PYTHON\w+|VIRTUAL_ENV|UV_PROJECT_ENVIRONMENT|CONDA_(PREFIX|DEFAULT_ENV|SHLVL|EXE|PYTHON_EXE)|JAVA_HOME|GOROOT|GOPATH|GOFLAGS|NODE_(ENV|PATH|OPTIONS)|"
    r"(OMP|MKL|OPENBLAS|BLIS|NUMEXPR|VECLIB|GOMP|KMP|GOTO|NUMBA|ACCELERATE)_\w+|"
    r"(CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|HIP|ROCR|ROCM|HSA|GPU|MLX|METAL|MTL|AGX|XLA|JAX|TF|TORCH|PYTORCH|TRITON|TOKENIZERS)_\w+|"
    r"(DY)?LD_(LIBRARY|FALLBACK_LIBRARY|FRAMEWORK)_PATH|LIBRARY_PATH|CPATH|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|PKG_CONFIG_PATH|"
    r"CC|CXX|CPP|FC|AR|LD|MAKEFLAGS|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS|RUSTFLAGS|RUST_BACKTRACE|CARGO_(BUILD|TARGET|INCREMENTAL)\w*|"
    r"SDKROOT|DEVELOPER_DIR|MACOSX_DEPLOYMENT_TARGET|SOURCE_DATE_EPOCH|SSL_CERT_(FILE|DIR)|CI|GITHUB_ACTIONS"
)
# What decides on which device, with which libraries and how exactly MLX computes.
OF_DEVICES = re.compile(
    r"(CUDA|NVIDIA|HIP|ROCR|MLX|METAL|MTL|AGX)_\w+|(DY)?LD_(LIBRARY|FALLBACK_LIBRARY|FRAMEWORK)_PATH"
)
PROXIES = re.compile(r"(https?|all|no)_proxy", re.IGNORECASE)
# Package installation needs its index and mirrors, whose addresses may hold a password.
OF_SETUP = re.compile(
    r"(UV|PIP|NPM_CONFIG|YARN|PNPM|CARGO|POETRY|HF)_\w+|AUTORESEARCH_(CACHE|DATA_URL|TRAINING_SECONDS)|"
    r"npm_config_\w+|REQUESTS_CA_BUNDLE"
)
# The right to publish installs nothing.
OF_PUBLISHERS = re.compile(r"HF_TOKEN\w*|UV_PUBLISH_\w+|CARGO_REGISTRY_TOKEN|POETRY_PYPI_TOKEN_\w+")
# A coding agent needs the key of its provider.
OF_AGENTS = re.compile(
    r"(ANTHROPIC|CLAUDE|OPENAI|CODEX|GEMINI|GOOGLE|VERTEX\w*|OPENROUTER|MISTRAL|DEEPSEEK|GROQ|XAI|AZURE|BEDROCK|OLLAMA|LITELLM|"
    r"LMSTUDIO|TOGETHER\w*|FIREWORKS\w*|COHERE|CEREBRAS|MOONSHOT|QWEN|DASHSCOPE|ZAI|AIDER|OPENCODE|MSWEA|CURSOR|AWS|XDG)_\w+"
)


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a run sees. AUTORESEARCH_KEEP_ENV names further ones."""
    return {
        name: value
        for name, value in environment.items()
        if (HARMLESS.fullmatch(name) and not SECRET.search(name))
        or _open_proxy(name, value)
        or name in _kept(environment)
    }


def of_setup(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables seen by setup commands, which install packages or prepare data."""
    more = {name: value for name, value in environment.items() if OF_SETUP.fullmatch(name) or PROXIES.fullmatch(name)}
    kept = {name: value for name, value in more.items() if not OF_PUBLISHERS.fullmatch(name)}
    return {**harmless(environment), **kept}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without the passwords of package indexes, which only setup commands need."""
    kept = _kept(environment)
    return {n: value for n, value in environment.items() if n in kept or not (SECRET.search(n) or LOGIN.search(value))}


def of_evaluator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which the evaluator computes as the run does, on the same device."""
    return {name: value for name, value in harmless(environment).items() if OF_DEVICES.fullmatch(name)}


def of_agents(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a coding agent sees."""
    more = {n: value for n, value in environment.items() if OF_AGENTS.fullmatch(n) or PROXIES.fullmatch(n)}
    return {**harmless(environment), **more}


def _kept(environment: Mapping[str, str]) -> list[str]:
    return environment.get(KEEP_VARIABLE, "").replace(",", " ").split()


def _open_proxy(name: str, value: str) -> bool:
    """Return whether a variable names a proxy without a password in its address."""
    return PROXIES.fullmatch(name) is not None and "@" not in value
