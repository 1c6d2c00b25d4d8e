"""Room for the marks of `pipeline` among what travels between pipeline stages."""

from typing import Any

import torch
from vllm.sequence import IntermediateTensors

from ifedicl_serve.plugin.pipeline import MARKS


def make_room_for_marks(model: Any) -> None:
    """Wrap a model's `make_empty_intermediate_tensors` to make a buffer for the marks, too.

    Upstream: a model makes the buffers that receive what the stage before sends, by name and shape
    (vllm/model_executor/models/utils.py); the runner copies into those and no others.
    Why: the marks of failed tokens must arrive with the hidden states they belong to, through
    captured graphs as well.
    Delete when vLLM lets a model name further tensors to send.
    """
    make_empty = model.make_empty_intermediate_tensors
    if hasattr(make_empty, "makes_room_for_marks"):
        return

    def make_empty_intermediate_tensors(
        batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> IntermediateTensors:
        tensors = make_empty(batch_size, dtype, device)
        tensors[MARKS] = torch.zeros(batch_size, 1, dtype=dtype, device=device)
        return tensors

    make_empty_intermediate_tensors.makes_room_for_marks = True  # type: ignore[attr-defined]
    model.make_empty_intermediate_tensors = make_empty_intermediate_tensors
