# syntax=docker/dockerfile:1
# Two images, each one static executable on an empty root:
#
#     docker build --target scaler --tag clapometer .
#     docker build --target batch --tag postgres-batch .
#
# `make image` builds and runs both without a Docker engine. COMMIT is what `--version` prints.
ARG BUILDER=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${BUILDER} AS build
WORKDIR /build
COPY . .
ARG COMMIT=unknown
ARG TARGETPLATFORM
# crt-static: glibc 2.34 and later have the resolver for files and DNS built in, so a static executable finds
# its database on an empty root. It has no dlsym, by which the crate getrandom looks for the system call before it
# settles for /dev/urandom: linux_getrandom makes it call without looking, and need no /dev.
# The build directory is a cache, so the executables are copied out of it. One for each platform: the builds of an image for
# several run at the same time. The registry's sources are the same for all.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=clapometer-target-$TARGETPLATFORM,target=/build/target \
    triple=$(rustc --print host-tuple) \
    && CLAPOMETER_COMMIT="$COMMIT" \
    RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
    cargo build --locked --release --bins --target "$triple" \
    && mkdir /out \
    && cp "target/$triple/release/clapometer" "target/$triple/release/postgres-batch" /out/

# What glibc's resolver and PostgreSQL's clients look for; Kubernetes mounts hosts and resolv.conf over it. And what the
# licences ask for: the executables contain glibc and the crates of THIRD-PARTY-NOTICES.
RUN mkdir -p /skeleton/etc /skeleton/licenses \
    && cp /usr/share/doc/libc6-dev/copyright /skeleton/licenses/glibc \
    && cp /usr/share/common-licenses/LGPL-2.1 LICENSE-APACHE LICENSE-MIT THIRD-PARTY-NOTICES /skeleton/licenses/ \
    && printf 'nonroot:x:65532:65532::/:/sbin/nologin\n' >/skeleton/etc/passwd \
    && printf 'nonroot:x:65532:\n' >/skeleton/etc/group \
    && printf 'hosts: files dns\n' >/skeleton/etc/nsswitch.conf

FROM scratch AS scaler
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="clapometer" \
    org.opencontainers.image.description="PostgreSQL scaler for KEDA" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /skeleton /
COPY --from=build /out/clapometer /clapometer
USER 65532:65532
EXPOSE 9090 9091
STOPSIGNAL SIGTERM
ENTRYPOINT ["/clapometer"]
CMD ["serve"]

FROM scratch AS batch
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="postgres-batch" \
    org.opencontainers.image.description="A fault-tolerant Job for a queue table on PostgreSQL" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /skeleton /
COPY --from=build /out/postgres-batch /postgres-batch
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/postgres-batch"]
CMD ["work"]
