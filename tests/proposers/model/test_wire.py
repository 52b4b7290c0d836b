from __future__ import annotations

import functools
import gzip
import json
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from agent.errors import PreconditionError, UsageError
from agent.proposers.base import Unavailable
from agent.proposers.model.bounded_http import LARGEST_ANSWER
from agent.proposers.model.servers import SERVERS, Format, ModelSpec, parse_model
from agent.proposers.model.wire import Broken, Refused, complete
from tests.common.model_server import KEY, begin_stream, end_stream, half, model_server, reply, send, silent, streamed

FORMATS: tuple[Format, ...] = ("openai", "anthropic")
QUESTION = [{"role": "user", "content": "What next?"}]


def ask(model: ModelSpec, silence: float = 5.0) -> Any:
    return complete(model, "You help.", QUESTION, most_tokens=100, silence=silence, tick=lambda: None)


def model_at(url: str, wire: Format = "openai") -> ModelSpec:
    return ModelSpec("http", "scripted", wire, url, KEY)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
def test_both_formats_streamed_and_whole(wire: Format, stream: bool) -> None:
    text = "Try this:\nRATE = 0.2\nUmlauts too: äöü. " * 20
    with model_server(lambda _: text, stream=stream) as server:
        answer = ask(model_at(server.url, wire))
    assert answer.text == text
    assert answer.output_tokens == len(text.split())
    assert answer.input_tokens
    assert not answer.cut
    path, headers, body = server.requests[0]
    assert body["model"] == "scripted"
    assert body["stream"]
    assert 100 in body.values()
    if wire == "anthropic":
        assert path == "/v1/messages"
        assert headers["x-api-key"] == KEY
        assert body["system"] == "You help."
    else:
        assert path == "/chat/completions"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert body["messages"][0] == {"role": "system", "content": "You help."}


def test_tokens_of_an_answer_that_has_not_begun_do_not_count() -> None:
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}
    said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes"}}
    for usage, told in (({}, None), ({"usage": {"output_tokens": 9}}, 9)):
        events = (begun, said, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **usage})
        with model_server(lambda _, events=events: streamed(*events, {"type": "message_stop"})) as server:  # type: ignore[misc]
            answer = ask(model_at(server.url, "anthropic"))
        assert (answer.text, answer.input_tokens, answer.output_tokens) == ("yes", 7, told)


def test_tokens_of_a_cache_count() -> None:
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 40, "cache_read_input_tokens": 500, "output_tokens": 7}
    content = {"content": [{"type": "text", "text": "yes"}], "stop_reason": "max_tokens", "usage": usage}
    with model_server(lambda _: lambda handler: reply(handler, 200, content)) as server:
        answer = ask(model_at(server.url, "anthropic"))
    assert (answer.input_tokens, answer.output_tokens, answer.cut) == (543, 7, True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("wire", "finish", "cut"),
    [
        ("openai", None, False),
        ("openai", "stop", False),
        ("openai", "STOP", False),
        ("openai", "eos", False),
        ("openai", "tool_calls", False),
        ("openai", "length", True),
        ("openai", "content_filter", True),
        ("openai", "model_length", True),
        ("openai", "error", True),
        ("openai", "abort", True),
        ("openai", 7, False),
        ("anthropic", None, False),
        ("anthropic", "end_turn", False),
        ("anthropic", "stop_sequence", False),
        ("anthropic", "tool_use", False),
        ("anthropic", "max_tokens", True),
        ("anthropic", "refusal", True),
        ("anthropic", "pause_turn", True),
        ("anthropic", "model_context_window_exceeded", True),
    ],
)
def test_answer_that_the_server_ended_is_cut(wire: Format, finish: object, cut: bool, stream: bool) -> None:
    events: list[Any] = [{"choices": [{"delta": {"content": "yes"}, "finish_reason": finish}]}, "[DONE]"]
    whole: dict[str, Any] = {"choices": [{"message": {"content": "yes"}, "finish_reason": finish}]}
    if wire == "anthropic":
        said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes"}}
        events = [said, {"type": "message_delta", "delta": {"stop_reason": finish}}, {"type": "message_stop"}]
        whole = {"content": "yes", "stop_reason": finish}
    answers = streamed(*events) if stream else lambda handler: reply(handler, 200, whole)
    with model_server(lambda _: answers) as server:
        answer = ask(model_at(server.url, wire))
    assert (answer.text, answer.cut) == ("yes", cut)
    if cut:
        assert answer.finish == finish


