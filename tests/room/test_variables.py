"""Which environment variables runs, setup commands and coding agents see."""

from __future__ import annotations

import pytest

from agent.room import variables


@pytest.mark.quick
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("OPENAI_API_KEY HF_TOKEN GITHUB_TOKEN AWS_PROFILE PGPASSWORD DB_PASS MYSQL_PWD GH_PAT SSH_AUTH_SOCK", False),
        ("STRIPE_KEY client_secret GOOGLE_APPLICATION_CREDENTIALS DOCKER_AUTH_CONFIG XAUTHORITY", False),
        ("X_PASSPHRASE HF_TOKENS DATABASE_URL SLACK_WEBHOOK UV_INDEX_URL SOMETHING_NEW LD_PRELOAD", False),
        ("CUDA_API_KEY MLX_SECRET PYTHONPASSWORD", False),
        ("PATH LANG LC_ALL TZ TOKENIZERS_PARALLELISM PYTHONHASHSEED CUDA_VISIBLE_DEVICES OMP_NUM_THREADS", True),
    ],
)
def test_a_run_sees_the_variables_that_are_known_to_be_harmless(names: str, shown: bool) -> None:
    environment = dict.fromkeys(names.split(), "x")
    assert variables.harmless(environment) == (environment if shown else {})


@pytest.mark.quick
def test_who_installs_and_who_signs_in_sees_more() -> None:
    environment = dict.fromkeys(("UV_INDEX_URL", "HF_TOKEN", "HTTPS_PROXY", "ANTHROPIC_API_KEY", "DATABASE_URL"), "x")
    environment["http_proxy"] = "http://name:password@host"
    assert set(variables.harmless(environment)) == {"HTTPS_PROXY"}
    assert set(variables.of_setup(environment)) == {"UV_INDEX_URL", "HTTPS_PROXY", "http_proxy"}
    assert set(variables.of_agents(environment)) == {"ANTHROPIC_API_KEY", "HTTPS_PROXY", "http_proxy"}
