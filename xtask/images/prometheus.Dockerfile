# Prometheus for the local cluster, where no public image can be pulled. The context is a root file system made of
# Debian's prometheus binary and the shared libraries that it needs.
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY rootfs/ /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/prometheus"]
