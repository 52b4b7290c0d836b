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
def test_what_installs_sees_no_key_of_a_model_and_publishes_nothing() -> None:
    names = "AUTORESEARCH_MODEL_KEY UV_PUBLISH_TOKEN UV_PUBLISH_PASSWORD CARGO_REGISTRY_TOKEN POETRY_PYPI_TOKEN_MINE"
    assert variables.of_setup(dict.fromkeys(names.split(), "x")) == {}
    needed = dict.fromkeys(
        ("AUTORESEARCH_CACHE", "AUTORESEARCH_DATA_URL", "NPM_CONFIG__AUTHTOKEN", "CARGO_REGISTRIES_MINE_TOKEN"), "x"
    )
    assert variables.of_setup(needed) == needed


@pytest.mark.quick
def test_passwords_of_indexes_are_taken_out_again() -> None:
    login = "https://name:password@index.example/simple"
    secret = {"UV_INDEX_URL": login, "PIP_EXTRA_INDEX_URL": login, "UV_INDEX_MINE_PASSWORD": "x"}
    environment = {**secret, "NPM_CONFIG__AUTHTOKEN": "x", "PIP_INDEX_URL": "https://index.example", "PATH": "/bin"}
    assert set(variables.without_secrets(environment)) == {"PIP_INDEX_URL", "PATH"}
    kept = {**environment, variables.KEEP_VARIABLE: "UV_INDEX_URL"}
    assert variables.without_secrets(kept)["UV_INDEX_URL"] == login


@pytest.mark.quick
def test_who_installs_and_who_signs_in_sees_more() -> None:
    environment = dict.fromkeys(("UV_INDEX_URL", "HF_TOKEN", "HTTPS_PROXY", "ANTHROPIC_API_KEY", "DATABASE_URL"), "x")
    environment["http_proxy"] = "http://name:password@host"
    assert set(variables.harmless(environment)) == {"HTTPS_PROXY"}
    assert set(variables.of_setup(environment)) == {"UV_INDEX_URL", "HTTPS_PROXY", "http_proxy"}
    assert set(variables.of_agents(environment)) == {"ANTHROPIC_API_KEY", "HTTPS_PROXY", "http_proxy"}