@pytest.mark.parametrize(
    ("finish", "cut"),
    [
        *((finish, False) for finish in (
            "normal", "endoftext", "<|im_end|>", "finished", "done", "end", "null", "None", "stop_str", "end_of_turn",
            "FINISH_REASON_STOP", "FinishReason.STOP", "eosFound", "COMPLETE", "tool_calls", "?",
        )),
        *((finish, True) for finish in (
            "MAX_TOKENS", "FINISH_REASON_MAX_TOKENS", "FinishReason.SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII",
            "MALFORMED_FUNCTION_CALL", "model_length", "Content_Filter", "content_filtered", "REASON_MAX_LEN",
            "max_output_tokens", "cancelled", "USER_CANCEL", "aborted", "network_error", "ERROR_TOXIC", "timeout",
            "REASON_TIME_LIMIT", "sensitive", "insufficient_system_resource", "guardrail_intervened", "incomplete",
            "maxPredictedTokensReached", "userStopped", "contextLengthReached", "BLOCKLIST",
        )),
    ],
)  # fmt: skip
def test_only_a_reason_that_cuts_is_one(finish: str, cut: bool) -> None:
    """Servers have many names for the end of a whole answer."""
    whole = {"choices": [{"message": {"content": "yes"}, "finish_reason": finish}]}
    with model_server(lambda _: lambda handler: reply(handler, 200, whole)) as server:
        answer = ask(model_at(server.url))
    assert (answer.text, answer.finish, answer.cut) == ("yes", finish, cut)


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "edit", "arguments": "{}"}}]}
OPENAI_USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 3}}
ANTHROPIC_USAGE = {"usage": {"input_tokens": 5, "output_tokens": 3}}


@pytest.mark.parametrize(
    ("wire", "content", "finish"),
    [
        ("openai", {"choices": [{"message": CALL, "finish_reason": "tool_calls"}], **OPENAI_USAGE}, "tool_calls"),
        ("openai", {"choices": [], **OPENAI_USAGE}, ""),
        ("openai", {"choices": None, **OPENAI_USAGE}, ""),
        ("openai", {**OPENAI_USAGE}, ""),
        ("anthropic", {"content": [{"type": "tool_use"}], "stop_reason": "tool_use", **ANTHROPIC_USAGE}, "tool_use"),
        ("anthropic", {"content": None, "stop_reason": "end_turn", **ANTHROPIC_USAGE}, "end_turn"),
        ("anthropic", {"stop_reason": "end_turn", **ANTHROPIC_USAGE}, "end_turn"),
    ],
)
def test_answer_that_is_counted_is_one_without_text(wire: Format, content: dict[str, Any], finish: str) -> None:
    with model_server(lambda _: lambda handler: reply(handler, 200, content)) as server:
        answer = ask(model_at(server.url, wire))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("", 5, 3)
    assert (answer.finish, answer.cut) == (finish, False)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded today"}},
        {"type": "error", "message": "Overloaded today"},
        {"error": "Overloaded today"},
        {"detail": "Overloaded today"},
    ],
)
def test_error_with_status_200_is_named(wire: Format, stream: bool, content: dict[str, Any]) -> None:
    answers = streamed(content) if stream else lambda handler: reply(handler, 200, content)
    with (
        model_server(lambda _: answers) as server,
        pytest.raises(Broken, match="the server reported an error: Overloaded today"),
    ):
        ask(model_at(server.url, wire))


def test_reason_of_an_end_is_short_and_has_no_key() -> None:
    choice = {"message": {"content": "yes"}, "finish_reason": f"{KEY}\n\x1b[31merror " + "x" * 1000}
    with model_server(lambda _: lambda handler: reply(handler, 200, {"choices": [choice]})) as server:
        answer = ask(model_at(server.url))
    assert answer.cut
    assert answer.finish.startswith("*** ")
    assert len(answer.finish) <= 40
    assert "\x1b" not in answer.finish


def status(code: int, message: str = "no", **headers: str) -> Callable[[Any], None]:
    return lambda handler: reply(handler, code, {"error": {"message": f"{message} {KEY}"}}, **headers)


LIMIT = "Rate limit reached for m: Limit 30000, Requested 5000. {} Raise it at https://example.org/account/billing."
QUOTA = "You exceeded your current quota, please check your plan and billing details. {}"


def refused(said: str, status: int = 429, headers: dict[str, str] | None = None, **more: Any) -> Callable[[Any], None]:
    return lambda handler: reply(handler, status, {"error": {"message": said, **more}}, **(headers or {}))


