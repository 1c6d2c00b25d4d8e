"""Signs that a fit is of no use, each with what to do."""

from ifedicl_serve.fitting.judge import Metrics


def benefit_signs(before: Metrics, after: Metrics) -> list[str]:
    """Held-out accuracy or log-loss that is no better than without adaptation."""
    signs = []
    if after["accuracy"] <= before["accuracy"]:
        signs.append(
            f"held-out accuracy {after['accuracy']:.3f} is not above zero-shot "
            f"{before['accuracy']:.3f}; do not deploy this task before looking into it"
        )
    if after["log_loss"] >= before["log_loss"]:
        signs.append(
            f"held-out log-loss {after['log_loss']:.3f} is not below zero-shot "
            f"{before['log_loss']:.3f}; do not rely on its probabilities"
        )
    return signs
