# One image for the four services; SERVICE chooses which one a container runs.
#
#   docker build --build-arg SERVICE=api -t millrace-api .
FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /opt/millrace
COPY requirements.lock .
RUN /opt/millrace/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/millrace/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
ARG SERVICE
RUN test -n "$SERVICE" && useradd --system --uid 10001 --home-dir /var/lib/millrace --create-home millrace
COPY --from=build /opt/millrace /opt/millrace
USER millrace
WORKDIR /var/lib/millrace
ENV PATH=/opt/millrace/bin:$PATH \
    MILLRACE_SERVICE=$SERVICE \
    MILLRACE_DATA_DIR=/var/lib/millrace \
    MILLRACE_LOG_FORMAT=json \
    MILLRACE_OPS_HOST=0.0.0.0 \
    MILLRACE_OPS_PORT=9100 \
    MILLRACE_API_HOST=0.0.0.0 \
    MILLRACE_API_PORT=8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import os, urllib.request as u; \
  u.urlopen('http://127.0.0.1:%s/healthz' % ('8080' if os.environ['MILLRACE_SERVICE'] == 'api' else '9100'), timeout=2)"]
CMD ["sh", "-c", "exec millrace $MILLRACE_SERVICE"]
