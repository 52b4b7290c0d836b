"""Secrets of the environment are masked in every text of a run that goes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.system.files import last_lines
from agent.system.masking import masked, without_secrets

pytestmark = pytest.mark.quick
TOKEN = "hf_abcdefghijklmnopqrstu"


def test_secrets_are_replaced_by_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\r")
    monkeypatch.setenv("DB_PASS", "short")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:password@index.example/simple")
    monkeypatch.setenv("HF_HOME", "/home/someone/.cache")
    text = f"{TOKEN} short https://me:password@index.example/simple /home/someone/.cache"
    assert without_secrets(text) == "(HF_TOKEN) short (PIP_INDEX_URL) /home/someone/.cache"
    assert without_secrets(b"\xff" + TOKEN.encode()) == b"\xff(HF_TOKEN)"


def test_end_of_a_log_has_no_secret_of_one_line_or_of_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\nabcdefghijkl\n-----END KEY-----")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "log").write_text(f"-----BEGIN KEY-----\nabcdefghijkl\n-----END KEY-----\nfailed with {TOKEN}\n")
    assert last_lines(tmp_path / "log", 9) == ["(DEPLOY_KEY)", "failed with (HF_TOKEN)"]


def test_secrets_are_masked_whole_and_words_are_not() -> None:
    shown = {"sk-0123456789": "(A_KEY)", "sk-0123456789-more": "(B_KEY)", "x": "(C_KEY)", "": "(D_KEY)"}
    assert masked("exp sk-0123456789-more sk-0123456789", shown) == "exp (B_KEY) (A_KEY)"
