"""Train the four networks of a model on MUSDB-shaped folders: <root>/<song>/{vocals,drums,bass,other}.{wav,flac,ogg}.

Songs may lack targets; such stems serve in random mixtures. A song of one file, ``accompaniment``, is a record without vocals:
only the vocals laid over it are learned from. A rerun goes on from the last checkpoint in --out.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import queue
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch

from demixr_daemon.separation.stft import HOP_SAMPLES, N_FFT
from models.training.checkpoint import CHECKPOINT, Average, Progress, keep_freed_memory, load, restored, save
from models.training.joint import JointNetworks, input_statistics, of_model
from models.training.mixing import Batch, draw_sources
from models.training.songs import TARGETS, Library

TARGET_WEIGHTS = {"vocals": 1.5, "drums": 1.0, "bass": 1.0, "other": 1.0}
WARM_UP_STEPS = 60
RESCAN_DRAWS = 30
STATISTICS_DRAWS = 6


class NoDataError(Exception):
    """The folders hold nothing to learn from."""


def batches(library: Library, options: argparse.Namespace, first_step: int) -> Generator[Batch, None, None]:
    """Endless batches, made by a thread one ahead of the training; batch ``n`` depends on the seed and ``n`` only."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)

    finished = threading.Event()

    def produce() -> None:
        torch.set_num_threads(1)
        try:
            draw = first_step // options.remixes
            while not finished.is_set():
                if draw % RESCAN_DRAWS == RESCAN_DRAWS - 1 and library.rescan():
                    print("data:", minutes_line(library), flush=True)
                rng = np.random.default_rng([options.seed, draw])
                sources = draw_sources(library, options.batch, options.frames, options.judge_every, rng)
                for remix in range(options.remixes):
                    ready.put(sources.mixed(rng, shuffled=remix > 0))
                    if finished.is_set():
                        return
                draw += 1
        except BaseException as error:  # handed to the trainer, which would wait for ever otherwise
            ready.put(error)

    maker = threading.Thread(target=produce, daemon=True)
    maker.start()
    try:
        while True:
            batch = ready.get()
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:  # a thread inside torch while the interpreter ends would abort the process
        finished.set()
        while maker.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.1)


def minutes_line(library: Library) -> str:
    """The minutes of data per target, for the log."""
    return ", ".join(f"{target} {minutes:.0f} min" for target, minutes in library.minutes().items())