@pytest.mark.parametrize(
    ("behaviour", "seconds"),
    [
        (refused(LIMIT, headers={"Retry-After": "1"}), 1),
        (refused(QUOTA, headers={"Retry-After": "1"}, code="RESOURCE_EXHAUSTED"), 1),
        (refused(QUOTA, headers={"Retry-After": "soon"}), None),
        (refused(LIMIT, headers={"retry_after_ms": "1500"}), 1.5),
        (refused(LIMIT, headers={"retry_after_ms": "45000"}), 45),
        (refused(LIMIT, headers={"retry_after_ms": "7200000"}), 3600),
        (refused(LIMIT, headers={"retry_after_ms": "Fri, 31 Dec 9999 23:59:59 GMT"}), 3600),
        (refused(LIMIT.format("Please try again in 6m1.5s.")), 361.5),
        (refused(LIMIT.format("Please try again in 120ms.")), 0.12),
        (refused(QUOTA.format("Please retry in 37.25s.")), 37.25),
        (refused(QUOTA.format("Try again after 2 minutes 5 seconds.")), 125),
        (refused(QUOTA.format("Try again in 3 days.")), 3600),
        (refused(QUOTA.format("Try again in 1,200 seconds.")), 1200),
        (refused(QUOTA.format("Try again in 1 minute, and 2.5 seconds.")), 62.5),
        (refused(QUOTA, details=[{"@type": "google.rpc.RetryInfo", "retryDelay": "17s"}]), 17),
        (refused(LIMIT, code="rate_limit_exceeded"), None),
        (refused(QUOTA, 503, headers={"Retry-After": "2"}), 2),
    ],
)
def test_limits_of_a_time_are_waited_for_whatever_they_say_of_money(behaviour: Any, seconds: float | None) -> None:
    with model_server(lambda _: behaviour) as server, pytest.raises(Unavailable) as caught:
        ask(model_at(server.url))
    assert not caught.value.lasting
    assert caught.value.retry_after == (seconds and pytest.approx(seconds))


@pytest.mark.parametrize(
    "behaviour",
    [
        refused(QUOTA),
        refused(QUOTA, code="insufficient_quota"),
        refused("Your credit balance is too low. Try again after 1 s.", 400),
        refused("Insufficient credits", 402, headers={"Retry-After": "1"}),
    ],
)
def test_where_there_is_no_money_waiting_does_not_help(behaviour: Any) -> None:
    with model_server(lambda _: behaviour) as server, pytest.raises(Unavailable) as caught:
        ask(model_at(server.url))
    assert caught.value.lasting


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "yes"}],
        [THINKING, {"type": "text", "text": "y"}, {"type": "text", "text": "es"}],
        [{"type": "reasoning", "text": "hm"}, "yes", None, {"type": "image_url", "image_url": {"url": "x"}}],
        [{"type": "output_text", "text": "yes"}, {"type": "text", "text": None}],
        {"type": "text", "text": "yes"},
    ],
)
def test_content_in_parts(content: Any, stream: bool) -> None:
    def answers(handler: Any) -> None:
        if not stream:
            reply(handler, 200, {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})
            return
        begin_stream(handler)
        for part in content if isinstance(content, list) else [content]:
            send(handler, {"choices": [{"index": None, "delta": {"content": part if part is None else [part]}}]})
        send(handler, {"choices": [{"delta": None, "finish_reason": "stop"}]})
        end_stream(handler)

    with model_server(lambda _: answers) as server:
        assert ask(model_at(server.url)).text == "yes"


def test_anthropic_content_in_parts() -> None:
    for content in ("yes", [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]):
        said = {"content": content, "stop_reason": "end_turn"}
        with model_server(lambda _, said=said: lambda handler: reply(handler, 200, said)) as server:  # type: ignore[misc]
            assert ask(model_at(server.url, "anthropic")).text == "yes"


YES = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.mark.parametrize(
    "events",
    [
        (YES, "[DONE]"),
        (YES, USAGE, "[DONE]"),
        (YES, None, "[DONE]"),
        (YES, {"choices": None}, {"choices": [None]}, {"choices": [{"index": 0, "delta": None}]}, "[DONE]"),
        (YES, {"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": "stop"}]}),
    ],
)
def test_streams_of_gateways_are_whole(events: tuple[Any, ...]) -> None:
    with model_server(lambda _: streamed(*events)) as server:
        assert ask(model_at(server.url)).text == "yes"


def test_a_stream_may_lack_the_last_newline() -> None:
    def streams(handler: Any) -> None:
        begin_stream(handler)
        send(handler, YES)
        handler.wfile.write(b"c\r\ndata: [DONE]\r\n")
        end_stream(handler)

    with model_server(lambda _: streams) as server:
        assert ask(model_at(server.url)).text == "yes"


