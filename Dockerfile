# syntax=docker/dockerfile:1
# CPU by default:   docker build -t triptych .
# With an NVIDIA GPU: docker build -t triptych --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/triptych && /opt/triptych/bin/pip install --no-cache-dir --upgrade pip
COPY constraints.txt pyproject.toml README.md LICENSE ./
# The heavy layer first: it changes only when the constraints do.
RUN /opt/triptych/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" \
    $(grep '^torch==' constraints.txt)
COPY model_registry ./model_registry
COPY service ./service
COPY loadtest ./loadtest
RUN /opt/triptych/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="triptych" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 10001 triptych && install -d -o triptych -g triptych /data
COPY --from=build /opt/triptych /opt/triptych
ENV PATH="/opt/triptych/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1
USER triptych
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Live as soon as HTTP answers: models may load for minutes without the container being unhealthy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["triptych"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--data-dir", "/data"]
