ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The dependencies come first: their layer is built again only when a lock changes.
COPY requirements/runtime.lock requirements/build.lock requirements/
RUN python -m venv /opt/build && python -m venv --without-pip /opt/gateway \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.lock \
    && /opt/build/bin/pip --python /opt/gateway/bin/python install --require-hashes --only-binary :all: \
       -r requirements/runtime.lock
# GRPC=1 adds what services with `protocol = "grpc"` need.
ARG GRPC=0
COPY requirements/grpc.lock requirements/
RUN if [ "$GRPC" = 1 ]; then /opt/build/bin/pip --python /opt/gateway/bin/python install --require-hashes --only-binary :all: \
    -r requirements/grpc.lock; fi
# COMPILE=0 leaves out the C compiler and serves from the sources, a fifth slower.
ARG COMPILE=1
COPY requirements/compile.lock requirements/
RUN if [ "$COMPILE" = 1 ]; then apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/compile.lock; fi
COPY pyproject.toml setup.py README.md ./
COPY kernel kernel
COPY handlers handlers
RUN GATEWAY_COMPILE=$COMPILE CFLAGS=-g0 /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/gateway/bin/python install --no-deps --no-index dist/*.whl \
    && /opt/gateway/bin/python -m compileall -q /opt/gateway/lib

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="bakery-gateway" \
      org.opencontainers.image.description="API gateway of a multi-tenant bakery platform"
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway
COPY --from=build /opt/gateway /opt/gateway
# Logs leave the process at once, and nothing is written beside the code: the root file system may be read-only.
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["gateway", "health"]
ENTRYPOINT ["gateway"]
CMD ["run"]
