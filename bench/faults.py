"""What breaks, and what a user sees then: faults put into running servers, one after the other.

Every fault is real (signals, a full disk, damaged files, a clock that jumps, thousands of
connections), every answer is checked, and what was seen is written down. Needs root (it mounts a
small disk) and Debian's faketime.

    python -m bench.faults [--model PATH] [--out FILE.md]
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console

from bench.common.random_tasks import random_task
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from tests.processes import served

BASE_MODEL = Path(__file__).parents[1] / "examples" / "base_model"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
ADMIN_KEY = "of-the-operator"
CONNECTIONS, AT_ONCE = 10_000, 2_000
MANY = [f"question {number} " + "card " * 100 for number in range(500)]

HEADING = """# Faults, and what a user sees

Each was put into a running `ifedicl serve` of the embedded model, and the answers were checked
(`python -m bench.faults`, as root).

"""

console = Console()


@dataclass(frozen=True)
class Scene:
    """A running server of the tasks `good` and `other`, whose folder is a disk of its own."""

    url: str
    process: subprocess.Popen
    model: Path
    tasks: Path

    def classify(self, task: str = "good", **body: object) -> httpx.Response:
        request = {"task": task, "input": "my card was declined", **body}
        return httpx.post(f"{self.url}/v1/classify", json=request, timeout=120)

    def until(self, task: str, status: int) -> httpx.Response:
        """The first answer with this status; the folder is looked at within a second."""
        deadline = time.monotonic() + 30
        while (answer := self.classify(task)).status_code != status:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        return answer

    def upload(self, folder: Path) -> httpx.Response:
        files = {name: (folder / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}
        return httpx.put(
            f"{self.url}/v1/tasks/good",
            files=files,
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        )

    def files(self) -> int:
        family = psutil.Process(self.process.pid)
        return sum(one.num_fds() for one in [family, *family.children(recursive=True)])


# -- faults of one server that stays


def truncated(scene: Scene) -> str:
    """An artifact in use is truncated in place."""
    path = scene.tasks / "good" / VECTORS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused = scene.until("good", 404)
    others = scene.classify("other").status_code
    path.write_bytes(whole)
    scene.until("good", 200)
    assert others == 200
    return f"404: {_message(refused)}. Other tasks: 200. Serves again when the file is whole"


def bit_flipped(scene: Scene) -> str:
    """One bit of an artifact in use is flipped, its size and name unchanged."""
    path = scene.tasks / "good" / VECTORS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = scene.until("good", 404)
    path.write_bytes(whole)
    scene.until("good", 200)
    return f"404: {_message(refused)}. Serves again when the bit is restored"


def removed(scene: Scene) -> str:
    """The folder of a task is deleted while 500 of its texts are being classified."""
    with _running(lambda: scene.classify(input=MANY)) as answers:
        time.sleep(0.2)
        shutil.rmtree(scene.tasks / "good")
    late = scene.until("good", 404)
    random_task(scene.model, scene.tasks / "good", 1)
    scene.until("good", 200)
    assert answers[0].status_code == 200
    return f"the running request: 200 with 500 results; later ones 404: {_message(late)}"


def disk_full(scene: Scene) -> str:
    """The disk is full while a new version of a task is uploaded."""
    before = scene.classify().json()["task_digest"]
    filler = scene.tasks / ".filler"
    with tempfile.TemporaryDirectory() as scratch:
        random_task(scene.model, Path(scratch) / "good", 2)
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        refused = scene.upload(Path(scratch) / "good")
        still = scene.classify().json()["task_digest"]
        left = sorted(path.name for path in scene.tasks.iterdir() if path != filler)
        filler.unlink()
        later = scene.upload(Path(scratch) / "good")
    assert (refused.status_code, still, later.status_code) == (507, before, 200), refused.text
    assert left == ["good", "other"], left
    return (
        f"507: {_message(refused)}. The old version serves, nothing is left behind; the same "
        "upload is 200 once there is space"
    )


def disk_full_while_calibrating(scene: Scene) -> str:
    """The disk is full when a calibration writes its artifact."""
    with small_disk(64) as disk:
        command = [
            "ifedicl", "calibrate", "--model", str(scene.model), "--rounds", "1",
            "--local-steps", "1", "--template", "Text: {text}\\nTopic:", "--data",
            str(BASE_MODEL.parent / "banking" / "train.jsonl"), "--out", str(disk / "task"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        left = sorted(path.name for path in disk.iterdir())
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = " ".join(done.stderr.split()[-30:])
    return f"exit status 1: {last}. In its place: {', '.join(left) or 'nothing'}"


def slow_client(scene: Scene) -> str:
    """A client sends half of its body and then nothing (--request-timeout 5)."""
    connection = _half_sent(scene)
    others = scene.classify().status_code
    answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 408"), answer
    assert others == 200
    message = json.loads(answer.rsplit("\r\n\r\n", 1)[1])["error"]["message"]
    return f"408: {message}. Others meanwhile: 200"


def many_connections(scene: Scene) -> str:
    """10,000 connections are opened, 2,000 at a time, half with half a request; all are dropped."""
    before = scene.files()
    statuses: list[int] = []
    for _ in range(CONNECTIONS // AT_ONCE):
        opened = [
            _half_sent(scene) if number % 2 else _connected(scene) for number in range(AT_ONCE)
        ]
        statuses.append(scene.classify().status_code)
        for connection in opened:
            connection.close()
    deadline = time.monotonic() + 30
    while scene.files() > before + 5 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(statuses) == {200}, statuses
    left = scene.files() - before
    assert left <= 5, left
    return "others meanwhile: 200; no file descriptor is left"


# -- faults that end a server, or need one of their own


def engine_killed(scene: Scene) -> str:
    """The engine's process is killed (SIGKILL) while 500 texts are being classified."""
    with _running(lambda: scene.classify(input=MANY)) as answers:
        time.sleep(0.5)
        _process(scene, "EngineCore").send_signal(signal.SIGKILL)
        killed = time.monotonic()
    assert answers[0].status_code == 503, answers[0].text
    status = scene.process.wait(timeout=60)
    seconds = time.monotonic() - killed
    assert status == 1
    return (
        f"503: {_message(answers[0])}. The server ends with status 1 within {seconds:.0f} s, for "
        "its supervisor"
    )


