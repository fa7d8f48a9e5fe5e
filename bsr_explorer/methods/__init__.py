"""Methods: one file each. To add one, write its file and add its line to ``METHODS``; in a package of your own, name it
as an entry point of the group ``bsr_explorer.methods``."""

from __future__ import annotations

from bsr_explorer.extensions import add_found
from bsr_explorer.methods import expression
from bsr_explorer.methods.adapler import Adapler
from bsr_explorer.methods.adapter import Adapter
from bsr_explorer.methods.alast import Alast
from bsr_explorer.methods.apla import Apla
from bsr_explorer.methods.approxbp import ApproxBP
from bsr_explorer.methods.asi import Asi
from bsr_explorer.methods.autofreeze import AutoFreeze
from bsr_explorer.methods.backrazor import BackRazor
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.bitfit import BitFit
from bsr_explorer.methods.blocks import Blocks
from bsr_explorer.methods.bsr import Bsr
from bsr_explorer.methods.checkpoint import Checkpoint
from bsr_explorer.methods.dora import Dora
from bsr_explorer.methods.drop import Drop
from bsr_explorer.methods.dropbp import DropBP
from bsr_explorer.methods.dtl import Dtl
from bsr_explorer.methods.evit import Evit
from bsr_explorer.methods.freeze import Freeze
from bsr_explorer.methods.full import Full
from bsr_explorer.methods.gradual import Gradual
from bsr_explorer.methods.ia3 import Ia3
from bsr_explorer.methods.last import Last
from bsr_explorer.methods.linear import Linear
from bsr_explorer.methods.lisa import Lisa
from bsr_explorer.methods.lora import Lora
from bsr_explorer.methods.lora_fa import LoraFA
from bsr_explorer.methods.losa import Losa
from bsr_explorer.methods.lst import Lst
from bsr_explorer.methods.mesa import Mesa
from bsr_explorer.methods.msln import Msln
from bsr_explorer.methods.offload import Offload
from bsr_explorer.methods.paca import Paca
from bsr_explorer.methods.repnet import RepNet
from bsr_explorer.methods.sherl import Sherl
from bsr_explorer.methods.slimfit import SlimFit
from bsr_explorer.methods.sparse_tuning import SparseTuning
from bsr_explorer.methods.spt import Spt
from bsr_explorer.methods.tinytl import TinyTL
from bsr_explorer.methods.tome import Tome
from bsr_explorer.methods.velora import Velora
from bsr_explorer.methods.vera import Vera
from bsr_explorer.methods.vpt import Vpt
from bsr_explorer.methods.wasi import Wasi
from bsr_explorer.methods.wtacrs import WtaCrs
from bsr_explorer.models.base import Geometry

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "linear": Linear,
    "last": Last,
    "bitfit": BitFit,
    "blocks": Blocks,
    "drop": Drop,
    "evit": Evit,
    "adapler": Adapler,
    "tome": Tome,
    "bsr": Bsr,
    "freeze": Freeze,
    "lora": Lora,
    "lora_fa": LoraFA,
    "dora": Dora,
    "vera": Vera,
    "paca": Paca,
    "apla": Apla,
    "spt": Spt,
    "ia3": Ia3,
    "adapter": Adapter,
    "sparse_tuning": SparseTuning,
    "vpt": Vpt,
    "lst": Lst,
    "dtl": Dtl,
    "sherl": Sherl,
    "losa": Losa,
    "repnet": RepNet,
    "tinytl": TinyTL,
    "backrazor": BackRazor,
    "mesa": Mesa,
    "velora": Velora,
    "wtacrs": WtaCrs,
    "asi": Asi,
    "wasi": Wasi,
    "approxbp": ApproxBP,
    "msln": Msln,
    "gradual": Gradual,
    "alast": Alast,
    "lisa": Lisa,
    "slimfit": SlimFit,
    "autofreeze": AutoFreeze,
    "dropbp": DropBP,
    "checkpoint": Checkpoint,
    "offload": Offload,
}


def parse_method(text: str, geometry: Geometry | None = None) -> Method:
    """The method that an expression says; what is left out has its defaults, which follow a model if one is given.

    Raises:
        UserError: see ``expression.parse``.
    """
    return expression.parse(text, METHODS, _defaults(geometry))


def parse_methods(text: str, geometry: Geometry | None = None) -> list[Method]:
    """The methods of a list, separated by commas.

    Raises:
        UserError: see ``expression.parse_list``.
    """
    return expression.parse_list(text, METHODS, _defaults(geometry))


def method_calls(text: str) -> list[tuple[type[Method], dict[str, object]]]:
    """The methods of an expression, each with the arguments that it is given: see ``expression.calls``."""
    return expression.calls(text, METHODS)


def _defaults(geometry: Geometry | None) -> expression.Defaults:
    if geometry is None:
        return lambda method, given: {}
    return lambda method, given: method.defaults_beside(given, geometry.depth, geometry.class_token)


__all__ = [
    "METHODS",
    "Adapler",
    "Adapter",
    "Alast",
    "Apla",
    "ApproxBP",
    "Asi",
    "AutoFreeze",
    "BackRazor",
    "BitFit",
    "Blocks",
    "Bsr",
    "Checkpoint",
    "Dora",
    "Drop",
    "DropBP",
    "Dtl",
    "Evit",
    "Freeze",
    "Full",
    "Gradual",
    "Ia3",
    "Last",
    "Linear",
    "Lisa",
    "Lora",
    "LoraFA",
    "Losa",
    "Lst",
    "Mesa",
    "Method",
    "Msln",
    "Offload",
    "Paca",
    "RepNet",
    "Sherl",
    "SlimFit",
    "SparseTuning",
    "Spt",
    "TinyTL",
    "Tome",
    "Velora",
    "Vera",
    "Vpt",
    "Wasi",
    "WtaCrs",
    "method_calls",
    "parse_method",
    "parse_methods",
]

add_found("bsr_explorer.methods", METHODS, Method)  # at the end: what is found may import what stands above