@pytest.mark.parametrize(
    "said",
    [
        "\ufeffdata: {yes}\n\ndata: [DONE]\n\n",
        ": a comment\r\nevent: message\r\ndata:{yes}\r\n\r\ndata: [DONE]\r\n\r\n",
        "data: {yes}\r\rdata: [DONE]\r\r",
        'data: {{\ndata: "choices":\ndata: {choices}\ndata: }}\n\ndata: [DONE]\n\n',
        "data: {yes}\ndata: [DONE]\n",  # several servers leave out the empty lines between events
    ],
)
@pytest.mark.parametrize("size", [1, 10**6])
def test_a_stream_is_read_as_its_standard_says(said: str, size: int) -> None:
    content = said.format(yes=json.dumps(YES), choices=json.dumps(YES["choices"])).encode()

    def streams(handler: Any) -> None:
        begin_stream(handler)
        for part in (content[at : at + size] for at in range(0, len(content), size)):
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        end_stream(handler)

    with model_server(lambda _: streams) as server:
        assert ask(model_at(server.url)).text == "yes"


def test_a_stream_with_a_broken_event_is_broken() -> None:
    def streams(handler: Any) -> None:
        begin_stream(handler)
        send(handler, YES)
        handler.wfile.write(b"8\r\ndata: {\n\r\n")
        end_stream(handler)

    with model_server(lambda _: streams) as server, pytest.raises(Broken):
        ask(model_at(server.url))


def test_a_stream_without_an_end_is_none() -> None:
    for events in ((YES,), (YES, USAGE), (YES, None)):
        with model_server(lambda _, events=events: streamed(*events)) as server, pytest.raises(Broken):  # type: ignore[misc]
            ask(model_at(server.url))


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
    with model_server(lambda _: behaviour) as server, pytest.raises(Unavailable) as caught:
        ask(model_at(server.url))
    assert not isinstance(caught.value, Broken), "a refused call costs nothing"
    assert caught.value.lasting == lasting
    assert caught.value.retry_after == (pytest.approx(retry_after, abs=5) if retry_after else None)
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize(
    ("scheme", "key", "advice"),
    [
        ("openai", KEY, "check the API key"),
        ("http", KEY, "check the API key"),
        ("http", "", "export AUTORESEARCH_MODEL_KEY=..., because no API key was sent"),
        (
            "ollama",
            "",
            "`ollama:` sends no key: export AUTORESEARCH_MODEL_KEY=... and use --model 'http://HOST:PORT/v1",
        ),
        ("mlx", "", "`mlx:` sends no key: "),
    ],
)
def test_refused_key_is_one_that_was_sent(code: int, scheme: str, key: str, advice: str) -> None:
    with model_server(lambda _: status(code)) as server, pytest.raises(Unavailable) as caught:
        ask(ModelSpec(scheme, "scripted", "openai", server.url, key))
    assert f"answered {code}: " in str(caught.value)
    assert f"; {advice}" in str(caught.value)


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."


def knows(*names: str, says: str = UNSUPPORTED) -> Callable[[dict[str, Any]], Any]:
    """Return a server that knows only these of the parameters that have other names or are optional."""

    def answers(body: dict[str, Any]) -> Any:
        odd = {"max_tokens", "max_completion_tokens", "stream_options"} & set(body) - set(names)
        return refused(says.format(min(odd)), 400) if odd else "yes"

    return answers


@pytest.mark.parametrize(
    ("scheme", "names", "says", "requests"),
    [
        ("http", ("max_completion_tokens", "stream_options"), f"{UNSUPPORTED} Use 'max_completion_tokens' instead.", 2),
        ("openai", ("max_tokens", "stream_options"), "Unrecognized request argument supplied: {}", 2),
        ("http", ("max_tokens",), "[{{'loc': ['body', '{}'], 'msg': 'Extra inputs are not permitted'}}]", 2),
        ("http", ("max_completion_tokens",), UNSUPPORTED, 3),
    ],
)
def test_refused_parameter_gets_its_other_name(scheme: str, names: tuple[str, ...], says: str, requests: int) -> None:
    with model_server(knows(*names, says=says)) as server:
        model = ModelSpec(scheme, "scripted", "openai", server.url, KEY)
        assert ask(model).text == "yes"
        assert len(server.requests) == requests
        assert 100 in server.requests[-1][2].values()
        assert ask(model).text == "yes"
    assert len(server.requests) == requests + 1, "it is remembered"


