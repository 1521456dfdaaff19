"""Token ids in, a stream of text and token ids out."""

from understudy.engine.api import AnyEngine, EngineFacts, EngineOptions, EngineStats
from understudy.engine.backend import Backend, Cache, MemoryFigures, Step
from understudy.engine.constraint import Constraint
from understudy.engine.detokenizer import TextAssembler
from understudy.engine.engine import Engine
from understudy.engine.generation import Generation
from understudy.engine.paging import KvLayout, KvPages, PagedBackend
from understudy.engine.remote import RemoteEngine
from understudy.engine.request import Chunk, FinishReason, GenerationRequest, Usage
from understudy.engine.sampling import Sampler, SamplingParams

__all__ = [
    "AnyEngine",
    "Backend",
    "Cache",
    "Chunk",
    "Constraint",
    "Engine",
    "EngineFacts",
    "EngineOptions",
    "EngineStats",
    "FinishReason",
    "Generation",
    "GenerationRequest",
    "KvLayout",
    "KvPages",
    "MemoryFigures",
    "PagedBackend",
    "RemoteEngine",
    "Sampler",
    "SamplingParams",
    "Step",
    "TextAssembler",
    "Usage",
]
