# The operator's image: one binary, the C library that it was linked with, and the public
# certificate authorities.
#
#   docker build -f xtask/images/operator.Dockerfile -t serin-operator .
#
# `cargo xtask images build operator` runs the same file with buildah where no base image can be pulled.
ARG BUILD_IMAGE=rust:1-slim-bookworm

FROM ${BUILD_IMAGE} AS build
ARG RUST_TARGET=x86_64-unknown-linux-gnu
# Every x86-64 processor.
ARG TARGET_CPU=x86-64
# What cargo builds. To build this image and the serving image, name both packages, and one
# TARGET_CPU, in both builds: the first then compiles for both, and what both depend on is compiled
# once. The caches are the same.
ARG BUILD="--package serin --bin serin-operator"
ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target LIBRARIES=usr/lib/x86_64-linux-gnu
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY serving-image/Cargo.toml serving-image/
COPY serving-image/kernels serving-image/kernels
COPY tests/testkit/Cargo.toml tests/testkit/
COPY xtask/Cargo.toml xtask/
COPY xtask/cluster/Cargo.toml xtask/cluster/
COPY xtask/deploy/Cargo.toml xtask/deploy/
COPY xtask/lab/Cargo.toml xtask/lab/
# Cargo wants a source file in every workspace member, also in those that are not built here.
RUN for member in tests/testkit xtask xtask/cluster xtask/deploy xtask/lab; do \
        mkdir "$member/src" && touch "$member/src/main.rs" "$member/src/lib.rs" || exit 1; \
    done
COPY serving-image/src serving-image/src
COPY src src
# Naming the target keeps the flags away from proc-macros.
RUN --mount=type=cache,id=serin-cargo,target=/cargo \
    --mount=type=cache,id=serin-target,target=/target \
    RUSTFLAGS="-C target-cpu=${TARGET_CPU}" \
    cargo build --locked --release --target "${RUST_TARGET}" ${BUILD} \
    && install -D "/target/${RUST_TARGET}/release/serin-operator" /out/usr/local/bin/serin-operator \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt
# The libraries that it asks for, from where this image's loader finds them.
RUN mkdir -p "/out/${LIBRARIES}" /out/lib64 \
    && ldd /out/usr/local/bin/serin-operator > /tmp/needed && ! grep "not found" /tmp/needed \
    && awk '$2 == "=>" { print $3 }' /tmp/needed | xargs -I{} cp -L {} "/out/${LIBRARIES}/" \
    && cp -L /lib64/ld-linux-x86-64.so.2 /out/lib64/

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
