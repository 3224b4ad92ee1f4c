#!/opt/fedcosim/bin/python
"""Say by the exit code whether a server answers: `healthcheck http://host:port/path` or `healthcheck grpc://host:port`."""

import sys
from urllib.parse import urlsplit
from urllib.request import urlopen

TIMEOUT_S = 8


def main(url: str) -> bool:
    """Ask once; HTTP must say 2xx, gRPC's health service SERVING."""
    if urlsplit(url).scheme == "http":
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            return answer.status < 300
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


if __name__ == "__main__":
    try:
        sys.exit(not main(sys.argv[1]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