@pytest.mark.parametrize(
    ("names", "says", "requests"), [((), UNSUPPORTED, 2), ((), "The value of {} is odd", 1), ((), "unknown model", 1)]
)
def test_parameter_that_has_no_name_is_refused(names: tuple[str, ...], says: str, requests: int) -> None:
    with model_server(knows(*names, says=says)) as server, pytest.raises(Unavailable) as caught:
        ask(model_at(server.url))
    assert caught.value.lasting
    assert len(server.requests) == requests


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_parameter_that_is_always_refused_is_not_sent_for_ever(monkeypatch: pytest.MonkeyPatch, wire: Format) -> None:
    monkeypatch.setattr("agent.proposers.model.wire.LONGEST_ANSWER_SECONDS", 2.0)
    said = f"{UNSUPPORTED.format('max_tokens')} Use 'max_completion_tokens' instead."
    with model_server(lambda _: refused(said, 400)) as server:
        for _ in range(2):
            begun = len(server.requests)
            with pytest.raises(Refused, match="is not supported with this model"):
                ask(model_at(server.url, wire))
            assert len(server.requests) - begun == (1 if wire == "anthropic" else 2)


@pytest.mark.parametrize(("wire", "path"), [("openai", "/chat/completions"), ("anthropic", "/v1/messages")])
def test_refusal_names_the_address_that_is_not_found(wire: Format, path: str) -> None:
    with model_server(lambda _: status(404)) as server, pytest.raises(Unavailable) as caught:
        ask(model_at(f"{server.url}/{KEY}", wire))
    assert f"answered 404 at {server.url}/***{path}: no ***" in str(caught.value)
    assert caught.value.lasting


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
        pytest.raises(Unavailable, match=r"503: (\[|Service)") as caught,
    ):
        ask(model_at(server.url), silence=0.5)
    assert not isinstance(caught.value, Broken)
    assert not caught.value.lasting
    assert caught.value.retry_after == 7


def cut_off(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"choices": [{"delta": {"content": "RATE = "}, "finish_reason": None}]})
    handler.connection.shutdown(socket.SHUT_RDWR)


def endless(handler: Any) -> None:
    begin_stream(handler)
    for _ in range(2 * LARGEST_ANSWER // 10_000):
        send(handler, {"choices": [{"delta": {"content": "x" * 10_000}}]})
    end_stream(handler)


def test_a_long_stream_of_thoughts_is_read_to_its_end() -> None:
    """One event of 330 bytes for each of 16,000 tokens, as many as an answer may have."""

    def thoughts(handler: Any) -> None:
        begin_stream(handler)
        head = {"id": "chatcmpl-" + "B" * 29, "object": "chat.completion.chunk", "model": "m" * 160}
        for _ in range(16_000):
            delta = {"reasoning_content": " the"}
            send(handler, {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None}], "usage": None})
        send(handler, {"choices": [{"delta": {"content": "RATE"}, "finish_reason": "stop"}]})
        end_stream(handler)

    with model_server(lambda _: thoughts) as server:
        assert ask(model_at(server.url)).text == "RATE"


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
    assert not caught.value.lasting
    assert str(caught.value)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_key_that_comes_back_is_in_no_answer_and_no_error(wire: Format, stream: bool) -> None:
    with model_server(lambda _: f"Your key {KEY} is fine.", stream=stream) as server:
        assert ask(model_at(server.url, wire)).text == "Your key *** is fine."

    def echoes(handler: Any) -> None:
        begin_stream(handler)
        send(handler, {"type": "error", "error": {"message": f"{'no such ' * 22}{KEY}"}})
        end_stream(handler)

    with model_server(lambda _: echoes) as server, pytest.raises(Broken, match="reported an error") as caught:
        ask(model_at(server.url, wire))
    assert "sk-very" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b'"about %s"', b'{"error": {"message": "about %s"}}', b'{"error": "about %s, ', b"about %s"]
)
def test_a_key_that_comes_back_escaped_is_in_no_error(body: bytes) -> None:
    escaped = "".join(f"\\u{ord(each):04x}" if each in "-_" else each for each in KEY).encode()
    assert escaped != KEY.encode()
    with (
        model_server(lambda _: lambda handler: reply(handler, 400, body % escaped)) as server,
        pytest.raises(Unavailable, match=r"about \*\*\*"),
    ):
        ask(ModelSpec("openai", "scripted", "openai", server.url, KEY))


@pytest.mark.parametrize("stream", [True, False])
def test_short_key_changes_no_answer(stream: bool) -> None:
    text = "RATE = math.exp(1)  # x"
    with model_server(lambda _: text, stream=stream) as server:
        assert ask(ModelSpec("http", "scripted", "openai", server.url, "x")).text == text


