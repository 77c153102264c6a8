"""Calls a server with the clients of KServe's Python SDK and prints what they understood, as JSON.

Run: python tests/clients/kserve_clients.py HTTP_ADDRESS GRPC_ADDRESS
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.constants.constants import PredictorProtocol

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)


async def main(http, grpc):
    found = await over_rest(f"http://{http}") | await over_grpc(grpc)
    json.dump(found, sys.stdout)


async def over_rest(url):
    v1 = InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V1, timeout=30))
    v2 = InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V2, timeout=30))
    answer = await v1.infer(url, {"instances": FLOWERS.tolist()}, model_name="iris")
    found = {
        "rest is_server_live": await v2.is_server_live(url),
        "rest is_server_ready": await v2.is_server_ready(url),
        "rest is_model_ready": await v2.is_model_ready(url, "iris"),
        "rest v1 predictions": [row["species"] for row in answer["predictions"]],
    }
    for form, binary in (("json", False), ("binary", True)):
        asked = request(binary)
        if binary:
            asked.parameters = {"binary_data_output": True}
        found |= understood(f"rest {form}", await v2.infer(url, asked, model_name="iris"))
    return found


async def over_grpc(address):
    client = InferenceGRPCClient(address, timeout=30)
    found = {
        "grpc is_server_live": await client.is_server_live(),
        "grpc is_server_ready": await client.is_server_ready(),
        "grpc is_model_ready": await client.is_model_ready("iris"),
    }
    for form, binary in (("raw", True), ("typed", False)):
        found |= understood(f"grpc {form}", await client.infer(request(binary)))
    await client.close()
    return found


def request(binary):
    tensor = InferInput("measurements", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS, binary_data=binary)
    return InferRequest("iris", [tensor])


def understood(prefix, response):
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    words = [element.decode() if isinstance(element, bytes) else str(element) for element in outputs["species"]]
    return {f"{prefix} species": words, f"{prefix} probabilities": outputs["probabilities"].astype(np.float32).tolist()}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
