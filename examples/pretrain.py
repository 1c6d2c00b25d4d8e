"""Train the base model from what prepare_data.py wrote; resumable to the step.

    python examples/pretrain.py --prepared DIR --run DIR --steps 6000 --decay 1200

With --start MODEL it continues from an exported model, without that run's optimiser state.
Each step is three small batches: single prompts, in-context episodes, plain text. The learning
rate warms up, stays, and falls to zero over the last --decay steps; to stop early, end the run and
start it again with a smaller --steps. Progress goes to RUN/log.jsonl, the model to RUN/model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from lm.batches import Batch, Batches
from lm.learner import (
    Learner,
    Progress,
    build_config,
    build_optimisers,
    export,
    load_checkpoint,
    save_checkpoint,
    total,
)
from lm.precision import autocast
from lm.store import Passages
from torch.optim import Optimizer
from tqdm import tqdm
from transformers import AutoTokenizer

LONG_EVERY = 2  # every so many steps the episodes are long, so that 16 examples fit


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="exported model to continue from")
    parser.add_argument("--lookup", type=float, default=1.0, help="share of --start's lookup kept")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, default=1200)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--intermediate", type=int, default=640)
    parser.add_argument("--single-tokens", type=int, default=1024)
    parser.add_argument("--episode-tokens", type=int, default=3072)
    parser.add_argument("--text-tokens", type=int, default=512)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Warm-up, constant, linear decay to zero."""
    rise = min(1.0, (step + 1) / args.warmup)
    fall = min(1.0, (args.steps - step) / args.decay)
    return args.lr * rise * fall


def batches_of(step: int, batches: Batches, args: argparse.Namespace) -> dict[str, Batch]:
    """The step's three batches by kind."""
    length = 1024 if step % LONG_EVERY == 0 else 256
    return {
        "single": batches.single(step, args.single_tokens),
        "episode": batches.episodes(step, args.episode_tokens // length, length),
        "plain": batches.text(step, args.text_tokens // 256, 256),
    }


def to_device(batch: Batch, device: str) -> Batch:
    """The same batch on `device`."""
    return Batch(**{name: value.to(device) for name, value in vars(batch).items()})


def train_step(
    learner: Learner,
    optimisers: list[Optimizer],
    parts: dict[str, Batch],
    word_ids: torch.Tensor,
    device: str,
) -> dict[str, float]:
    """One update; returns each loss of each kind of batch."""
    found: dict[str, float] = {}
    for kind, part in parts.items():
        with autocast(device):
            losses = learner.losses(to_device(part, device), word_ids.to(device))
        total(losses).backward()
        found |= {f"{name}_{kind}": loss.item() for name, loss in losses.items()}
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return found


def set_rate(optimisers: list[Optimizer], rate: float) -> None:
    """The learning rate of every parameter group."""
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["lr"] = rate


def build_learner(prepared: Path, passages: Passages, args: argparse.Namespace) -> Learner:
    """A fresh learner on the prepared embeddings."""
    embeddings = torch.load(prepared / "embeddings.pt", weights_only=True)
    pieces, width = embeddings.shape
    config = build_config(pieces, width, args.layers, args.intermediate)
    colon = AutoTokenizer.from_pretrained(prepared / "tokenizer").get_vocab()[":"]
    return Learner(config, embeddings, passages.centre, colon).to(args.device)


def forget_after(step: int, log: Path) -> None:
    """Drop the log lines that the resumed run will write again."""
    if log.exists():
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in lines))


def main() -> None:
    """The run: load, resume, step, log, save."""
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.prepared / "tokenizer")
    passages = Passages(args.prepared / "passages.pt")
    stream = torch.load(args.prepared / "stream.pt", weights_only=True)
    batches = Batches(passages, stream, tokenizer, args.seed)
    learner = build_learner(args.prepared, passages, args)
    checkpoint = args.run / "checkpoint.pt"
    if args.start and not checkpoint.exists():
        some = [batches.single(step, 4096) for step in range(32)]
        learner.start_from(args.start, args.lookup, some)
    optimisers = build_optimisers(learner, args.lr, args.weight_decay)
    progress = Progress()
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, learner, optimisers)
    forget_after(progress.step, args.run / "log.jsonl")
    if args.compile:
        learner.model.model.compile(dynamic=True)

    with contextlib.ExitStack() as stack:
        log = stack.enter_context((args.run / "log.jsonl").open("a"))
        bar = stack.enter_context(tqdm(total=args.steps, initial=progress.step, mininterval=10))
        while progress.step < args.steps:
            started = time.monotonic()
            rate = learning_rate(progress.step, args)
            set_rate(optimisers, rate)
            parts = batches_of(progress.step, batches, args)
            losses = train_step(learner, optimisers, parts, passages.word_ids, args.device)
            progress.step += 1
            progress.tokens += sum(int((part.ids != 0).sum()) for part in parts.values())
            progress.seconds += time.monotonic() - started
            bar.update()
            if progress.step % 10 == 0:
                log.write(json.dumps({**asdict(progress), "lr": rate, **losses}) + "\n")
                log.flush()
            if progress.step % args.save_every == 0 or progress.step == args.steps:
                save_checkpoint(checkpoint, learner, optimisers, progress)
                export(args.run / "model", learner, tokenizer)


if __name__ == "__main__":
    main()
