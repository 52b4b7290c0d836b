from __future__ import annotations

import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from agent.errors import PreconditionError, UsageError
from agent.proposers.base import Away
from agent.proposers.wire import LARGEST_ANSWER, Broken, Format, Model, complete, parse_model
from tests.model_server import begin_stream, end_stream, model_server, reply, send

KEY = "sk-very-secret-0123456789"
FORMATS: tuple[Format, ...] = ("openai", "anthropic")
QUESTION = [{"role": "user", "content": "What next?"}]


def ask(model: Model, silence: float = 5.0) -> Any:
    return complete(model, "You help.", QUESTION, most_tokens=100, silence=silence, tick=lambda: None)


def model_at(url: str, wire: Format = "openai") -> Model:
    return Model("http", "scripted", wire, url, KEY)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
def test_both_formats_streamed_and_whole(wire: Format, stream: bool) -> None:
    text = "Try this:\nRATE = 0.2\nUmlauts too: äöü. " * 20
    with model_server(lambda _: text, stream=stream) as server:
        answer = ask(model_at(server.url, wire))
    assert answer.text == text
    assert answer.output_tokens == len(text.split()) and answer.input_tokens and not answer.cut
    path, headers, body = server.requests[0]
    assert body["model"] == "scripted" and body["stream"] and 100 in body.values()
    if wire == "anthropic":
        assert path == "/v1/messages" and headers["x-api-key"] == KEY and body["system"] == "You help."
    else:
        assert path == "/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
        assert body["messages"][0] == {"role": "system", "content": "You help."}


def test_tokens_of_a_cache_count() -> None:
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 40, "cache_read_input_tokens": 500, "output_tokens": 7}
    content = {"content": [{"type": "text", "text": "yes"}], "stop_reason": "max_tokens", "usage": usage}
    with model_server(lambda _: lambda handler: reply(handler, 200, content)) as server:
        answer = ask(model_at(server.url, "anthropic"))
    assert (answer.input_tokens, answer.output_tokens, answer.cut) == (543, 7, True)


def status(code: int, message: str = "no", **headers: str) -> Callable[[Any], None]:
    return lambda handler: reply(handler, code, {"error": {"message": f"{message} {KEY}"}}, **headers)


def in_an_hour() -> str:
    return formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("behaviour", "lasting", "retry_after"),
    [
        (status(401), True, None),
        (status(403), True, None),
        (status(402), True, None),
        (status(404, "no such model"), True, None),
        (status(429, "You exceeded your current quota"), True, None),
        (status(400, "Your credit balance is too low"), True, None),
        (status(429, "slow down", Retry_After="7"), False, 7.0),
        (status(503, "busy"), False, None),
        (lambda handler: status(529, "x", Retry_After=in_an_hour())(handler), False, 3600.0),
        (status(307, "elsewhere", Location="http://127.0.0.1:9/"), True, None),
    ],
)
def test_refusals(behaviour: Callable[[Any], None], lasting: bool, retry_after: float | None) -> None:
    with model_server(lambda _: behaviour) as server, pytest.raises(Away) as caught:
        ask(model_at(server.url))
    assert not isinstance(caught.value, Broken), "a refused call costs nothing"
    assert caught.value.lasting == lasting
    assert caught.value.retry_after == (pytest.approx(retry_after, abs=5) if retry_after else None)
    assert KEY not in str(caught.value) and len(server.requests) == 1


def begins_refusal(handler: Any, **headers: str) -> None:
    handler.send_response(503)
    for name, value in {"Retry-After": "7", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def refusal_cut_off(handler: Any) -> None:
    begins_refusal(handler, Content_Length="1000")
    handler.wfile.write(b'{"error": {"mess')
    handler.connection.shutdown(socket.SHUT_RDWR)


def refusal_cut_off_in_a_chunk(handler: Any) -> None:
    begins_refusal(handler, Transfer_Encoding="chunked")
    handler.wfile.write(b'400\r\n{"error": {"mess')
    handler.connection.shutdown(socket.SHUT_RDWR)


def refusal_stalls(handler: Any) -> None:
    begins_refusal(handler, Content_Length="1000")
    handler.wfile.write(b'{"error": {"mess')
    handler.ends.wait()


@pytest.mark.parametrize(
    "behaviour",
    [
        refusal_cut_off,
        refusal_cut_off_in_a_chunk,
        refusal_stalls,
        lambda handler: reply(handler, 503, b"no gzip", Retry_After="7", Content_Encoding="gzip"),
        lambda handler: reply(handler, 503, b"[" * 4096, Retry_After="7"),
        lambda handler: reply(handler, 503, b"", Retry_After="7"),
    ],
)
def test_a_refusal_is_one_whatever_becomes_of_its_body(behaviour: Callable[[Any], None]) -> None:
    with (
        model_server(lambda _: behaviour) as server,
        pytest.raises(Away, match=r"503: (\[|Service)") as caught,
    ):
        ask(model_at(server.url), silence=0.5)
    assert not isinstance(caught.value, Broken) and not caught.value.lasting
    assert caught.value.retry_after == 7


def half(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"choices": [{"delta": {"content": "RATE = "}, "finish_reason": None}]})
    end_stream(handler)


