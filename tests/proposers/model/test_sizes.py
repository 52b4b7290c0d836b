from __future__ import annotations

import pytest

from agent.proposers.model.sizes import Sizes, fitted

pytestmark = pytest.mark.quick

WHOLE = Sizes(32_000, 16_000)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("max_tokens is too large: 16000. This model supports at most 4096 completion tokens.", Sizes(32_000, 4096)),
        (
            "max_tokens: 16000 > 8192, which is the maximum allowed number of output tokens for claude-x-20240307",
            Sizes(32_000, 8192),
        ),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", Sizes(32_000, 8192)),
        (
            "a maxOutputTokens value of 16000 but the range is from 1 (inclusive) to 8193 (exclusive)",
            Sizes(32_000, 8192),
        ),
        ("This model's maximum context length is 8192 tokens. However, you requested 20000", Sizes(4096, 2048)),
        ("maximum context length is 65,536 tokens. However, you requested 70000", Sizes(16_000, 16_000)),
        (
            "'max_tokens' is too large: 16000. This model's maximum context length is 8192 tokens and your request "
            "has 512 input tokens",
            Sizes(4096, 2048),
        ),
        ("the request exceeds the available context size, try increasing it", Sizes(16_000, 8000)),
        (
            '{"message": "exceeds the available context size", "n_prompt_tokens": 9000, "n_ctx": 4096}',
            Sizes(2048, 1024),
        ),
        ("prompt is too long: 213131 tokens > 200000 maximum", Sizes(16_000, 8000)),
        ("Request Entity Too Large", Sizes(16_000, 8000)),
        ("The model is loaded with context length of only 512 tokens", None),
        (
            '{"code":"context_length_exceeded","status":400,"message":"maximum context length is 8192 tokens"}',
            Sizes(4096, 2048),
        ),
        ('{"error": "context_length_exceeded", "status": 400}', Sizes(16_000, 8000)),
        ("This model's maximum context is 16384 tokens", Sizes(8192, 4096)),
        ("the input does not fit into the context", Sizes(16_000, 8000)),
        ("context canceled", None),
        ("context deadline exceeded", None),
        ("request canceled (Client.Timeout exceeded while awaiting headers)", None),
        ("request failed: context deadline exceeded", None),
        ("unknown role in context", None),
        ("field `context` is not permitted", None),
        ("max_tokens must be an integer", None),
        ("max_tokens of gpt-4.1-2025-04-14 is odd", None),
        ("temperature must be at most 2", None),
        ("", None),
    ],
)
def test_limits_in_sentences_of_servers(said: str, expected: Sizes | None) -> None:
    assert fitted(WHOLE, said) == expected


def test_sizes_that_do_not_fit_are_halved_until_they_are_too_small() -> None:
    sizes: Sizes | None = WHOLE
    steps = 0
    while sizes is not None:
        sizes, steps = fitted(sizes, "maximum context length exceeded"), steps + 1
    assert steps <= 10