def test_unreachable_server_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"cannot reach \S+ at \S+: Failed to establish") as caught:
            ask(model_at(url))
    assert not isinstance(caught.value, Broken)
    assert not caught.value.lasting
    assert f"at {url}: Failed to establish a new connection" in str(caught.value).replace("/v1", "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_down_is_unavailable(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        through(monkeypatch, scheme, f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(Unavailable, match="cannot reach http:scripted at") as caught:
            ask(model_at(f"{scheme}://model.invalid"))
    assert not isinstance(caught.value, Broken), "nothing was sent, so nothing is charged"
    assert not caught.value.lasting


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://model.invalid", "nothing://127.0.0.1:1"),
        ("https://model.invalid", "socks5://127.0.0.1:1"),
        ("https://model.invalid", "http://corp:pa[ss@127.0.0.1:1"),
        ("https://model.invalid", "http://corp:pw@"),
        ("127.0.0.1:1/v1", ""),
        ("model.invalid/v1", ""),
        ("http://", ""),
    ],
)
def test_call_that_cannot_be_sent_is_not_charged(monkeypatch: pytest.MonkeyPatch, url: str, proxy: str) -> None:
    through(monkeypatch, "https", proxy)
    with pytest.raises(Unavailable, match=r"cannot (ask|reach) http:scripted at") as caught:
        ask(model_at(url))
    assert not isinstance(caught.value, Broken)


def test_missing_certificates_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/ca.pem")
    with pytest.raises(Unavailable, match=r"cannot ask http:scripted at .*ca\.pem") as caught:
        ask(model_at("https://127.0.0.1:1"))
    assert not isinstance(caught.value, Broken)
    assert caught.value.lasting


def test_model_on_this_machine_is_asked_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is for that server alone."""
    through(monkeypatch, "http", "http://127.0.0.1:1")
    with model_server(lambda _: "an idea") as server:
        assert ask(model_at(server.url)).text == "an idea"


def through(monkeypatch: pytest.MonkeyPatch, scheme: str, proxy: str) -> None:
    """Send all requests of this scheme through a proxy."""
    for name in ("NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
    monkeypatch.setenv(f"{scheme}_proxy", proxy)


def test_hanging_call_can_be_interrupted() -> None:
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
    assert (openai.format, openai.name, openai.key) == ("openai", "gpt-5", KEY)
    assert KEY not in repr(openai)
    assert parse_model("ollama:qwen3:8b").name == "qwen3:8b"
    own = parse_model("http://127.0.0.1:9/v1/ my model")
    assert (own.url, own.name, own.key) == ("http://127.0.0.1:9/v1", "my model", "")
    with pytest.raises(PreconditionError, match="ANTHROPIC_API_KEY"):
        parse_model("anthropic:claude")
    for wrong in ("gpt-5", "nobody:x", "openai:", "http://127.0.0.1/v1"):
        with pytest.raises(UsageError, match="--model"):
            parse_model(wrong)


def test_address_with_a_login_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag and the errors of a session are written to its files."""
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://me:hunter2@127.0.0.1:1/v1")
    for text in ("http://me:hunter2@127.0.0.1:9/v1 m", "https://me:hunter2@host", "http://hunter2@host m", "ollama:m"):
        with pytest.raises(UsageError, match="has a login") as caught:
            parse_model(text)
        assert "AUTORESEARCH_MODEL_KEY" in str(caught.value.hint)
        assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert parse_model("http://127.0.0.1:9/v1 me@7b").name == "me@7b"


@pytest.mark.parametrize("end", ["?api-key=hunter2", "/?k=hunter2", "#hunter2", "?"])
def test_address_with_a_query_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """The path of a request would follow the query."""
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:1/v1{end}")
    for text in (f"http://127.0.0.1:9/v1{end} m", f"https://host{end}", "ollama:m"):
        with pytest.raises(UsageError, match=r"has a query or a fragment \(`\?` or `#`\)") as caught:
            parse_model(text)
        assert "AUTORESEARCH_MODEL_KEY" in str(caught.value.hint)
        assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert parse_model("http://127.0.0.1:9/v1 what?#7b").name == "what?#7b"


