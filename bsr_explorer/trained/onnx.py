"""A trained model as an ONNX file, written by torch's exporter and compared with torch."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError
from bsr_explorer.units import format_bytes

if TYPE_CHECKING:
    from torch import nn

FILE = "model.onnx"
"""Its name in a training's folder."""

INSTALL = 'pip install "bsr-explorer[onnx]"'

MOST_BYTES = 2**31 - 2**24
"""What an ONNX file can hold is 2 GiB; some of it is not weights."""

BATCHES = (1, 3)
"""Images that pass at once when a file is compared with torch."""

TOLERANCE = 1e-3
"""By how much a logit may differ from torch's, as a share of the largest."""


def check_exporter() -> None:
    """Refuse to export where the packages that it takes are not installed.

    Raises:
        UserError: it names them.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"--export onnx: needs {' and '.join(missing)}; install with {INSTALL}")


def to_onnx(model: nn.Module, image_size: int) -> bytes:
    """A model in evaluation mode as an ONNX file in fp32: ``images`` (B, 3, S, S) → ``logits`` (B, classes), any B.

    Raises:
        UserError: torch cannot export it, or it is too large for one file.
    """
    import torch

    size = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    if size > MOST_BYTES:
        raise UserError(
            f"--export onnx: the weights take {format_bytes(size)}, and an ONNX file holds 2 GiB; leave it out"
        )
    images = torch.zeros(2, 3, image_size, image_size)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                model.float(),
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # the exporter's own kinds of error change with its releases
        why = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}".splitlines()[0])
        raise UserError(f"--export onnx: torch cannot export this model ({why}); leave it out") from error
    serialised: bytes = program.model_proto.SerializeToString()
    return serialised


def difference(content: bytes, model: nn.Module, image_size: int) -> float | None:
    """The largest difference of a logit between an ONNX file and a model in fp32, for two batch sizes, as a share of
    the largest logit; None where onnxruntime is not installed.

    Raises:
        UserError: it is more than ``TOLERANCE``, or onnxruntime cannot run the file.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime
    import torch

    generator = torch.Generator().manual_seed(0)
    apart = []
    for batch in BATCHES:
        images = torch.randn(batch, 3, image_size, image_size, generator=generator)
        with torch.no_grad():
            expected = model.float()(images)
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            (found,) = session.run(None, {"images": images.numpy()})
        except Exception as error:  # its kinds of error have no class in common
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"--export onnx: onnxruntime cannot run the file ({why}), and it is not written; leave it out, or try "
                "another version of onnxruntime"
            ) from error
        most = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        apart.append(float((torch.from_numpy(found) - expected).abs().max() / most))
    worst = nan if any(map(isnan, apart)) else max(apart)
    if not worst <= TOLERANCE:
        raise UserError(
            f"--export onnx: the file would give other logits than torch ({worst:.2g} of the largest apart, where at "
            f"most {TOLERANCE} was expected), and is not written; please report this"
        )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what is no concern of a user's."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