def cut_off(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"choices": [{"delta": {"content": "RATE = "}, "finish_reason": None}]})
    handler.connection.shutdown(socket.SHUT_RDWR)


def endless(handler: Any) -> None:
    begin_stream(handler)
    for _ in range(2 * LARGEST_ANSWER // 10_000):
        send(handler, {"choices": [{"delta": {"content": "x" * 10_000}}]})
    end_stream(handler)


def broken_off(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"error": {"message": "overloaded"}})
    end_stream(handler)


def malformed(handler: Any) -> None:
    begin_stream(handler)
    send(handler, "{this is no JSON")
    end_stream(handler)


def deep(handler: Any) -> None:
    begin_stream(handler)
    send(handler, "[" * 100_000)
    end_stream(handler)


def silent(handler: Any) -> None:
    handler.ends.wait()


def stalls(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"choices": [{"delta": {"content": "RATE"}}]})
    handler.ends.wait()


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(
    "behaviour",
    [
        half,
        cut_off,
        endless,
        broken_off,
        malformed,
        silent,
        stalls,
        lambda handler: reply(handler, 200, b"<html>"),
        lambda handler: reply(handler, 200, b"[" * 100_000),
        deep,
        lambda handler: reply(handler, 200, []),
        lambda handler: reply(handler, 200, {"choices": [], "content": None}),
    ],
)
def test_broken_answers(wire: Format, behaviour: Callable[[Any], None]) -> None:
    with model_server(lambda _: behaviour) as server, pytest.raises(Broken) as caught:
        ask(model_at(server.url, wire), silence=0.5)
    assert not caught.value.lasting and str(caught.value)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_key_that_comes_back_is_in_no_answer_and_no_error(wire: Format, stream: bool) -> None:
    with model_server(lambda _: f"Your key {KEY} is fine.", stream=stream) as server:
        assert ask(model_at(server.url, wire)).text == "Your key *** is fine."

    def echoes(handler: Any) -> None:
        begin_stream(handler)
        send(handler, {"type": "error", "error": {"message": f"{'no such ' * 22}{KEY}"}})
        end_stream(handler)

    with model_server(lambda _: echoes) as server, pytest.raises(Broken, match="broke off") as caught:
        ask(model_at(server.url, wire))
    assert "sk-very" not in str(caught.value)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Away, match="cannot be reached") as caught:
            ask(model_at(url))
    assert not isinstance(caught.value, Broken) and not caught.value.lasting


def test_a_hanging_call_can_be_interrupted() -> None:
    class Stop(Exception):
        pass

    def tick() -> None:
        raise Stop

    with model_server(lambda _: silent) as server, pytest.raises(Stop):
        complete(model_at(server.url), "", QUESTION, most_tokens=1, silence=60, tick=tick)


def test_names_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1/")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    openai = parse_model("openai:gpt-5")
    assert (openai.format, openai.name, openai.key) == ("openai", "gpt-5", KEY) and KEY not in repr(openai)
    assert parse_model("ollama:qwen3:8b").name == "qwen3:8b"
    own = parse_model("http://127.0.0.1:9/v1/ my model")
    assert (own.url, own.name, own.key) == ("http://127.0.0.1:9/v1", "my model", "")
    with pytest.raises(PreconditionError, match="ANTHROPIC_API_KEY"):
        parse_model("anthropic:claude")
    for wrong in ("gpt-5", "nobody:x", "openai:", "http://127.0.0.1/v1"):
        with pytest.raises(UsageError, match="--model"):
            parse_model(wrong)