@pytest.mark.parametrize("address", ["http://[::1", "http://", "http:///v1", "http://h:99999/v1", "http://h:x/v1"])
def test_an_impossible_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A call to it could never be sent, and would be charged."""
    with pytest.raises(UsageError, match=r"address of --model .* is invalid"):
        parse_model(f"{address} m")
    monkeypatch.setenv("OLLAMA_BASE_URL", address)
    with pytest.raises(UsageError, match="address in OLLAMA_BASE_URL is invalid"):
        parse_model("ollama:m")


@pytest.mark.parametrize(
    ("text", "address", "here", "free"),
    [
        ("ollama:m", "", True, True),
        ("ollama:m", "http://localhost:1/v1", True, True),
        ("ollama:m", "http://0.0.0.0:1/v1", True, True),
        ("ollama:m", "https://ollama.example/v1", False, False),
        ("http://127.0.0.1:8000/v1 m", "", True, False),
        ("http://192.0.2.7:8000/v1 m", "", False, False),
    ],
)
def test_only_what_this_machine_computes_is_free(
    monkeypatch: pytest.MonkeyPatch, text: str, address: str, here: bool, free: bool
) -> None:
    """A server of another kind may be a gateway to a provider."""
    monkeypatch.setenv("OLLAMA_BASE_URL", address)
    model = parse_model(text)
    assert (model.here, model.free) == (here, free)


KEYS = [
    ("openai:m", "OPENAI_API_KEY"),
    ("anthropic:m", "ANTHROPIC_API_KEY"),
    ("http://127.0.0.1:9/v1 m", "AUTORESEARCH_MODEL_KEY"),
]


@pytest.mark.parametrize(("text", "variable"), KEYS)
def test_key_is_stripped_or_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, variable: str
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\r\n")
    assert parse_model(text).key == KEY
    for wrong in (f"\u201c{KEY}\u201d", f"{KEY}\x1b", f"{KEY[:9]}\r{KEY[9:]}", f"{KEY}\udcff"):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(PreconditionError, match=f"^{variable} holds characters that no API key has$") as caught:
            parse_model(text)
        assert "sk-" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("own", "url"), [("", ""), (" \r", ""), ("http://127.0.0.1:1/v1/\r", "http://127.0.0.1:1/v1")])
@pytest.mark.parametrize("scheme", SERVERS)
def test_empty_address_is_the_default(monkeypatch: pytest.MonkeyPatch, scheme: str, own: str, url: str) -> None:
    _, default, variable, key = SERVERS[scheme]
    monkeypatch.setenv(key or "UNUSED_KEY", KEY)
    monkeypatch.setenv(variable, own)
    assert parse_model(f"{scheme}:m").url == (url or default)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1e300", 3600.0),
        ("inf", 3600.0),
        ("9" * 400, 3600.0),
        ("-5", 0.0),
        ("nan", None),
        ("soon", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("7, 8", None),
    ],
)
def test_retry_after_is_at_most_an_hour(header: str, seconds: float | None) -> None:
    with (
        model_server(lambda _: status(503, "busy", Retry_After=header)) as server,
        pytest.raises(Unavailable) as caught,
    ):
        ask(model_at(server.url))
    assert caught.value.retry_after == seconds


NO_COUNTS = ["12", -1, -10_000_000_000, 1.5, 12.0, True, None, [], {}, 10**12, 10**400, float("nan"), float("inf")]


@pytest.mark.parametrize("told", NO_COUNTS, ids=lambda told: str(told)[:12])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wire", FORMATS)
def test_usage_that_is_no_count_is_not_told(wire: Format, stream: bool, told: object) -> None:
    openai = {"prompt_tokens": told, "completion_tokens": told}
    anthropic = {"input_tokens": told, "output_tokens": told}

    def answers(handler: Any) -> None:
        if wire == "openai" and stream:
            begin_stream(handler)
            send(handler, {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}], "usage": openai})
            end_stream(handler)
        elif wire == "openai":
            choices = [{"message": {"content": "yes"}, "finish_reason": "stop"}]
            reply(handler, 200, {"choices": choices, "usage": openai})
        elif stream:
            begin_stream(handler)
            send(handler, {"type": "message_start", "message": {"usage": anthropic}})
            send(handler, {"type": "content_block_delta", "delta": {"text": "yes"}})
            send(handler, {"type": "message_stop"})
            end_stream(handler)
        else:
            reply(handler, 200, {"content": [{"text": "yes"}], "usage": anthropic})

    with model_server(lambda _: answers) as server:
        answer = ask(model_at(server.url, wire))
    assert answer.text == "yes"
    assert answer.input_tokens is None
    assert answer.output_tokens is None


@pytest.mark.parametrize("usage", ["many", 7, [1], True])
def test_usage_that_is_no_object_is_not_told(usage: object) -> None:
    content = {"choices": [{"message": {"content": "yes"}}], "usage": usage}
    with model_server(lambda _: lambda handler: reply(handler, 200, content)) as server:
        answer = ask(model_at(server.url))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("yes", None, None)


@functools.cache
def bomb(coding: str) -> bytes:
    """Return less than 1 MiB that expands to 256 MiB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    zeros = b" " * 2**24
    return b"".join([*(packer.compress(zeros) for _ in range(16)), packer.flush()])


