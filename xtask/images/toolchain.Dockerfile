# A stand-in for the public `rust` image on a machine that cannot pull one. It holds mount points only: buildah
# binds this machine's /usr, toolchain and crate cache there while a RUN line compiles.
FROM scratch
COPY rootfs/ /
ENV PATH=/toolchain/bin:/usr/local/bin:/usr/bin:/bin HOME=/root
