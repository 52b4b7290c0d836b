"""Speak the two wire formats of model servers: OpenAI's chat completions and Anthropic's messages.

Sources: the API references of both (chat/create with stream and stream_options; messages with stream). No answer and no
error contains the key.
"""

from __future__ import annotations

import codecs
import email.utils
import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from agent.format import plain
from agent.proposers.base import Unavailable
from agent.proposers.model import bounded_http
from agent.proposers.model.servers import OWN_KEY, OWN_SERVER, ModelSpec, headers_of, key_variable_of
from agent.system.masking import masked

LONGEST_ANSWER_SECONDS = 900.0
LONGEST_RETRY_SECONDS = 3600.0
LARGEST_COUNT = 10**8  # plausible number of tokens
LARGEST_REFUSAL = 4096  # bytes read from the body of an error
TICK_SECONDS = 0.2
# Parameters that some servers do not know, with the name that such servers use, if any. OpenAI's reasoning models
# reject the old name of the limit; most other servers know no other.
OTHER_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens", "stream_options": ""}
NOT_KNOWN = re.compile(
    r"(?:un|not |n't )support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra[_ ]|\binstead\b"
    r"|(?:invalid|no such) (?:parameter|argument|field|option)",
    re.IGNORECASE,
)
OF_ADDRESS = (404, 405, 410)  # statuses that are about where a request went
OF_REQUEST = (400, 413, 422)  # statuses that are about the content of a request
# What a server says if waiting does not help, because the account is out of credit.
NO_CREDIT = ("insufficient_quota", "credit balance", "billing", "exceeded your current quota")
ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|/)")
LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the end of a chunk may be half of an end
RATE_LIMITED = re.compile(r'"(?:code|type)":\s*"rate_limit_exceeded"')
# `Please try again in 1.5s`, and RetryInfo in Google's errors.
AMOUNT = r"((?:\d{1,3}(?:,\d{3}){1,2}|\d{1,9})(?:\.\d{1,9})?) ?(ms|milli|[dhms]?)[a-z]*,? ?(?:and )?"
RETRY_IN = re.compile(rf'(?:(?:retry|try again) (?:in|after)|"retryDelay":) ?"?((?:{AMOUNT}){{1,4}})', re.IGNORECASE)
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}  # any other unit is milliseconds

Message = Mapping[str, str]
T = TypeVar("T")

DONE: dict[str, Any] = {}  # the last event of a stream, recognized by identity
# What the reason for an end says if it was not the model's: length, max_tokens, content_filter, FINISH_REASON_SAFETY.
# Those of a whole answer have too many names.
CUTS = re.compile(
    r"length|max|limit|context|filter|safety|recitation|refus|error|fail|abort|cancel|pause|malformed|incomplete"
    r"|blocklist|blocked|prohibited|spii|guardrail|sensitive|insufficient|time_?out|interrupt|user_?stopped|unloaded",
    re.IGNORECASE,
)
CALLS = ("tool_calls", "tool_use", "function_call", "toolcalls")  # the model calls a tool, although there is none
LONGEST_FINISH = 40
TEXT_PARTS = ("text", "output_text", "text_delta")
# Errors of an address or of the kind of a proxy, before anything is sent.
UNSENT = (
    requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema,
    LocationValueError, bounded_http.Unsent,
)  # fmt: skip


# Model -> parameter -> the other name that its server takes, or "" for none; learned from refusals.
_learned: dict[ModelSpec, dict[str, str]] = {}


