# syntax=docker/dockerfile:1
# sllm-gds on NVIDIA's CUDA image, with libcufile and fio, as a user without rights.
#   docker build --tag sllm-gds:local .
#   docker build --tag sllm-gds:python --build-arg PYTHON_BASELINE=true .     # gigabytes more: bench --baseline python
# Another CUDA: --build-arg CUDA=12.8.1 --build-arg CUFILE=12-8. CUDA 13.0 wants a driver of 580 or later.

ARG CUDA=13.0.2

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
# For bindgen, which reads our own header with it. Debian's mirrors keep only the newest build of a version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang1-14 \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# The image is the toolchain: without this rustup would fetch the lints that rust-toolchain.toml names.
ENV RUSTUP_TOOLCHAIN=1.95.0
# The commit that records are to name; .git is not in the build's context.
ARG COMMIT=unknown
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    SLLM_GDS_COMMIT=$COMMIT cargo build --release --locked --bin sllm-gds \
    && cp target/release/sllm-gds /usr/local/bin/

# `base` has the CUDA runtime and NVIDIA's package source; `runtime` adds gigabytes that nothing here calls.
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
ARG CUFILE=13-0
# Ubuntu's and NVIDIA's sources are as of the build; CUFILE names the release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends "libcufile-${CUFILE}" fio \
    && rm -rf /var/lib/apt/lists/*

ARG PYTHON_BASELINE=false
# hadolint ignore=DL3008
RUN if [ "$PYTHON_BASELINE" = true ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/* \
        && python3 -m venv /opt/baseline \
        && /opt/baseline/bin/pip install --no-cache-dir 'safetensors[torch]==0.8.0' torch==2.11.0; \
    fi
ENV PATH=/opt/baseline/bin:$PATH

COPY --from=build /usr/local/bin/sllm-gds /usr/local/bin/sllm-gds
RUN useradd --uid 10001 --no-create-home sllm \
    && install --directory --owner=sllm --group=sllm /models /results
# Downloads from the hub lie with the models: the container's own disk may be small, and goes with it.
ENV HF_HOME=/models/.huggingface
USER 10001:10001
# Whoever it runs as must be able to be there.
WORKDIR /tmp
ENTRYPOINT ["sllm-gds"]
CMD ["--help"]
