"""`POST /v1/completions`: a text, or token ids, go on."""

import asyncio
import contextlib
import dataclasses
import math
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import BeforeValidator, Field, ValidationError

from understudy.engine import Generation, GenerationRequest
from understudy.errors import ContextLengthError, RequestError, UnderstudyError
from understudy.prompt import stop_token_ids
from understudy.server.answered import note_answered
from understudy.server.answers import Answers, Delta, event_text
from understudy.server.body import read_body
from understudy.server.connection import STREAM_HEADERS, EventStream, client_gone, ignored_header, unless_gone
from understudy.server.logprobs import WordLogprobs
from understudy.server.problem import JsonResponse, Problem, problem_of
from understudy.server.reading import FormReader
from understudy.server.sampling import guard_sampling, nth_sampling, read_sampling
from understudy.server.schema import SampledRequest, Whole, field_problem, unsupported
from understudy.server.served import ServedModel, Shelf

__all__ = ["CompletionRequest", "answer_completion", "prompt_ids", "read_prompts"]

_MAX_PROMPTS = 32
_MAX_SEQUENCES = 32
_MAX_LOGPROBS = 5
_DEFAULT_TOKENS = 16
_UNSUPPORTED = frozenset(
    {"suffix", "nvext", "response_format", "structured_outputs", "guided_json", "guided_choice", "guided_regex"}
    | {"guided_grammar", "prompt_logprobs", "use_beam_search", "stop_token_ids", "ignore_eos"}
    | {"allowed_token_ids", "bad_words", "prompt_embeds"}
)
_WITHOUT_EFFECT = frozenset({"user", "metadata", "store"})


def read_prompts(value: Any, *, most: int = _MAX_PROMPTS) -> Any:
    """One prompt or several as a list of texts or of token ids.

    Raises:
        ValueError: it is neither, or there are too many or empty ones.
    """
    is_ids = isinstance(value, list) and bool(value) and all(type(v) is int for v in value)
    prompts = [value] if isinstance(value, str) or is_ids else value
    kinds = isinstance(prompts, list) and all(
        isinstance(p, str) or (isinstance(p, list) and bool(p) and all(type(v) is int for v in p)) for p in prompts
    )
    if not kinds or not 1 <= len(prompts) <= most or "" in prompts:
        raise ValueError(f"must be a text, a list of token ids, or a list of up to {most} of these, none empty")
    return prompts


