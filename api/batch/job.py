"""From options to a run: every check that needs no engine, and the engine, when it is wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from api.batch.columns import columns_of
from api.batch.offline import BatchEngine
from api.batch.parts import Parts
from api.batch.run import Plan
from api.batch.source import open_source
from api.vllm.launch import download_dir
from api.vllm.offline import offline_engine
from ifedicl_serve import __version__
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, Artifact, load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_writers import refuse_unwritable
from ifedicl_serve.files.writing import write_folder


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    model: str
    tasks: list[Path]
    data: Path
    output: Path
    text_column: str
    prefix: str
    batch_size: int
    truncate: bool
    overwrite: bool
    vllm_flags: list[str]


@dataclass(frozen=True)
class Job:
    """A run that passed its checks, begun or gone on with."""

    options: Options
    identity: ModelIdentity
    artifacts: list[Artifact]
    plan: Plan
    parts: Parts

    @contextmanager
    def scorer(self) -> Iterator[BatchEngine]:
        """The engine, with its own copy of the tasks: nobody replaces them while the run lasts."""
        tasks = (self.parts.folder / "tasks").resolve()
        tasks.mkdir(exist_ok=True)
        for path, artifact in zip(self.options.tasks, self.artifacts, strict=True):
            self._copy(path, artifact, tasks / artifact.spec.name)
        with offline_engine(self.options.model, tasks, self.options.vllm_flags) as llm:
            yield BatchEngine(llm, self.artifacts, tasks)

    def _copy(self, path: Path, artifact: Artifact, folder: Path) -> None:
        files = {name: (path / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}
        digest = artifact.digest
        write_folder(folder, files, lambda staged: load_artifact(staged, self.identity, digest))


@contextmanager
def open_job(options: Options) -> Iterator[Job]:
    """A run that nobody else is at, checked and begun. Raises DataError, ArtifactError or
    ModelError."""
    if not options.output.parent.is_dir():
        raise DataError(f"{options.output.parent} is not a directory; create it first")
    parts = Parts(options.output.with_name(f"{options.output.name}.parts"))
    with parts.alone():
        yield _begun(options, parts)


def _begun(options: Options, parts: Parts) -> Job:
    _refuse_existing(options.output, options.overwrite)
    weights_in = download_dir(options.vllm_flags)
    identity = ModelIdentity.of(options.model, download_dir=weights_in)
    artifacts = [load_artifact(path, identity) for path in options.tasks]
    columns = columns_of([artifact.spec for artifact in artifacts], options.prefix)
    source = open_source(options.data, options.text_column, options.output)
    for of_task in columns:
        of_task.refuse_taken(source.names)
    plan = Plan(source, options.output, columns, options.batch_size, options.truncate)
    refuse_unwritable(options.output, plan.schema)
    digests = [f"digest {artifact.digest}" for artifact in artifacts]
    parts.begin(
        {
            "input": f"sha256 {source.sha256}",
            "task": digests[0] if len(digests) == 1 else digests,
            "model": identity.model_dump(exclude={"name"}),
            "--text-column": options.text_column,
            "--prefix": options.prefix,
            "--batch-size": options.batch_size,
            "--truncate": options.truncate,
            "vLLM's flags": options.vllm_flags,
            "ifedicl-serve": __version__,
        }
    )
    return Job(options, identity, artifacts, plan, parts)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists; choose another --output, or replace it with --overwrite")
