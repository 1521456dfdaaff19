"""The model over HTTP, as OpenAI's chat API and NVIDIA's NIM answer."""

from understudy.server.app import create_app
from understudy.server.listen import run_server
from understudy.server.served import ServedModel, load_served_model

__all__ = ["ServedModel", "create_app", "load_served_model", "run_server"]