class CompletionRequest(SampledRequest):
    """The body of `POST /v1/completions`."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(read_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]
    echo: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=_MAX_LOGPROBS)] | None = None
    best_of: Whole | None = None

    @property
    def ignored_fields(self) -> list[str]:
        """Fields that nobody here knows."""
        return sorted(set(self.model_extra or {}) - _WITHOUT_EFFECT - _UNSUPPORTED)


def _parse(value: Mapping[str, Any]) -> CompletionRequest:
    """Check a body.

    Raises:
        Problem: the first fault.
    """
    for name in sorted(_UNSUPPORTED & value.keys()):
        if value[name] not in (None, "", False, 0, [], {}):
            raise unsupported(name)
    try:
        request = CompletionRequest.model_validate(value)
    except ValidationError as error:
        raise field_problem(error.errors(include_url=False)[0]) from error
    faults = {
        "stream_options": request.stream_options is not None and not request.stream,
        "best_of": request.best_of not in (None, request.n or 1),
        "echo": bool(request.echo) and request.logprobs is not None,
        "n": len(request.prompt) * (request.n or 1) > _MAX_SEQUENCES,
    }
    reasons = {
        "stream_options": 'is only allowed with "stream": true',
        "best_of": "must be n, or be left out: all choices are given",
        "echo": "cannot be combined with logprobs",
        "n": f"asks for more than {_MAX_SEQUENCES} choices over all prompts",
    }
    for name, is_fault in faults.items():
        if is_fault:
            raise Problem(400, f"{name} {reasons[name]}.", param=name, code="invalid_value")
    return request


def prompt_ids(prompt: str | Sequence[int], served: ServedModel, *, param: str) -> tuple[int, ...]:
    """Token ids of a prompt: a text is plain text, whatever it looks like; special tokens come as ids only.

    Raises:
        RequestError: an id is not in the vocabulary.
        ContextLengthError: it is longer than the context.
    """
    files = served.model.files
    ids = tuple(files.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
    if ids and not 0 <= min(ids) <= max(ids) < files.config.vocab_size:
        raise RequestError(f"{param}: token ids must be from 0 to {files.config.vocab_size - 1}.", param=param)
    if len(ids) > served.max_model_len:
        error = ContextLengthError(len(ids), served.max_model_len)
        error.param = param
        raise error
    return ids


async def answer_completion(request: Request, shelf: Shelf) -> Response:
    """Answer a request, whole or as a stream.

    Raises:
        Problem: the request is at fault.
        UnderstudyError: the engine failed, or found a fault.
    """
    body = await read_body(request, _parse)
    served = shelf.find(body.model)
    served.admit()
    with served.in_use():
        texts = await asyncio.to_thread(_start, body, served)
    note_answered(
        request,
        "text_completion",
        body,
        model=served.name,
        answer_id=texts.id,
        generations=lambda: texts.answers.generations,
        reasons=lambda: [texts.answers.reasons[n] for n in sorted(texts.answers.reasons)],
        num_input_tokens=texts.num_prompt_tokens,
    )
    headers = ignored_header(body.ignored_fields)
    watch = asyncio.create_task(client_gone(request.receive))
    if not body.stream:
        try:
            return JsonResponse(await unless_gone(texts.whole(), watch), headers=headers)
        finally:
            watch.cancel()
            texts.cancel()
    events = texts.events(has_usage=bool(body.stream_options and body.stream_options.include_usage))
    try:
        first = await unless_gone(anext(events), watch)
    except BaseException:
        watch.cancel()
        texts.cancel()
        raise
    return EventStream(first, events, texts.cancel, watch, headers={**STREAM_HEADERS, **headers})


def _start(body: CompletionRequest, served: ServedModel) -> "_Texts":
    model, n = served.model, body.n or 1
    sampling = read_sampling(body, model.default_sampling)
    sampling = guard_sampling(sampling, body, model)
    interval_s = served.options.stream_interval_ms / 1000
    prompts = [prompt_ids(prompt, served, param="prompt") for prompt in body.prompt]
    requests = [
        GenerationRequest(
            prompt_ids=ids,
            sampling=nth_sampling(sampling, number),
            max_tokens=body.max_tokens or _DEFAULT_TOKENS,
            min_tokens=body.min_tokens or 0,
            stop=tuple(body.stop),
            stop_token_ids=stop_token_ids(model.files.tokenizer, model.files.config.eos_token_id),
            top_logprobs=body.logprobs,
            deadline_s=served.options.max_request_s,
            reader_interval_s=interval_s if body.stream else math.inf,
        )
        for ids in prompts
        for number in range(n)
    ]
    generations: list[Generation] = []
    try:
        for one in requests:
            generations.append(served.engine.submit(one))  # noqa: PERF401 (what is begun must be cancelled)
    except UnderstudyError:
        for generation in generations:
            generation.cancel()
        raise
    tokenizer = model.files.tokenizer
    echoes = [p if isinstance(p, str) else tokenizer.decode(p) for p in body.prompt] if body.echo else []
    answers = Answers(
        generations,
        model=body.model,
        new_reader=FormReader,
        new_logprobs=(lambda: WordLogprobs(tokenizer, is_exact=True)) if body.logprobs is not None else None,
        interval_s=interval_s,
    )
    heads = [echoes[number // n] for number in range(len(generations))] if echoes else [""] * len(generations)
    return _Texts(answers, heads, num_prompt_tokens=sum(map(len, prompts)), has_logprobs=body.logprobs is not None)


class _Texts:
    """All choices of one request, in the form of the legacy route."""

    def __init__(self, answers: Answers, heads: list[str], *, num_prompt_tokens: int, has_logprobs: bool) -> None:
        self.answers = answers
        self._heads = heads  # what each choice begins with
        self.num_prompt_tokens = num_prompt_tokens
        self._has_logprobs = has_logprobs
        self.id = f"cmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self.cancel = answers.cancel

    async def whole(self) -> dict[str, Any]:
        for generation in self.answers.generations:
            generation.chunk_interval_s = math.inf  # nobody reads before the end
        merged = [Delta(number, text=head) for number, head in enumerate(self._heads)]
        async for delta in self.answers.deltas():
            old = merged[delta.index]
            merged[delta.index] = dataclasses.replace(
                delta, text=old.text + delta.text, logprobs=old.logprobs + delta.logprobs
            )
        return {**self._head(), "choices": [self._choice(delta, 0) for delta in merged], "usage": self._usage()}

    async def events(self, *, has_usage: bool) -> AsyncGenerator[str]:
        offsets: dict[int, int] = {}
        usage: dict[str, Any] = {"usage": None} if has_usage else {}
        head = self._head()
        try:
            async with contextlib.aclosing(self.answers.deltas()) as deltas:
                async for delta in deltas:
                    if delta.index not in offsets:
                        offsets[delta.index] = 0
                        delta = dataclasses.replace(delta, text=self._heads[delta.index] + delta.text)  # noqa: PLW2901
                    choice = self._choice(delta, offsets[delta.index])
                    offsets[delta.index] += sum(len(entry["token"]) for entry in delta.logprobs)
                    yield event_text({**head, "choices": [choice], **usage})
        except (UnderstudyError, Problem) as error:
            if not offsets:
                raise
            problem = error if isinstance(error, Problem) else problem_of(error)
            yield f"{event_text(problem.to_json(is_in_stream=True))}data: [DONE]\n\n"
        else:
            counted = {**head, "choices": [], "usage": self._usage()}
            yield f"{event_text(counted) if has_usage else ''}data: [DONE]\n\n"

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self._created, "model": self.answers.model}

    def _usage(self) -> dict[str, int]:
        completion = self.answers.usage()["completion_tokens"]
        prompt = self.num_prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _choice(self, delta: Delta, offset: int) -> dict[str, Any]:
        return {
            "text": delta.text,
            "index": delta.index,
            "logprobs": _logprobs(delta.logprobs, offset) if self._has_logprobs else None,
            "finish_reason": delta.finish_reason,
        }


def _logprobs(entries: Sequence[Mapping[str, Any]], offset: int) -> dict[str, Any]:
    """The legacy form: four lists, one place a token."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries],
        "text_offset": offsets,
    }
