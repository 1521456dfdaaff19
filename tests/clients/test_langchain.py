"""LangChain's own suite for chat models, run with its clients for NVIDIA and OpenAI: pytest -m clients.

The embedded model has 14 million parameters. What asks for its wits, and not for the protocol, is expected to fail,
test by test.
"""

from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_nvidia_ai_endpoints import ChatNVIDIA
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

pytestmark = [
    pytest.mark.clients,
    pytest.mark.asyncio(loop_scope="session"),  # ChatOpenAI keeps its connections from test to test
    pytest.mark.filterwarnings("default"),  # theirs are not ours
]


def wits(reason: str) -> pytest.MarkDecorator:
    """A test that measures the model; by luck it may pass."""
    return pytest.mark.xfail(reason=f"intelligence: {reason}", strict=False)


def client(reason: str) -> pytest.MarkDecorator:
    """A test that the client fails by itself, whatever the server answers."""
    return pytest.mark.xfail(reason=f"the client {reason}", strict=False)


class Suite(ChatModelIntegrationTests):
    address: ClassVar[str] = ""
    key: ClassVar[str] = ""

    @pytest.fixture(scope="class", autouse=True)
    def _point_at(self, server: str, key: str) -> None:
        Suite.address, Suite.key = f"{server}/v1", key

    @property
    def chat_model_params(self) -> dict[str, Any]:
        server = {"model": "harrow", "base_url": self.address, "api_key": self.key}
        return {**server, "temperature": 0.8, "max_tokens": 1000, "seed": 1}

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "nvidia/nemotron-mini-4b-instruct"

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @wits("the arguments must be the number in the question")
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @wits("the arguments must be the number in the question")
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @wits("the argument must not be empty")
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

    @wits("the question must move it to call just once")
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @wits("it must copy Chinese and Japanese")
    def test_unicode_tool_call_integration(self, model: BaseChatModel, **how: Any) -> None:
        super().test_unicode_tool_call_integration(model, **how)

    @wits("it must choose to call, once")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @wits("it must come to the end of a text")
    def test_structured_output_optional_param(self, model: BaseChatModel) -> None:
        super().test_structured_output_optional_param(model)

    @wits("keys are told in words only")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)


class TestChatNVIDIA(Suite):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatNVIDIA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "timeout": 600}

    @client("tells the name it was made with, whatever the answer says")
    def test_invoke_with_model_override(self, model: BaseChatModel) -> None:
        super().test_invoke_with_model_override(model)

    @client("tells the name it was made with, whatever the answer says")
    async def test_ainvoke_with_model_override(self, model: BaseChatModel) -> None:
        await super().test_ainvoke_with_model_override(model)

    @client("tells the name it was made with, whatever the answer says")
    def test_stream_with_model_override(self, model: BaseChatModel) -> None:
        super().test_stream_with_model_override(model)

    @client("tells the name it was made with, whatever the answer says")
    async def test_astream_with_model_override(self, model: BaseChatModel) -> None:
        await super().test_astream_with_model_override(model)

    @client("takes no TypedDict, and tells tracers another schema of a pydantic class")
    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    def test_structured_output(self, model: BaseChatModel, schema_type: str) -> None:
        super().test_structured_output(model, schema_type)

    @client("takes no TypedDict, and tells tracers another schema of a pydantic class")
    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    async def test_structured_output_async(self, model: BaseChatModel, schema_type: str) -> None:
        await super().test_structured_output_async(model, schema_type)

    @client("takes no TypedDict")
    def test_structured_output_optional_param(self, model: BaseChatModel) -> None:
        super().test_structured_output_optional_param(model)


class TestChatOpenAI(Suite):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Elsewhere than at OpenAI this client asks a stream for no usage unless it is told to.
        return {**super().chat_model_params, "stream_usage": True}
