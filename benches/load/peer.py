"""A scaler as one writes it in Python, with grpc.aio: answers GetMetrics with a constant.

peer.py PROTO_DIRECTORY SCRATCH_DIRECTORY METRIC VALUE   serves until it is killed, and logs where, as the scaler does
"""

import asyncio
import json
import sys

import grpc
from grpc_tools import protoc

PROTO, SCRATCH, METRIC, VALUE = sys.argv[1:]
status = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={SCRATCH}", f"--grpc_python_out={SCRATCH}", "externalscaler.proto"])
if status != 0:
    sys.exit("protoc refused externalscaler.proto")
sys.path.insert(0, SCRATCH)
import externalscaler_pb2 as messages  # noqa: E402
import externalscaler_pb2_grpc as services  # noqa: E402


class Constant(services.ExternalScalerServicer):
    """Does nothing between the request and the answer."""

    async def GetMetrics(self, request, context):
        value = messages.MetricValue(metricName=METRIC, metricValue=int(VALUE), metricValueFloat=float(VALUE))
        return messages.GetMetricsResponse(metricValues=[value])


async def serve():
    server = grpc.aio.server()
    services.add_ExternalScalerServicer_to_server(Constant(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    print(json.dumps({"fields": {"message": "serving", "grpc": address, "admin": address}}), file=sys.stderr, flush=True)
    await server.wait_for_termination()


asyncio.run(serve())
