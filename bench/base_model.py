"""What a base model's label words know, before any adaptation, on subj, emotion and ag_news.

Per task: zero-shot raw and with the mean label logit removed (contextual calibration, arXiv
2102.09690, the mean taken over unlabelled training texts), 4/8/16-shot prompts, and a linear probe
on the last hidden state at the prompt's last token; with --corpus the perplexity of held-out text.
Knows prompts and scores only; refuses to know how the model was trained.

    python bench/base_model.py --data DIR --model examples/base_model --quick --json FILE
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache

HERE = Path(__file__).resolve().parent
MAX_TEXT_TOKENS = 100
BATCH = 32
SHOTS = (4, 8, 16)


@dataclass(frozen=True)
class Task:
    """A labelled set: its prompt template and how its labels are said."""

    name: str
    template: str
    words: dict[str, str]


TASKS = [
    Task(
        "subj",
        "Text: {text}\nLabel:",
        {"objective": "objective", "subjective": "subjective"},
    ),
    Task(
        "emotion",
        "Text: {text}\nEmotion:",
        {w: w for w in ("sadness", "joy", "love", "anger", "fear", "surprise")},
    ),
    Task(
        "ag_news",
        "News: {text}\nTopic:",
        {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"},
    ),
]


class Scorer:
    """A frozen causal LM that gives, per prompt, label-word logits and the last hidden state."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def label_ids(self, words: list[str]) -> list[int]:
        """The first token of each label word; they must differ."""
        ids = [
            self.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0] for word in words
        ]
        if len(set(ids)) < len(ids):
            raise SystemExit(f"labels {words} share a first token in this tokenizer: {ids}")
        return ids

    @torch.inference_mode()
    def run(
        self, prompts: list[list[int]], label_ids: list[int], prefix: list[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Label logits [prompts, labels] and last hidden states [prompts, width].

        A common `prefix` is computed once and its cache repeated for every batch.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        logits = torch.empty(len(prompts), len(label_ids))
        states = torch.empty(len(prompts), self.model.config.hidden_size)
        table = self.model.get_output_embeddings().weight[label_ids]
        cache = self._cache(prefix) if prefix else None
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = len(prompts[rows[-1]])
            ids = torch.tensor([prompts[i] + [0] * (longest - len(prompts[i])) for i in rows])
            ends = torch.tensor([len(prompts[i]) - 1 for i in rows])
            states[rows] = self._hidden(ids, cache)[torch.arange(len(rows)), ends]
            logits[rows] = states[rows] @ table.T
        return logits, states

    def _cache(self, prefix: list[int]) -> Cache:
        return self.model.model(torch.tensor([prefix]), use_cache=True).past_key_values

    def _hidden(self, ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """Right-padded: causal attention never looks at what follows a prompt's end."""
        if cache is None:
            return self.model.model(ids, use_cache=False).last_hidden_state
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(len(ids))
        return self.model.model(ids, past_key_values=repeated).last_hidden_state

    def prompt_ids(self, task: Task, text: str) -> list[int]:
        """The prompt's tokens; the text is cut, never the question."""
        head, tail = task.template.split("{text}")
        body = self.tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TEXT_TOKENS]
        begin = self.tokenizer(head.rstrip(), add_special_tokens=False)["input_ids"]
        return [*begin, *body, *self.tokenizer(tail, add_special_tokens=False)["input_ids"]]


def read(path: Path, count: int, seed: int) -> list[dict[str, str]]:
    """A random sample of a jsonl file."""
    if not path.exists():
        raise SystemExit(f"no {path}; --data must hold subj, emotion and ag_news")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return random.Random(seed).sample(rows, min(count, len(rows)))


def accuracy(logits: torch.Tensor, gold: torch.Tensor) -> float:
    """Percent right."""
    return 100 * (logits.argmax(-1) == gold).float().mean().item()


def balanced_demonstrations(
    train: list[dict[str, str]], labels: list[str], shots: int, rng: random.Random
) -> list[dict[str, str]]:
    """`shots` rows, labels as equal in number as can be, in random order."""
    pools = {label: [row for row in train if row["label"] == label] for label in labels}
    names = [labels[i % len(labels)] for i in range(shots)]
    chosen = [rng.choice(pools[name]) for name in names]
    rng.shuffle(chosen)
    return chosen


def few_shot(
    scorer: Scorer,
    task: Task,
    train: list[dict[str, str]],
    test: list[dict[str, str]],
    gold: torch.Tensor,
    shots: int,
    draws: int,
) -> float:
    """Mean accuracy of `draws` fixed demonstration prefixes of `shots` examples."""
    labels, ids = list(task.words), scorer.label_ids(list(task.words.values()))
    newline = scorer.tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    found = []
    for draw in range(draws):
        rng = random.Random(1000 * shots + draw)
        prefix: list[int] = []
        for row in balanced_demonstrations(train, labels, shots, rng):
            word = scorer.tokenizer(" " + task.words[row["label"]], add_special_tokens=False)
            prefix += [*scorer.prompt_ids(task, row["text"]), *word["input_ids"], *newline]
        prompts = [scorer.prompt_ids(task, row["text"]) for row in test]
        found.append(accuracy(scorer.run(prompts, ids, prefix)[0], gold))
    return sum(found) / len(found)


def linear_probe(
    states: torch.Tensor, gold: torch.Tensor, test_states: torch.Tensor, test_gold: torch.Tensor
) -> float:
    """Logistic regression on standardised states; percent right on the test part."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    probe.fit(states.numpy(), gold.numpy())
    return 100 * probe.score(test_states.numpy(), test_gold.numpy())


def measure(scorer: Scorer, task: Task, data: Path, args: argparse.Namespace) -> dict[str, float]:
    """All numbers of one task."""
    labels = list(task.words)
    train = read(data / task.name / "train.jsonl", args.train, args.seed)
    test = read(data / task.name / "test.jsonl", args.test, args.seed)
    gold = torch.tensor([labels.index(row["label"]) for row in test])
    train_gold = torch.tensor([labels.index(row["label"]) for row in train])
    ids = scorer.label_ids(list(task.words.values()))
    logits, states = scorer.run([scorer.prompt_ids(task, row["text"]) for row in test], ids)
    seen, train_states = scorer.run([scorer.prompt_ids(task, row["text"]) for row in train], ids)
    result = {
        "chance": 100 / len(labels),
        "majority": 100 * torch.bincount(gold).max().item() / len(gold),
        "zero_shot": accuracy(logits, gold),
        "zero_shot_mean_removed": accuracy(logits - seen.mean(0), gold),
    }
    for shots in SHOTS:
        result[f"{shots}_shot"] = few_shot(scorer, task, train, test, gold, shots, args.draws)
    result["probe"] = linear_probe(train_states, train_gold, states, gold)
    return {name: round(value, 1) for name, value in result.items()}


@torch.inference_mode()
def perplexity(scorer: Scorer, path: Path, tokens: int, length: int = 256) -> float:
    """Per-token perplexity of the first `tokens` tokens, in windows of `length`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read(tokens * 6).replace("<|endoftext|>", "")
    ids = scorer.tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    windows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    loss = 0.0
    for rows in windows.split(8):
        logits = scorer.model(input_ids=rows, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss += torch.nn.functional.cross_entropy(
            logits, rows[:, 1:].flatten(), reduction="sum"
        ).item()
    return math.exp(loss / (windows.shape[0] * (length - 1)))


def markdown(result: dict) -> str:
    """The task table."""
    columns = list(next(iter(result["tasks"].values())))
    lines = ["| task | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, row in result["tasks"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:.1f}" for column in columns) + " |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """Command line; --quick trades sample sizes for time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=HERE.parent / "examples" / "base_model")
    parser.add_argument("--corpus", type=Path, help="folder with *.valid.txt.gz, for perplexity")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the result here, a table beside it")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        args.train, args.test, args.draws = 1500, 500, 2
    return args


def main() -> None:
    """Measure, print, write."""
    args = arguments()
    started = time.monotonic()
    scorer = Scorer(args.model)
    tasks = {
        task.name: measure(scorer, task, args.data, args)
        for task in tqdm(TASKS, desc="tasks", leave=False)
    }
    texts = sorted(args.corpus.glob("*.valid.txt.gz")) if args.corpus else []
    result = {
        "bench": "base_model",
        "model": args.model.name,
        "parameters": scorer.model.num_parameters(),
        "sizes": {"train": args.train, "test": args.test},
        "draws": args.draws,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "tasks": tasks,
        "perplexity": {
            path.name.split(".")[0]: round(
                perplexity(scorer, path, 10_000 if args.quick else 40_000), 1
            )
            for path in texts
        },
        "headline": {
            f"{name}_{key}": row[key]
            for name, row in tasks.items()
            for key in ("zero_shot", "zero_shot_mean_removed", "8_shot", "probe")
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    print(markdown(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        args.json.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    summary = "; ".join(
        f"{name} zero-shot {row['zero_shot']}, mean removed {row['zero_shot_mean_removed']}, "
        f"8-shot {row['8_shot']}, probe {row['probe']}"
        for name, row in tasks.items()
    )
    print(f"headline (%): {summary}")


if __name__ == "__main__":
    main()