@dataclass(frozen=True)
class Answer:
    """An answer of a model.

    Attributes:
        input_tokens, output_tokens: None if the server does not report them.
        cut: whether the server ended it before the model did, such as at the token limit.
        finish: the server's reason for its end; empty if it gave none.
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None
    cut: bool = False
    finish: str = ""


class Refused(Unavailable):
    """The server is there, but rejects this request for what it says: another one may be answered.

    Attributes:
        said: the body of the refusal. It may contain the key.
    """

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(reason, lasting=True)
        self.said = said


class Broken(Unavailable):
    """The server received the request but gave no complete answer, and may charge for it."""


def complete(
    model: ModelSpec,
    system: str,
    messages: Sequence[Message],
    *,
    most_tokens: int,
    silence: float,
    tick: Callable[[], None],
) -> Answer:
    """Ask the model once; exceptions of `tick` propagate.

    Args:
        most_tokens: limit of the answer.
        silence: idle timeout in seconds.
        tick: called several times a second.

    Raises:
        Unavailable: the server gave no complete answer.
    """
    seconds = LONGEST_ANSWER_SECONDS
    try:
        return _in_background(lambda: _adapting(model, system, messages, most_tokens, silence), tick, seconds)
    except TimeoutError:
        raise Broken(f"{model.label} did not complete its answer within {seconds:g} s") from None


def _adapting(model: ModelSpec, system: str, messages: Sequence[Message], most_tokens: int, silence: float) -> Answer:
    """Ask once; again if the server refuses a parameter that has another name or is optional, once for each."""
    ends = time.monotonic() + LONGEST_ANSWER_SECONDS
    repeats = len(OTHER_NAMES)
    while True:
        address, body = _request(model, system, messages, most_tokens)
        try:
            return _ask(model, address, body, silence, max(0.1, ends - time.monotonic()))
        except Refused as refused:
            if repeats == 0 or time.monotonic() > ends or not _learn(model, body, refused.said):
                raise
            repeats -= 1


def _learn(model: ModelSpec, body: Mapping[str, Any], said: str) -> bool:
    """Remember the parameter that a refusal names as not known. Return whether there is one, not remembered before."""
    if model.format != "openai":  # Anthropic's has no other names
        return False
    learned = _learned.get(model, {})
    for name, other in OTHER_NAMES.items():
        if name in body and re.search(rf"\b{name}\b", said) and NOT_KNOWN.search(said):
            if name in learned.values():  # both names are refused, so the first refusal was not about the name
                _learned.pop(model, None)
                return False
            _learned[model] = {**learned, name: other}
            return name not in learned
    return False


def _ask(model: ModelSpec, address: str, body: Mapping[str, Any], silence: float, seconds: float) -> Answer:
    headers = headers_of(model)
    try:
        with bounded_http.exchange(
            "POST", address, headers=headers, json=body, silence=silence, seconds=seconds
        ) as response:
            if response.status_code != 200:
                raise _refusal(model, address, response)
            if "event-stream" in response.headers.get("Content-Type", "").lower():
                answer = _READ_STREAM[model.format](_events(response))
            else:
                answer = _READ_WHOLE[model.format](json.loads(b"".join(bounded_http.body(response))))
            # JSON can contain unpaired surrogates, which UTF-8 cannot encode.
            text = answer.text.encode(errors="replace").decode()
            if len(text) > bounded_http.LARGEST_ANSWER:
                raise bounded_http.Endless("it is endless")
            finish = _short(answer.finish, model)[:LONGEST_FINISH] if answer.finish else ""
            return replace(answer, text=_without_key(text, model), finish=finish)
    except Broken as broken:
        raise Broken(_short(broken, model)) from None
    except (requests.RequestException, LocationValueError) as error:
        raise _broken_off(model, error, silence) from None
    except (OSError, HTTPError, MemoryError) as error:
        raise Broken(f"the answer of {model.label} was cut off: {_short(error, model)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Broken(
            f"the answer of {model.label} is not in the {model.format} format: {_short(error, model)}"
        ) from None


def _request(
    model: ModelSpec, system: str, messages: Sequence[Message], most_tokens: int
) -> tuple[str, dict[str, Any]]:
    """Return the address and the body of a request."""
    said = [dict(message) for message in messages]
    if model.format == "anthropic":
        body = {"model": model.name, "max_tokens": most_tokens, "system": system, "messages": said, "stream": True}
        return f"{model.url}/v1/messages", body
    limit = "max_completion_tokens" if model.scheme == "openai" else "max_tokens"
    body = {
        "model": model.name,
        "messages": [{"role": "system", "content": system}, *said],
        limit: most_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name, other in _learned.get(model, {}).items():
        value = body.pop(name)
        if other:
            body[other] = value
    return f"{model.url}/chat/completions", body


def _refusal(model: ModelSpec, address: str, response: requests.Response) -> Unavailable:
    """Return the error for a status other than 200."""
    code = response.status_code
    said = _beginning(response)
    # The address is what is wrong most often, and `NAME_BASE_URL` is out of sight.
    at = f" at {_without_key(plain(address), model)}" if code in OF_ADDRESS else ""
    what = f"{model.label} answered {code}{at}: {_short(_message(said) or response.reason or '(nothing)', model)}"
    if code in (401, 403):
        return Unavailable(f"{what}; {_about_key(model)}", lasting=True)
    wait = _wanted_wait(response.headers, said)
    temporary = code in (408, 409, 425, 429) or code >= 500
    # Errors of per-minute limits mention quotas and billing too, but only they give a time to wait.
    timed = wait is not None or "Retry-After" in response.headers
    limited = temporary and (timed or RATE_LIMITED.search(said) is not None)
    if code == 402 or (not limited and any(words in said.lower() for words in NO_CREDIT)):
        return Unavailable(f"{what}; the quota is used up", lasting=True)
    if temporary:
        return Unavailable(what, wait)
    if code in OF_REQUEST:
        # The reason of many a proxy is all that it says.
        return Refused(what, said or response.reason or "")
    return Unavailable(what, lasting=True)


def _about_key(model: ModelSpec) -> str:
    """Say what to do about the key that a server rejected or missed."""
    variable = key_variable_of(model.scheme)
    if not variable:  # this scheme sends no key, whatever is exported
        return f"`{model.scheme}:` sends no key: export {OWN_KEY}=... and use --model '{OWN_SERVER}'"
    return "check the API key" if model.key else f"export {variable}=..., because no API key was sent"


def _wanted_wait(headers: Mapping[str, str], said: str) -> float | None:
    """Return the seconds that a server asks to wait, in a header or in its message, or None."""
    if (wait := _retry_after(headers.get("Retry-After"))) is not None:
        return wait
    if (wait := _retry_after(headers.get("retry-after-ms"), unit=1e-3)) is not None:
        return wait
    words = RETRY_IN.search(said)
    if words is None:
        return None
    amounts = re.findall(AMOUNT, words[1], re.IGNORECASE)
    seconds = sum(float(count.replace(",", "")) * UNITS.get(unit.lower(), 1e-3) for count, unit in amounts)
    return min(seconds, LONGEST_RETRY_SECONDS)


def _beginning(response: requests.Response) -> str:
    """Return the beginning of an error's body; empty if it is cut off or compressed: the status is enough."""
    if bounded_http.is_packed(response):
        return ""
    try:
        return response.raw.read(LARGEST_REFUSAL, decode_content=True).decode(errors="replace").strip()
    except (HTTPError, OSError, ValueError):
        return ""