def losses(estimates: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
    """Squared error of each target's magnitudes over the mixture's power: quiet examples count as much as loud ones.

    Of mixtures with a record only the vocals are judged.
    """
    power = batch.mixture.square().mean(dim=(1, 2, 3)) + 1e-6
    stems = (~batch.records).float()
    result = {}
    for target, estimate in estimates.items():
        error = (estimate - batch.targets[target]).square().mean(dim=(1, 2, 3)) / power
        result[target] = error.mean() if target == "vocals" else (error * stems).sum() / stems.sum().clamp(min=1)
    return result


def ratios(estimates: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
    """Each target's share of the mixture by the ratio of the estimates, as ``niter`` 0 separates."""
    mixture = batch.mixture[..., batch.judged]
    total = torch.maximum(sum(estimates.values(), torch.zeros(())), 0.1 * mixture) + 1e-8
    return {target: estimate * (mixture / total) for target, estimate in estimates.items()}


def untied(nets: JointNetworks, optimizer: torch.optim.Optimizer, rate: float) -> torch.optim.Optimizer:
    """Give every target its own trunk; the new optimizer goes on from the moments of the common one."""
    before = {name: optimizer.state.get(value) for name, value in nets.named_parameters(remove_duplicate=False)}
    nets.untie()
    after = torch.optim.Adam(nets.parameters(), lr=rate)
    for name, value in nets.named_parameters():
        moments = before[name]
        if moments:
            after.state[value] = {key: moment.clone() for key, moment in moments.items()}
    return after


def learning_rate(options: argparse.Namespace, step: int, done: float) -> float:
    """Warm-up, then half a cosine down to 1 % when the share ``done`` of the budget reaches 1."""
    return float(options.rate * min(1, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2))


def train(options: argparse.Namespace) -> None:
    """Run until the budget of steps or minutes is spent."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    library = Library([Path(root) for root in options.roots], options.held_out)
    if not any(library.minutes().values()):
        raise NoDataError(f"no song folder with sounding stems under {', '.join(options.roots)}")
    print("data:", minutes_line(library), flush=True)
    progress = Progress()
    state = load(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else None
    if state:
        nets = restored(state, "weights").to(device)
        progress = Progress(state["step"], state["elapsed_s"])
    elif options.begin_with:
        begun = options.begin_with
        nets = (of_model(begun) if begun.is_dir() else restored(load(begun), "weights")).to(device)
    else:
        rngs = [np.random.default_rng([options.seed, 0, draw]) for draw in range(STATISTICS_DRAWS)]
        drawn = [draw_sources(library, options.batch, options.frames, 1, rng).mixed(rng, False) for rng in rngs]
        nets = JointNetworks(options.hidden, *input_statistics([batch.mixture for batch in drawn]))
        nets = nets.to(device)
    average = Average(nets, options.average)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(nets.parameters(), lr=options.rate)
    if state:
        average.values = {name: value.to(device) for name, value in state["average"].items()}
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on from step {progress.step}", flush=True)
    del state
    nets.train()
    recent = dict.fromkeys(options.targets, 0.0)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    clock_s = saved_s = time.monotonic()
    source = batches(library, options, progress.step)
    for seen, cpu_batch in enumerate(source, start=1):
        done = progress.step / options.steps if options.steps else progress.elapsed_s / (options.minutes * 60)
        if done >= 1 or stop.is_set():
            break
        if nets.tied and done >= options.split_at:
            print(f"step {progress.step}: every target gets its own trunk", flush=True)
            optimizer = untied(nets, optimizer, options.rate)
        rate = learning_rate(options, progress.step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = cpu_batch.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not options.float32):
            estimates = nets(batch.mixture, batch.judged, options.targets)
        by_target = losses(ratios(estimates, batch) if options.ratio else estimates, batch)
        optimizer.zero_grad()
        torch.stack([TARGET_WEIGHTS[target] * loss for target, loss in by_target.items()]).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        average.update(nets, progress.step)
        now_s = time.monotonic()
        progress.elapsed_s += now_s - clock_s
        clock_s = now_s
        progress.step += 1
        for target, loss in by_target.items():
            recent[target] += (float(loss.detach()) - recent[target]) / min(seen, 50)
        if progress.step % options.log_every == 0:
            shown = " ".join(f"{target} {value:.4f}" for target, value in recent.items())
            print(f"step {progress.step}  {progress.elapsed_s / 60:.1f} min  rate {rate:.2e}  {shown}", flush=True)
        if now_s - saved_s > options.save_every_s:
            save(folder, nets, average, optimizer, progress)
            saved_s = now_s
    source.close()
    save(folder, nets, average, optimizer, progress)
    how = "stopped" if stop.is_set() else "done"
    print(f"{how}: {progress.step} steps in {progress.elapsed_s / 60:.1f} min, {folder / CHECKPOINT}", flush=True)


def main() -> None:
    """Command line of ``python -m models.training.train``."""
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    parser.add_argument("roots", nargs="+", help="folders of song folders; those that come later are picked up")
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--begin-with", type=Path, metavar="WEIGHTS", help="a checkpoint or a model folder to begin with")
    parser.add_argument("--ratio", action="store_true",
                        help="learn what the ratio of all masks makes of the mixture, not each target for itself")  # fmt: skip
    parser.add_argument("--held-out", nargs="*", default=[], metavar="SONG", help="names of song folders never used")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size of each network (default 256)")
    parser.add_argument("--batch", type=int, default=16, help="mixtures per step (default 16)")
    parser.add_argument("--frames", type=int, default=128, help="STFT frames per mixture, 43 a second (default 128)")
    parser.add_argument("--remixes", type=int, default=5, help="batches made of each draw of stems (default 5)")
    parser.add_argument("--judge-every", type=int, default=3, metavar="FRAMES", help="frames per judged one (default 3)")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS, help="train these only (default all four)")
    parser.add_argument("--steps", type=int, default=0, help="budget in steps; without it, --minutes counts")
    parser.add_argument("--minutes", type=float, default=90.0, help="budget in minutes of training (default 90)")
    parser.add_argument("--split-at", type=float, default=0.8, metavar="SHARE",
                        help="share of the budget with a common trunk (default 0.8)")  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate of Adam (default 0.0015)")
    parser.add_argument("--average", type=float, default=0.995, help="decay of the weights' average (default 0.995)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 arithmetic, for processors without it")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches (default 0)")
    parser.add_argument("--log-every", type=int, default=20, metavar="STEPS", help="steps between lines (default 20)")
    parser.add_argument("--save-every-s", type=float, default=150.0, help="seconds between checkpoints (default 150)")
    options = parser.parse_args()
    missing = [root for root in options.roots if not Path(root).is_dir()]
    if missing:
        parser.error(f"no such folder: {', '.join(missing)}")
    if (
        options.hidden % 2
        or min(options.hidden, options.batch, options.frames) < 2
        or min(options.remixes, options.judge_every) < 1
    ):
        parser.error("--hidden must be even; --hidden, --batch, --frames at least 2; --remixes, --judge-every at least 1")
    if options.begin_with and not options.begin_with.exists():
        parser.error(f"no such checkpoint or model folder: {options.begin_with}")
    if options.ratio and set(options.targets) != set(TARGETS):
        parser.error("--ratio needs all targets")
    if options.frames * HOP_SAMPLES <= N_FFT or options.steps < 0 or options.minutes <= 0 or options.threads < 1:
        parser.error("--frames must be above 4, --steps not negative, --minutes and --threads positive")
    try:
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    try:
        train(options)
    except NoDataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
