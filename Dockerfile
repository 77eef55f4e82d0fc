# docker build -t parvis .
# docker run -p 8080:8080 -v "$PWD/config.yaml:/etc/parvis/config.yaml:ro" --read-only parvis
#
# Inside a container 127.0.0.1 is the container: upstreams need a name or an address that it reaches, and an admin
# listener that others shall reach has to be told so in the configuration.

FROM rust:1-bookworm AS build
WORKDIR /src
# Before the sources, so that a change to them does not install again.
COPY scripts/setup scripts/setup
RUN scripts/setup build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --locked --release --bin parvis

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/parvis /usr/local/bin/parvis
# A number, so that an orchestrator can see that it is not root; it owns no file and needs none.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/parvis"]
CMD ["run", "-c", "/etc/parvis/config.yaml"]
