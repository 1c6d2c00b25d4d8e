"""Under pipeline parallelism, each stage tells the next which tokens it could not adapt.

Every stage loads artifacts itself, so one may fail where the others succeed, and only the last
one answers. The marks travel with the hidden states, as one more of vLLM's intermediate tensors:
through its own buffers and captured graphs, in order, without a message of their own
(`patches.stage_marks` makes room for them).
"""

from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.sequence import IntermediateTensors

from ifedicl_serve.plugin.slots import FAILED_SLOT

MARKS = "ifedicl_failed"  # [tokens, 1] in the model's dtype; above 0: failed on this or before


def fail_marked(token_slots: Tensor, received: IntermediateTensors) -> None:
    """Tokens that a stage before could not adapt fail on this one too; `token_slots` [tokens]."""
    marked = received[MARKS].squeeze(1) > 0
    token_slots[: len(marked)].masked_fill_(marked, FAILED_SLOT)


def mark_failed(token_slots: Tensor, sent: IntermediateTensors) -> None:
    """Add the marks up to this stage to what goes to the next.

    Summed over the ranks of the stage, as each rank sends only a part of every tensor.
    """
    hidden = sent["hidden_states"]
    failed = token_slots[: len(hidden)] == FAILED_SLOT
    sent[MARKS] = tensor_model_parallel_all_reduce(failed.to(hidden.dtype).unsqueeze(1))
