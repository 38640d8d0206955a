# The whole service, or with another command a worker alone. docs/operations.md and compose.yaml say how to run it.
# 3.11 is the Python that every test runs on. Pin the digest as well where builds must be repeatable.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /app
COPY requirements.txt ./
RUN python -m venv /app/.venv \
    && /app/.venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
# .dockerignore leaves only what running needs.
COPY . ./
# The file system may be read-only later: compile now. /data is what a new volume begins with.
RUN /app/.venv/bin/python -m compileall -q -x '/\.venv/' /app \
    && mkdir -p /data/tmp

FROM python:${PYTHON}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="csv-image-compressor" \
      org.opencontainers.image.description="Compresses every image that a product CSV names, in the background, and gives the CSV back with output URLs." \
      org.opencontainers.image.version="${VERSION}"
RUN groupadd --gid 10001 service \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin service
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /data /data
# Everything that is kept lies in /data. Uploads are spooled there too: /tmp may be memory.
ENV HOST=0.0.0.0 \
    PORT=8000 \
    STORAGE_URL=file:/data \
    POSTGRES_DIR=/data/postgres-data \
    TMPDIR=/data/tmp \
    LOG_FORMAT=json
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# It lives; whether database and store answer is /readyz's to say. A worker alone has its own in compose.yaml.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/app/.venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]
CMD ["/app/.venv/bin/python", "/app/server.py"]
