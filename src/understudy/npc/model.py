"""A loaded model that speaks: files, backend, engine and template behind one object."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from understudy.engine import AnyEngine, Backend, Engine, Generation, GenerationRequest, SamplingParams
from understudy.engine.constraint import Constraint
from understudy.engine.repetition import sequence_breakers
from understudy.errors import EngineError, RequestError
from understudy.model.backends import open_backend
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.gpu_limits import GpuLimits
from understudy.model.lora import beside_adapter, read_adapter, with_adapter
from understudy.model.native_backend import CpuBackend
from understudy.npc.card import Card, find_card
from understudy.npc.engine_process import can_start_engines, start_engine
from understudy.npc.fingerprint import ModelFingerprint
from understudy.npc.lorebook import Lorebook
from understudy.npc.memory import Memory
from understudy.npc.npc import Npc, NpcOptions
from understudy.npc.session import Session
from understudy.npc.state import RandomState, load_state, restore_kv
from understudy.npc.world import World, default_world
from understudy.prompt import (
    Conversation,
    Renderer,
    barred_token_ids,
    encode_pieces,
    stop_token_ids,
    visible_specials,
)
from understudy.retrieval import Lore
from understudy.tools.functions import FunctionTool
from understudy.tools.grammar import ToolChoice, json_schema_grammar, tool_grammar
from understudy.tools.guidance import GuidanceVocabulary

__all__ = ["Model"]

_LARGE_BYTES = 1 << 30
_DRY_MULTIPLIER = 0.8
_DRY_ALLOWED_LENGTH = 5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model ready to talk; close it, or use it in a `with`, to end its thread.

    Attributes:
        files: what was loaded.
        engine: what computes its answers.
        renderer: its prompt template.
        is_embedded: it is the one inside the package.
    """

    files: LoadedModel
    engine: AnyEngine
    renderer: Renderer
    is_embedded: bool = False

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        adapter: str | Path | None = None,
        backend: str = "auto",
        gpu: GpuLimits | None = None,
        own_process: bool | None = False,
    ) -> Self:
        """Load a GGUF file, a Hugging Face folder, or (None) the embedded model.

        Args:
            path: the file or folder.
            adapter: LoRA matrices to merge into it: `peft`'s folder, or llama.cpp's GGUF.
            backend: "cpu", "reference", "wgpu", or "auto" (see `model.backends.open_backend`).
            gpu: what "wgpu" may take of the GPU's memory and time.
            own_process: compute in a process beside this one, which then neither shares the interpreter's lock with
                the model nor a crash, but a tokenizer and an interpreter more of memory. None: where the weights take
                less than 1 GiB; a larger one's steps are so long that the lock does not matter.

        Raises:
            ModelFileError: a file is missing, damaged or foreign, or the adapter does not fit.
            EngineError: the backend does not exist or cannot run the model.
        """
        files = load_model(Path(path) if path else embedded_model_path(in_16_bits=adapter is not None))
        if adapter is not None:
            files = with_adapter(files, read_adapter(Path(adapter)))
        engine: AnyEngine
        if own_process is None:
            own_process = files.file_bytes < _LARGE_BYTES and can_start_engines()
        if own_process:
            limits = None if gpu is None else dataclasses.asdict(gpu)
            paths = {"path": Path(path) if path else None, "adapter": Path(adapter) if adapter else None}
            remote = start_engine(files, **paths, backend=backend, gpu=limits)
            remote.wait()
            engine = remote
        else:
            opened = open_backend(files.config, files.weights, backend, gpu=gpu)
            engine = Engine(opened, files.tokenizer)
        return cls(
            files=files,
            engine=engine,
            renderer=Renderer(
                files.tokenizer,
                chat_template=files.chat_template,
                bos_token_id=files.config.bos_token_id,
                eos_token_id=files.config.eos_token_id,
            ),
            is_embedded=path is None,
        )

    def adapted(self, adapter: str | Path) -> Self:
        """Another voice for a few megabytes: this model with LoRA matrices beside its own, which both share.

        They have keys and values, and a thread, of their own; close both.

        Args:
            adapter: `peft`'s folder, or llama.cpp's GGUF.

        Raises:
            ModelFileError: it is missing, damaged, or does not fit.
            EngineError: not the compiled kernels of this process compute the model.
        """
        found = read_adapter(Path(adapter))
        files = beside_adapter(self.files, found)
        if not self.can_share:
            raise EngineError("Only weights of --backend cpu in this process can be shared; load the adapter merged.")
        backend = cast("CpuBackend", self.backend).adapted({name: found.scaled(name) for name in found.pairs})
        return dataclasses.replace(self, files=files, engine=Engine(backend, files.tokenizer))

    @property
    def can_share(self) -> bool:
        """Whether `adapted` may be called."""
        return isinstance(self.engine, Engine) and isinstance(self.engine.backend, CpuBackend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's thread; what is being generated fails."""
        self.engine.close()

    @property
    def backend(self) -> Backend:
        """What computes it, in this process.

        Raises:
            EngineError: it has a process of its own.
        """
        if not isinstance(self.engine, Engine):
            raise EngineError("The model computes in a process of its own; load it without own_process.")
        return self.engine.backend

    @property
    def default_sampling(self) -> SamplingParams:
        """What suits the model where nobody says otherwise: a small one is drawn closer to its best token."""
        return SamplingParams(temperature=0.2 if self.is_embedded else 0.7, top_p=0.9)

    @functools.cached_property
    def character_sampling(self) -> SamplingParams:
        """What suits a long conversation: `default_sampling`, with a guard against going round in circles.

        Short repetitions are free: a price or a name is the same the second time.
        """
        return dataclasses.replace(
            self.default_sampling,
            dry_multiplier=_DRY_MULTIPLIER,
            dry_allowed_length=_DRY_ALLOWED_LENGTH,
            dry_breakers=sequence_breakers(self.files.tokenizer),
        )

    @functools.cached_property
    def fingerprint(self) -> ModelFingerprint:
        """Which model it is, for saved sessions; taken when it is first asked for."""
        return ModelFingerprint.of(self.files, self.engine.facts.kv)

    def npc(
        self,
        card: Card | Path | str,
        *,
        world: World | None = None,
        lore: Lore | None = None,
        lorebooks: Sequence[Lorebook] = (),
        memory: Memory | None = None,
        tools: Sequence[FunctionTool] = (),
        player: str = "traveller",
        options: NpcOptions | None = None,
        seed: int | None = None,
    ) -> Npc:
        """Seat a character at this model: `for piece in model.npc("minnow").say("Good evening!"):`.

        Args:
            card: a card, the path of one, or a name of the world's.
            world: where it lives; for a name, the package's sample world by default.
            lore: a database beside the world's own entries.
            lorebooks: the game's; the card's own comes before them.
            memory: where it keeps what it learns of the player, beyond this conversation.
            tools: functions of the game that it may call.
            player: what it calls the player.
            options: how it answers.
            seed: of its chance; default: a random one.

        Raises:
            CardError: there is no such character, or its card is damaged.
        """
        if isinstance(card, str):
            world = world or default_world()
            card = find_card(card, world)
        elif isinstance(card, Path):
            card = Card.load(card)
        session = Session(card, world, player, tools=tools, lore=lore, books=lorebooks, memory=memory)
        if seed is not None:
            session.random = RandomState(seed=seed)
        return Npc(self, session, options)

    def npc_from(
        self,
        path: str | Path,
        *,
        world: World | None = None,
        lore: Lore | None = None,
        lorebooks: Sequence[Lorebook] = (),
        memory: Memory | None = None,
        tools: Sequence[FunctionTool] = (),
        options: NpcOptions | None = None,
    ) -> Npc:
        """Go on with a character that `Npc.save` wrote.

        Keys and values of another model, or damaged ones, are left out with a warning: the model reads the text again.

        Args:
            path: the file.
            world: the one it was saved in; None: none, or the package's sample world.
            lore: as of `npc`.
            lorebooks: as of `npc`.
            memory: as of `npc`.
            tools: as of `npc`.
            options: as of `npc`.

        Raises:
            SaveError: the file is missing, damaged, or of another world.
        """
        saved = load_state(Path(path), engine=self.engine, fingerprint=self.fingerprint)
        if world is None and saved.document.get("world") is not None:
            world = default_world()
        session = Session.from_json(saved.document, source=str(path), world=world, tools=tools)
        session.lore, session.books, session.memory = lore, tuple(lorebooks), memory
        if saved.kv is not None:
            restore_kv(self.engine, saved.kv)
        return Npc(self, session, options)

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of the prompt, up to where the model's answer begins."""
        return encode_pieces(self.renderer.render(conversation), self.files.tokenizer)[0]

    def count(self, conversation: Conversation) -> int:
        """Length of the prompt, in tokens."""
        return len(self.encode(conversation))

    @functools.cached_property
    def vocabulary(self) -> GuidanceVocabulary:
        """The tokens as grammars see them; read when it is first asked for."""
        tokenizer = self.files.tokenizer
        return GuidanceVocabulary(
            tokenizer,
            vocab_size=self.files.config.vocab_size,
            stop_token_ids=stop_token_ids(tokenizer, self.files.config.eos_token_id),
        )

    def call_constraint(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        choice: ToolChoice | Mapping[str, Any] = "auto",
        is_parallel: bool = True,
        answer_schema: Any = None,
        answer_param: str = "response_format",
    ) -> Callable[[], Constraint]:
        """Free words, but a call that the model opens names one of these functions and fits its schema.

        Args:
            tools: OpenAI function schemas; none forbids calls.
            choice: whether and what must be called, see `tools.grammar.tool_grammar`.
            is_parallel: allow several calls in one answer.
            answer_schema: hold the words, too: JSON of this schema, where nothing is called; None for free words.
            answer_param: where that schema comes from, for errors.

        Raises:
            RequestError: a schema cannot be held to; the message says which and why.
        """
        grammar = tool_grammar(
            tools,
            self.files.tokenizer,
            choice=choice if tools else "none",
            is_parallel=is_parallel,
            answer_schema=answer_schema,
            answer_param=answer_param,
        )
        try:
            return self.vocabulary.compile(grammar)
        except RequestError:
            self._name_culprit(tools, answer_schema, answer_param)
            raise

    def _name_culprit(self, tools: Sequence[Mapping[str, Any]], answer_schema: Any, answer_param: str) -> None:
        """Raise the error of the one schema that cannot be held, where it cannot be held alone either."""
        for number, tool in enumerate(tools):
            param = f"tools[{number}].function.parameters"
            grammar = tool_grammar([tool], self.files.tokenizer, choice="required", is_parallel=False)
            self.vocabulary.compile(dataclasses.replace(grammar, param=param))
        if answer_schema is not None:
            self.vocabulary.compile(json_schema_grammar(answer_schema, param=answer_param))

    def generate(
        self,
        conversation: Conversation,
        *,
        sampling: SamplingParams | None = None,
        max_tokens: int | None = None,
        min_tokens: int = 0,
        stop: tuple[str, ...] = (),
        constraint: Callable[[], Constraint] | None = None,
        top_logprobs: int | None = None,
        deadline_s: float | None = None,
        reader_interval_s: float = 0.0,
    ) -> Generation:
        """Start an answer.

        Args:
            conversation: what the model is shown.
            sampling: how tokens are drawn; default: the model's own.
            max_tokens: longest answer, in tokens.
            min_tokens: so many tokens come before free text may end.
            stop: strings that end the text.
            constraint: what the answer must follow, e.g. `call_constraint`'s; default: nothing.
            top_logprobs: tell how likely each token was, and so many of the most likely; default: neither.
            deadline_s: after so many seconds it ends with what it has; None for never.
            reader_interval_s: as of `GenerationRequest`.

        Raises:
            ContextLengthError: the prompt is longer than the model's context.
            RequestError: a value is out of range.
        """
        tokenizer = self.files.tokenizer
        request = GenerationRequest(
            prompt_ids=tuple(self.encode(conversation)),
            sampling=sampling or self.default_sampling,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop=stop,
            stop_token_ids=stop_token_ids(tokenizer, self.files.config.eos_token_id),
            barred_token_ids=barred_token_ids(tokenizer, has_tools=bool(conversation.tools)),
            visible_specials=visible_specials(tokenizer),
            constraint=constraint,
            top_logprobs=top_logprobs,
            deadline_s=deadline_s,
            reader_interval_s=reader_interval_s,
        )
        return self.engine.submit(request)