def _broken_off(model: ModelSpec, error: Exception, silence: float) -> Unavailable:
    """Return the error for a failed connection."""
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(cause, NewConnectionError | ConnectTimeoutError | ProxyError | SSLError):
        return Unavailable(f"cannot reach {model.label} at {model.url}: {_short(cause, model)}")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return Broken(f"{model.label} was idle for {silence:g} s")
    if isinstance(error, UNSENT):
        return Unavailable(f"cannot ask {model.label} at {model.url}: {_short(error, model)}", lasting=True)
    return Broken(f"the answer of {model.label} was cut off: {_short(error, model)}")


def _message(said: str) -> str:
    """Return the message in the body of an error, or the whole body if it has none."""
    try:
        content = json.loads(said)
    except (ValueError, RecursionError):  # cut off, for one: a key in it may be escaped, and would not be recognized
        return ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", said)
    error = content.get("error") or content.get("detail") or content if isinstance(content, dict) else content
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _retry_after(header: str | None, unit: float = 1.0) -> float | None:
    """Return the seconds to wait, an hour at most, from a header with a number or a date (RFC 9110, 10.2.3).

    Args:
        unit: of the number, in seconds.
    """
    if header is None:
        return None
    try:
        try:
            seconds = float(header) * unit
        except ValueError:
            date = email.utils.parsedate_tz(header)
            if date is None:
                return None
            seconds = email.utils.mktime_tz(date) - time.time()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), LONGEST_RETRY_SECONDS)