def api_process_killed(scene: Scene) -> str:
    """One of two API processes is killed (--api-server-count 2)."""
    _process(scene, "APIServer_1").send_signal(signal.SIGKILL)
    status = scene.process.wait(timeout=60)
    assert status != 0
    return f"its connections break; the whole server ends with status {status}, for its supervisor"


def clock_jumps(scene: Scene) -> str:
    """The wall clock jumps a day ahead and then two back, between and during requests."""
    clock = Path(os.environ["FAKETIME_TIMESTAMP_FILE"])
    statuses = []
    for offset in ("+1d", "-1d", "+0"):
        with _running(lambda: scene.classify(input=MANY, timeout=60)) as answers:
            time.sleep(0.2)
            clock.write_text(offset)
        statuses += [answers[0].status_code, scene.classify().status_code]
    random_task(scene.model, scene.tasks / "late", 3)
    scene.until("late", 200)
    assert set(statuses) == {200}, statuses
    return "200 throughout, no deadline fires; a task that is added meanwhile serves"


STAYING = (
    truncated, bit_flipped, removed, disk_full, disk_full_while_calibrating, slow_client,
    many_connections, engine_killed,
)  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=BASE_MODEL, help="LLaMA or Qwen checkpoint")
    parser.add_argument("--out", type=Path, help="write the table here, in Markdown")
    args = parser.parse_args()
    if not FAKETIME.is_file():
        raise SystemExit(f"{FAKETIME} is not there; apt-get install faketime")
    seen = _faults(args.model, STAYING, "--request-timeout", "5")
    seen |= _faults(args.model, (api_process_killed,), "--api-server-count", "2")
    with _faked_clock():
        seen |= _faults(args.model, (clock_jumps,))
    if args.out:
        rows = "".join(f"| {fault} | {what} |\n" for fault, what in seen.items())
        args.out.write_text(f"{HEADING}| fault | what is seen |\n| --- | --- |\n{rows}")
    print(f"headline: {len(seen)} faults, every one answered as expected")


def _faults(model: Path, faults: tuple[Callable[[Scene], str], ...], *flags: str) -> dict[str, str]:
    """Start a server, put the faults into it in turn, and say what was seen of each."""
    seen = {}
    flags = (*flags, "--admin-key", ADMIN_KEY, "--enforce-eager")
    with small_disk(4096) as tasks, tempfile.TemporaryDirectory() as scratch:
        for seed, name in enumerate(("good", "other")):
            random_task(model, tasks / name, seed)
        with served(model, tasks, Path(scratch) / "server.log", *flags) as (url, process):
            scene = Scene(url, process, model, tasks)
            for fault in faults:
                seen[(fault.__doc__ or "").rstrip(".")] = what = fault(scene)
                console.print(f"[bold]{fault.__doc__}[/bold]\n  {what}")
    return seen


@contextmanager
def small_disk(kibibytes: int) -> Iterator[Path]:
    """A filesystem of its own, of this size."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True
        )
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def _faked_clock() -> Iterator[None]:
    """For servers started meanwhile: a wall clock that a file moves; the monotonic one is true."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock"
        clock.write_text("+0")
        added = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]


@contextmanager
def _running(call: Callable[[], httpx.Response]) -> Iterator[list[httpx.Response]]:
    """The call in another thread; its answer is there when the block has ended."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    yield answers
    thread.join()


def _connected(scene: Scene) -> socket.socket:
    url = httpx.URL(scene.url)
    return socket.create_connection((url.host, url.port or 80))


def _half_sent(scene: Scene) -> socket.socket:
    connection = _connected(scene)
    connection.sendall(
        b"POST /v1/classify HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b'Connection: close\r\nContent-Length: 100\r\n\r\n{"task": '
    )
    return connection


def _process(scene: Scene, title: str) -> psutil.Process:
    family = psutil.Process(scene.process.pid).children(recursive=True)
    (found,) = [one for one in family if title in " ".join(one.cmdline())]
    return found


def _message(response: httpx.Response) -> str:
    return response.json()["error"]["message"]


if __name__ == "__main__":
    main()
