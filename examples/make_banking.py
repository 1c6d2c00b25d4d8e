"""Make `banking/`, the sample task: eight short labels out of banking77's intents.

Knows which intents stand for which label, and how many texts of each are kept. The texts are
PolyAI's, CC BY 4.0, unchanged; the grouping and the label words are this project's.

    python examples/make_banking.py --source DIR    # holds banking77's train.jsonl, test.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
PER_CLASS = {"train": 64, "test": 40}

# label -> the original intents it stands for; each label is one piece of the tokenizer.
GROUPS = {
    "delivery": ["card_arrival", "card_delivery_estimate"],
    "transfer": ["failed_transfer", "transfer_timing", "transfer_not_received_by_recipient"],
    "refund": ["request_refund", "Refund_not_showing_up"],
    "exchange": ["exchange_rate", "exchange_via_app", "exchange_charge"],
    "identity": ["verify_my_identity", "why_verify_identity", "unable_to_verify_identity"],
    "cash": ["pending_cash_withdrawal", "declined_cash_withdrawal", "cash_withdrawal_charge"],
    "password": ["passcode_forgotten", "change_pin", "pin_blocked"],
    "age": ["age_limit"],
}


def subset(rows: list[dict[str, str]], per_class: int, seed: int) -> list[dict[str, str]]:
    """At most `per_class` distinct texts of each label, shuffled."""
    rng = random.Random(seed)
    chosen = []
    for label, intents in GROUPS.items():
        texts = sorted({row["text"].strip() for row in rows if row["label"] in intents})
        rng.shuffle(texts)
        chosen += [{"text": text, "label": label} for text in texts[:per_class]]
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "banking")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for split, per_class in PER_CLASS.items():
        lines = (args.source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["text"].strip() not in taken]
        chosen = subset(rows, per_class, args.seed)
        taken |= {row["text"] for row in chosen}
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (args.out / f"{split}.jsonl").write_text(body, encoding="utf-8")
        print(f"{split}: {len(chosen)} texts, {len(GROUPS)} labels")


if __name__ == "__main__":
    main()
