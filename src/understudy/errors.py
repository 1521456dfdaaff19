"""The one tree of errors; every message says what came, what was expected and how to mend it."""

__all__ = [
    "CardError",
    "ContextLengthError",
    "DataError",
    "DeviceLostError",
    "EngineError",
    "GpuError",
    "GpuMemoryError",
    "LoreError",
    "ModelFileError",
    "PromptError",
    "RecipeError",
    "RequestError",
    "SaveError",
    "ServeError",
    "ToolError",
    "UnderstudyError",
]


class UnderstudyError(Exception):
    """Root of all errors that a user can mend; the text is one clear sentence."""


class ModelFileError(UnderstudyError):
    """A model file or folder is missing, truncated, foreign or inconsistent."""


class CardError(UnderstudyError):
    """A character card or world folder cannot be used."""


class LoreError(UnderstudyError):
    """A lore folder, its database, or what characters remember in it cannot be used."""


class SaveError(UnderstudyError):
    """A saved conversation cannot be read or written."""


class ToolError(UnderstudyError):
    """A game's function cannot be described, loaded or called."""


class ServeError(UnderstudyError):
    """The server cannot listen where it was told to."""


class DataError(UnderstudyError):
    """Training data is missing or malformed."""


class RecipeError(UnderstudyError):
    """A training recipe has a wrong key or value."""


class PromptError(UnderstudyError):
    """Messages cannot be rendered to a prompt."""


class EngineError(UnderstudyError):
    """The engine cannot go on (closed, or its backend failed)."""


class GpuError(EngineError):
    """A graphics adapter is missing, cannot do what is needed, or refused a command."""


class GpuMemoryError(GpuError):
    """A graphics adapter has, or may give, less memory than is needed."""


class DeviceLostError(GpuError):
    """A graphics adapter went away: reset, removed, or its driver crashed."""


class RequestError(UnderstudyError):
    """A generation parameter is out of range.

    Attributes:
        param: name of the offending parameter, as the caller spells it.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(RequestError):
    """The prompt is longer than the model's context.

    Attributes:
        num_prompt_tokens: length of the prompt, in tokens.
        max_tokens: the model's limit, in tokens.
    """

    def __init__(self, num_prompt_tokens: int, max_tokens: int) -> None:
        super().__init__(
            f"This model's maximum context length is {max_tokens} tokens. However, your messages "
            f"resulted in {num_prompt_tokens} tokens. Please shorten the messages, the documents or the tools.",
            param="messages",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
