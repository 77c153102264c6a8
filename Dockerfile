# Build: docker build -t kserved .
# Run:   docker run --rm -p 8080:8080 -p 8081:8081 -e KSERVED_API_KEY=... -v "$PWD/models:/models:ro" kserved

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The engine library first: it changes least.
COPY scripts scripts
RUN scripts/setup.sh
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY tests tests
RUN python3 scripts/build.py

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libstdc++6 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/kserved --create-home kserved \
    && mkdir /models && chown kserved /models
COPY --from=build /src/target/release/kserved /opt/kserved/kserved
# The daemon looks in lib/ next to its own file.
COPY --from=build /src/lib /opt/kserved/lib
COPY runtimes /opt/kserved/runtimes
COPY models /models
COPY LICENSE /opt/kserved/LICENSE
USER kserved
WORKDIR /var/lib/kserved
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# Inside a container the address must be open, so the daemon wants a key (KSERVED_API_KEY) or a word that something
# else guards the port (KSERVED_PROTOCOL_ALLOW_UNAUTHENTICATED=true).
ENTRYPOINT ["/opt/kserved/kserved", "serve", "--host", "0.0.0.0", "--models", "/models", \
    "--runtimes", "/opt/kserved/runtimes", "--cache", "/var/lib/kserved/cache"]
