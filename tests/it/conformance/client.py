"""A second gRPC stack asks the scaler the same questions: Python's grpcio.

client.py PROTO_DIRECTORY SCRATCH_DIRECTORY ADDRESS answers   questions as JSON on stdin, answers as JSON on stdout
client.py PROTO_DIRECTORY SCRATCH_DIRECTORY ADDRESS streams N opens N StreamIsActive on one connection, prints
                                                              "open" once each has spoken, then how all ended
"""

import collections
import json
import sys
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

PROTO, SCRATCH, ADDRESS, MODE, *REST = sys.argv[1:]
status = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={SCRATCH}", f"--grpc_python_out={SCRATCH}", "externalscaler.proto"])
if status != 0:
    sys.exit("protoc refused externalscaler.proto")
sys.path.insert(0, SCRATCH)
import externalscaler_pb2 as messages  # noqa: E402
import externalscaler_pb2_grpc as services  # noqa: E402


def told(call):
    """What a call said: its answer, or its code and message."""
    try:
        return call()
    except grpc.RpcError as error:
        return {"code": error.code().name, "message": error.details()}


def spec(scaler, reference):
    specs = scaler.GetMetricSpec(reference).metricSpecs
    return [{"metricName": s.metricName, "targetSize": s.targetSize, "targetSizeFloat": s.targetSizeFloat} for s in specs]


def metrics(scaler, reference, name):
    request = messages.GetMetricsRequest(scaledObjectRef=reference, metricName=name)
    values = scaler.GetMetrics(request).metricValues
    return [{"metricName": v.metricName, "metricValue": v.metricValue, "metricValueFloat": v.metricValueFloat} for v in values]


def reference_of(metadata):
    return messages.ScaledObjectRef(name="claps", namespace="default", scalerMetadata=metadata)


def answers(channel):
    scaler = services.ExternalScalerStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    told_by = []
    for question in json.load(sys.stdin):
        reference = reference_of(question["metadata"])
        told_by.append(
            {
                "spec": told(lambda: spec(scaler, reference)),
                "metrics": told(lambda: metrics(scaler, reference, question["metric"])),
                "active": told(lambda: scaler.IsActive(reference).result),
            }
        )
    serving = told(lambda: health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING)
    json.dump({"answers": told_by, "serving": serving}, sys.stdout)


def streams(channel, count):
    scaler = services.ExternalScalerStub(channel)
    ends = collections.Counter()
    spoken = threading.Semaphore(0)
    query = REST[1]

    def listen(number):
        reference = messages.ScaledObjectRef(name=f"claps-{number}", namespace="default", scalerMetadata={"query": query})
        stream = scaler.StreamIsActive(reference)
        try:
            for position, _ in enumerate(stream):
                if position == 0:
                    spoken.release()
            ends["OK"] += 1
        except grpc.RpcError as error:
            ends[error.code().name] += 1

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        if not spoken.acquire(timeout=30):
            sys.exit("a stream said nothing for 30 s")
    print("open", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(ends))


with grpc.insecure_channel(ADDRESS) as channel:
    if MODE == "answers":
        answers(channel)
    else:
        streams(channel, int(REST[0]))
