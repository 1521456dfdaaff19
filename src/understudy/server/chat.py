"""`POST /v1/chat/completions`."""

import asyncio
import functools
import math

from fastapi import Request, Response

from understudy.engine import Generation
from understudy.errors import UnderstudyError
from understudy.server.answered import note_answered
from understudy.server.answers import Answers
from understudy.server.body import read_body
from understudy.server.connection import STREAM_HEADERS, EventStream, client_gone, ignored_header, unless_gone
from understudy.server.conversation import read_conversation
from understudy.server.form import answer_form
from understudy.server.logprobs import WordLogprobs
from understudy.server.npc_character import in_character
from understudy.server.problem import JsonResponse
from understudy.server.sampling import guard_sampling, nth_sampling, read_sampling
from understudy.server.schema import ChatRequest, parse_chat_request
from understudy.server.served import ServedModel, Shelf

__all__ = ["answer_chat"]

_QUICK_CHARS = 4096
_QUICK_FIELDS = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "seed"}
    | {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"}
)


async def answer_chat(request: Request, shelf: Shelf) -> Response:
    """Answer a request, whole or as a stream.

    Raises:
        Problem: the request is at fault.
        UnderstudyError: the engine failed, or found a fault.
    """
    body = await read_body(request, parse_chat_request)
    served = shelf.find(body.model)
    served.admit()
    with served.in_use():
        if _is_quick(body):
            answers, num_left_out = _start(body, served)
        else:  # encoding a long prompt and compiling a grammar take a while; health probes must not wait for it
            answers, num_left_out = await asyncio.to_thread(_start, body, served)
    note_answered(
        request,
        "chat",
        body,
        model=served.name,
        answer_id=answers.id,
        generations=lambda: answers.generations,
        reasons=lambda: [answers.reasons[n] for n in sorted(answers.reasons)],
    )
    headers = ignored_header(body.ignored_fields)
    if num_left_out:
        headers["x-left-out-calls"] = str(num_left_out)
    watch = asyncio.create_task(client_gone(request.receive))
    if not body.stream:
        try:
            return JsonResponse(await unless_gone(answers.whole(), watch), headers=headers)
        finally:
            watch.cancel()
            answers.cancel()
    has_usage = bool(body.stream_options and body.stream_options.include_usage)
    events = answers.events(has_usage=has_usage)
    try:
        # Whatever fails before the first token is still an HTTP status.
        first = await unless_gone(anext(events), watch)
    except BaseException:
        watch.cancel()
        answers.cancel()
        raise
    return EventStream(first, events, answers.cancel, watch, headers={**STREAM_HEADERS, **headers})


def _is_quick(body: ChatRequest) -> bool:
    """Whether beginning to answer is sooner done than handed to another thread: few words, and no grammar."""
    is_plain = body.model_fields_set <= _QUICK_FIELDS
    return is_plain and sum(len(message.content or "") for message in body.messages) <= _QUICK_CHARS


def _start(body: ChatRequest, served: ServedModel) -> tuple[Answers, int]:
    """Begin to answer; with the number of calls in the history that the model is not shown."""
    conversation, num_left_out = read_conversation(body)
    sampling = read_sampling(body, served.model.default_sampling)
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if body.character is not None:
        conversation = in_character(conversation, body.character, served.model, max_tokens=max_tokens)
    sampling = guard_sampling(sampling, body, served.model, conversation)
    form = answer_form(body, served.model)
    interval_s = served.options.stream_interval_ms / 1000
    start = functools.partial(
        served.model.generate,
        conversation,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        stop=tuple(body.stop),
        constraint=form.constraint,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        deadline_s=served.options.max_request_s,
        reader_interval_s=interval_s if body.stream else math.inf,
    )
    generations: list[Generation] = []
    try:
        for number in range(body.n or 1):
            generations.append(start(sampling=nth_sampling(sampling, number)))  # noqa: PERF401 (what is begun must be cancelled)
    except UnderstudyError:
        for generation in generations:
            generation.cancel()
        raise
    new_logprobs = functools.partial(WordLogprobs, served.model.files.tokenizer, is_exact=form.is_exact)
    answers = Answers(
        generations,
        model=body.model,
        new_reader=form.new_reader,
        called=form.called,
        new_logprobs=new_logprobs if body.logprobs else None,
        interval_s=interval_s,
    )
    return answers, num_left_out