def packed(handler: Any, code: int, data: bytes, coding: str, location: str = "") -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Encoding", coding)
    if location:
        handler.send_header("Location", location)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("code", [200, 302, 503])
def test_compression_bomb_is_not_unpacked(code: int, coding: str) -> None:
    data = bomb(coding)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with model_server(
        lambda _: lambda handler: packed(handler, code, data, coding, "/x" if code == 302 else "")
    ) as server:
        with pytest.raises(Unavailable) as caught:
            ask(model_at(server.url))
        assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert isinstance(caught.value, Broken) is (code == 200)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 100 * 1024  # KiB


def test_what_is_packed_without_being_asked_for_is_one_sentence() -> None:
    data = gzip.compress(json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode())
    with (
        model_server(lambda _: lambda handler: packed(handler, 200, data, "gzip")) as server,
        pytest.raises(Broken, match="compressed"),
    ):
        ask(model_at(server.url))


def flood(*first: bytes, again: bytes) -> Callable[[Any], None]:
    """Return a server that sends `first`, then `again` forever."""

    def floods(handler: Any) -> None:
        try:
            for part in first:
                handler.wfile.write(part)
            while not handler.ends.is_set():
                handler.wfile.write(again)
        except OSError:
            pass

    return floods


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
ENDLESS = {
    "body": flood(OK + b"\r\n", again=b"x" * 60_000),
    "huge length": flood(OK + b"Content-Length: 99999999999\r\n\r\n", again=b"x" * 60_000),
    "huge chunk": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", again=b"x" * 60_000),
    "chunk's name": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", again=b"x" * 60_000),
    "trailers": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", again=b"A: b\r\n" * 10_000),
    "header": flood(OK + b"A: ", again=b"x" * 60_000),
    "headers": flood(OK, again=b"A: b\r\n" * 10_000),
    "status": flood(b"HTTP/1.1 ", again=b"2" * 60_000),
    "continue": flood(again=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "refusal": flood(b"HTTP/1.1 503 Busy\r\n\r\n", again=b"x" * 60_000),
    "redirect": flood(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", again=b"x" * 60_000),
    "small chunks": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n", again=b"1\r\nx\r\n" * 10_000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_answer_is_cut_off(name: str) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with model_server(lambda _: ENDLESS[name]) as server, pytest.raises(Unavailable):
        ask(model_at(server.url))
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def drip(first: bytes, again: bytes = b"x") -> Callable[[Any], None]:
    def drips(handler: Any) -> None:
        try:
            handler.wfile.write(first)
            while not handler.ends.wait(0.05):
                handler.wfile.write(again)
        except OSError:
            pass

    return drips


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 200 OK\r\nA: ", OK + b"Content-Length: 100000\r\n\r\n", b"HTTP/1.1 503 Busy\r\n\r\n"],
    ids=["status", "header", "body", "refusal"],
)
def test_a_slow_drip_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr("agent.proposers.model.wire.LONGEST_ANSWER_SECONDS", 1.0)
    before, began = set(threading.enumerate()), time.monotonic()
    with model_server(lambda _: drip(first)) as server:
        with pytest.raises(Unavailable):
            ask(model_at(server.url))
        assert time.monotonic() - began < 60  # the drip has no end
        asking = [each for each in set(threading.enumerate()) - before if "asks" in each.name]
        for thread in asking:
            thread.join(60)
        assert not any(thread.is_alive() for thread in asking)


def test_thousands_of_choices_are_one() -> None:
    choices = [{"index": n, "message": {"content": f"answer {n}"}, "delta": {"content": f"{n} "}} for n in range(5000)]
    with model_server(lambda _: lambda handler: reply(handler, 200, {"choices": choices})) as server:
        assert ask(model_at(server.url)).text == "answer 0"

    def streams(handler: Any) -> None:
        begin_stream(handler)
        send(handler, {"choices": choices})
        send(handler, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        end_stream(handler)

    with model_server(lambda _: streams) as server:
        assert ask(model_at(server.url)).text == "0 "


@pytest.mark.parametrize(
    "body", [b"\xff" * 5000, b"\x1b[31m" * 2000, "\u202e".encode() * 3000, b"[" * 100_000, b"\0" * 10]
)
def test_a_refusals_body_is_a_short_plain_sentence(body: bytes) -> None:
    with (
        model_server(lambda _: lambda handler: reply(handler, 500, body)) as server,
        pytest.raises(Unavailable) as caught,
    ):
        ask(model_at(server.url))
    said = str(caught.value)
    assert len(said) < 300
    assert "\n" not in said
    assert "\x1b" not in said
    assert "\u202e" not in said