def _events(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events (WHATWG HTML, 9.2)."""
    data: list[bytes] = []
    for line in _lines(response):
        part = line[5:].strip() if line.startswith(b"data:") else b""
        if part:
            data.append(part)
        if not data or (line and len(data) > 1):
            continue
        try:
            event = _content(data)
        except json.JSONDecodeError:
            if line:
                continue
            raise
        # Several servers leave out the empty line after an event: a first line that is JSON is the whole of it.
        data.clear()
        if isinstance(event, dict):
            yield event
    if data and isinstance(event := _content(data), dict):
        yield event


def _content(data: Sequence[bytes]) -> Any:
    whole = b"\n".join(data)
    return DONE if whole == b"[DONE]" else json.loads(whole)


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Yield the lines of a stream, without their ends and a byte order mark. A last line without an end is [DONE]."""
    rest = bytearray()  # split only at the end of a line, because chunks may have one byte each
    first = True
    for chunk in bounded_http.body(response, bounded_http.LARGEST_STREAM):
        rest += chunk
        if len(rest) > bounded_http.LARGEST_ANSWER:
            raise bounded_http.Endless("it is endless")
        if b"\n" not in chunk and b"\r" not in chunk:
            continue
        *lines, rest = map(bytearray, LINE_END.split(rest))
        for line in lines:
            yield bytes(line.removeprefix(codecs.BOM_UTF8) if first else line)
            first = False
    if rest.removeprefix(b"data:").strip() == b"[DONE]":
        yield bytes(rest)


def _openai_stream(events: Iterator[dict[str, Any]]) -> Answer:
    text: list[str] = []
    usage: Mapping[str, Any] = {}
    finish, ended = None, False
    for event in events:
        _check_reports_none(event)
        # Several gateways end the stream without a finish reason.
        ended = ended or event is DONE
        usage = _usage(event) or usage
        for choice in event.get("choices") or []:
            if choice and not choice.get("index"):
                text.append(_said((choice.get("delta") or {}).get("content")))
                finish = choice.get("finish_reason") or finish
    if finish is None and not ended:
        raise Broken("the stream ended in the middle of the answer")
    return _ended(Answer("".join(text), *_openai_tokens(usage)), finish)


def _openai_whole(content: dict[str, Any]) -> Answer:
    _check_reports_none(content)
    tokens = _openai_tokens(_usage(content))
    choices = content.get("choices")
    if not choices and _usage(content):  # it was counted, so it is an answer, which has no text
        return Answer("", *tokens)
    if not choices:
        raise ValueError(f"no choices in {json.dumps(content)}")
    choice = choices[0]
    return _ended(Answer(_said(choice["message"].get("content")), *tokens), choice.get("finish_reason"))


def _check_reports_none(content: Mapping[str, Any]) -> None:
    """Check that an event or a whole answer is no error.

    Raises:
        Broken: it is one; the text has its message.
    """
    # FastAPI, which many gateways use, has its own name for an error.
    alone = bool(content.get("detail")) and not {"choices", "content"} & set(content)
    if content.get("error") or content.get("type") == "error" or alone:
        raise Broken(f"the server reported an error: {_message(json.dumps(content))}")


def _ended(answer: Answer, finish: object) -> Answer:
    """Return the answer with the reason for its end, and whether that cut it off."""
    if not isinstance(finish, str):
        return answer
    return replace(answer, finish=finish.strip(), cut=CUTS.search(finish) is not None)


def _said(content: Any) -> str:
    """Return the text of a message: the content itself, or its text parts without thinking and images.

    Raises:
        TypeError: the content has another type.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, dict):
        if content.get("type", "text") not in TEXT_PARTS:
            return ""
        return _said(content.get("text"))
    if isinstance(content, list):
        return "".join(map(_said, content))
    raise TypeError(f"expected text, got {type(content).__name__}")


def _openai_tokens(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _anthropic_stream(events: Iterator[dict[str, Any]]) -> Answer:
    text: list[str] = []
    usage: dict[str, Any] = {}
    finish, ended = None, False
    for event in events:
        kind = event.get("type")
        _check_reports_none(event)
        if kind == "message_start":
            begun = _usage(event.get("message") or {})
            usage.update({name: value for name, value in begun.items() if name != "output_tokens"})  # of no text yet
        elif kind == "content_block_delta":
            text.append(_said(event.get("delta")))
        elif kind == "message_delta":
            usage.update(_usage(event))
            finish = (event.get("delta") or {}).get("stop_reason") or finish
        ended = ended or kind == "message_stop" or event is DONE
    if not ended:
        raise Broken("the stream ended in the middle of the answer")
    return _ended(Answer("".join(text), _anthropic_input(usage), _count(usage.get("output_tokens"))), finish)


def _anthropic_whole(content: dict[str, Any]) -> Answer:
    _check_reports_none(content)
    usage = _usage(content)
    if content.get("content") is None and not usage:
        raise TypeError(f"no content in {json.dumps(content)}")
    text = _said(content.get("content"))
    return _ended(Answer(text, _anthropic_input(usage), _count(usage.get("output_tokens"))), content.get("stop_reason"))


def _anthropic_input(usage: Mapping[str, Any]) -> int | None:
    """Return the number of input tokens, including those read from or written to a cache, which are reported apart."""
    if "input_tokens" not in usage:
        return None
    parts = [_count(usage["input_tokens"])]
    # Null if no cache was used.
    caches = ("cache_creation_input_tokens", "cache_read_input_tokens")
    parts += [_count(usage[name]) for name in caches if usage.get(name) is not None]
    told = [part for part in parts if part is not None]
    return sum(told) if len(told) == len(parts) else None


def _usage(content: Mapping[str, Any]) -> Mapping[str, Any]:
    usage = content.get("usage")
    return usage if isinstance(usage, dict) else {}


def _count(tokens: object) -> int | None:
    """Return a number of tokens, or None for anything that cannot be one, as if it were not reported."""
    whole = isinstance(tokens, int) and not isinstance(tokens, bool)
    return tokens if whole and 0 <= tokens <= LARGEST_COUNT else None  # type: ignore[operator, return-value]


_READ_STREAM = {"openai": _openai_stream, "anthropic": _anthropic_stream}
_READ_WHOLE = {"openai": _openai_whole, "anthropic": _anthropic_whole}


def _short(error: object, model: ModelSpec) -> str:
    """Return an error on one line of at most 200 characters, without the key."""
    # urllib3 begins with the connection: `HTTPConnection(host='127.0.0.1', port=9): Failed to ...`.
    text = re.sub(r"^\w+\(host=[^)]*\): ", "", " ".join(plain(str(error)).split()))
    return _without_key(text, model)[:200] or type(error).__name__


def _without_key(text: str, model: ModelSpec) -> str:
    """Remove the key, because a server may repeat it, and its words are kept."""
    return masked(text, {model.key: "***"})


def _in_background(work: Callable[[], T], tick: Callable[[], None], seconds: float) -> T:
    """Return the result of `work`, run in a thread so that neither Ctrl-C nor a trickling answer waits for the network.

    Raises:
        TimeoutError: it takes longer than `seconds`; the thread ends at its own deadline.
    """
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, name="asks a model", daemon=True).start()
    ends = time.monotonic() + seconds
    while True:
        try:
            result, error = results.get(timeout=TICK_SECONDS)
        except queue.Empty:
            tick()
            if time.monotonic() > ends:
                raise TimeoutError from None
            continue
        if error is not None:
            raise error
        return result  # type: ignore[return-value]
