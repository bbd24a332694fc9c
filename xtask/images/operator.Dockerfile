# The operator's image: one static binary and the public certificate authorities.
#
#   docker build -f xtask/images/operator.Dockerfile -t serin-operator .
#
# `cargo xtask images build operator` runs the same file with buildah where no base image can be pulled.
ARG BUILD_IMAGE=rust:1-slim-bookworm

FROM ${BUILD_IMAGE} AS build
ARG RUST_TARGET=x86_64-unknown-linux-gnu
# glibc is linked in, so the final stage can be empty; naming the target keeps the flag away from proc-macros,
# which must stay dynamic.
ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY serving-image/Cargo.toml serving-image/
COPY serving-image/kernels/Cargo.toml serving-image/kernels/
COPY xtask/Cargo.toml xtask/
# Cargo wants a source file in every workspace member, also in those that are not built here.
RUN mkdir serving-image/src serving-image/kernels/src xtask/src && touch serving-image/src/main.rs serving-image/src/lib.rs \
    serving-image/kernels/src/lib.rs xtask/src/main.rs xtask/src/lib.rs
COPY src src
RUN --mount=type=cache,id=serin-cargo,target=/cargo \
    --mount=type=cache,id=serin-operator-target,target=/target \
    cargo build --locked --release --target "${RUST_TARGET}" --package serin --bin serin-operator \
    && install -D "/target/${RUST_TARGET}/release/serin-operator" /out/usr/local/bin/serin-operator \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="serin-operator" \
      org.opencontainers.image.description="Rolls machine-learning models out as canaries on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/ /
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 8080 18000
ENTRYPOINT ["/usr/local/bin/serin-operator"]
