"""Token ids in, a stream of text and token ids out."""

from understudy.engine.backend import Backend, Cache, MemoryFigures, Step
from understudy.engine.constraint import Constraint
from understudy.engine.detokenizer import TextAssembler
from understudy.engine.engine import Engine, EngineOptions, EngineStats
from understudy.engine.generation import Generation
from understudy.engine.paging import KvPages, PagedBackend
from understudy.engine.request import Chunk, FinishReason, GenerationRequest, Usage
from understudy.engine.sampling import Sampler, SamplingParams

__all__ = [
    "Backend",
    "Cache",
    "Chunk",
    "Constraint",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "FinishReason",
    "Generation",
    "GenerationRequest",
    "KvPages",
    "MemoryFigures",
    "PagedBackend",
    "Sampler",
    "SamplingParams",
    "Step",
    "TextAssembler",
    "Usage",
]
