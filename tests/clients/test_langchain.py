"""LangChain's own suite for chat models, run with its clients for NVIDIA and OpenAI: pytest -m clients.

The embedded model has 14 million parameters. What asks for its wits, and not for the protocol, may fail: docs/serve.md
lists these tests. What a client gets wrong by itself must fail: the day it passes, the line here goes.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_nvidia_ai_endpoints import ChatNVIDIA
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from openai import LengthFinishReasonError

pytestmark = [
    pytest.mark.clients,
    pytest.mark.asyncio(loop_scope="session"),  # ChatOpenAI keeps its connections from test to test
    pytest.mark.filterwarnings("default"),  # theirs are not ours
    pytest.mark.timeout(600),
]

DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"
# Wrong words, or too many, fail as one of these; an answer that is refused, or that the client cannot read, does not.
WRONG_WORDS = (AssertionError, OutputParserException, LengthFinishReasonError)
WITS = {
    "test_tool_calling": "the argument must be the number in the question",
    "test_tool_calling_async": "the argument must be the number in the question",
    "test_bind_runnables_as_tools": "the argument must not be empty",
    "test_tool_calling_with_no_arguments": "the question must move it to call just once",
    "test_unicode_tool_call_integration": "it must copy Chinese and Japanese",
    "test_agent_loop": "it must choose to call, once",
    "test_structured_output_optional_param": "it must come to the end of a text",
    "test_json_mode": "keys are told in words only",
}
NAME = "tells the name it was made with, whatever the answer says"
SCHEMA = "tells tracers another schema of a pydantic class than LangChain's"
TYPED = "takes no TypedDict"
CHAT_NVIDIA = {
    "test_invoke_with_model_override": NAME,
    "test_ainvoke_with_model_override": NAME,
    "test_stream_with_model_override": NAME,
    "test_astream_with_model_override": NAME,
    "test_structured_output[pydantic]": SCHEMA,
    "test_structured_output_async[pydantic]": SCHEMA,
    "test_structured_output[typeddict]": TYPED,
    "test_structured_output_async[typeddict]": TYPED,
    "test_structured_output_optional_param": TYPED,
}


class Suite(ChatModelIntegrationTests):
    address: ClassVar[str] = ""
    key: ClassVar[str] = ""
    faults: ClassVar[dict[str, str]] = {}  # of the client: tests and reasons

    @pytest.fixture(scope="class", autouse=True)
    def _point_at(self, server: str, key: str) -> None:
        Suite.address, Suite.key = f"{server}/v1", key

    @pytest.fixture(autouse=True)
    def _expect(self, request: pytest.FixtureRequest) -> None:
        test = request.node
        if test.name in self.faults:
            test.add_marker(pytest.mark.xfail(reason=f"the client {self.faults[test.name]}", strict=True))
        elif test.originalname in WITS:
            reason = f"intelligence: {WITS[test.originalname]}"
            test.add_marker(pytest.mark.xfail(reason=reason, raises=WRONG_WORDS, strict=False))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        server = {"model": "harrow", "base_url": self.address, "api_key": self.key}
        # So hot that texts come to an end soon: one that does not is no JSON.
        return {**server, "temperature": 1.6, "max_tokens": 500, "seed": 1}

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


class TestChatNVIDIA(Suite):
    faults = CHAT_NVIDIA

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatNVIDIA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "timeout": 600}


class TestChatOpenAI(Suite):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Elsewhere than at OpenAI this client asks a stream for no usage unless it is told to.
        return {**super().chat_model_params, "stream_usage": True}


def test_the_document_lists_what_measures_the_model() -> None:
    section = DOCUMENT.read_text().split("## Other people's suites")[1].split("\n## ")[0]
    assert set(re.findall(r"`(test_\w+)`", section)) == set(WITS)


def test_each_expectation_names_a_test() -> None:
    names = set(WITS) | {name.partition("[")[0] for name in CHAT_NVIDIA}
    assert names <= set(dir(ChatModelIntegrationTests))
