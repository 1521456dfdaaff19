"""The model over HTTP, as OpenAI's chat API and NVIDIA's NIM answer."""

from understudy.server.app import create_app
from understudy.server.keys import KeyRing, write_new_key
from understudy.server.listen import run_server
from understudy.server.log_lines import set_up_log
from understudy.server.npc_stores import NpcStores
from understudy.server.options import ServerOptions
from understudy.server.served import ServedModel, load_served_model
from understudy.server.tracing import Tracing, is_tracing_installed

__all__ = [
    "KeyRing",
    "NpcStores",
    "ServedModel",
    "ServerOptions",
    "Tracing",
    "create_app",
    "is_tracing_installed",
    "load_served_model",
    "run_server",
    "set_up_log",
    "write_new_key",
]
