"""A language model that sleeps is woken by a chat; one that writes is left awake until its answer is whole."""

import threading

import numpy as np
import openai
import packaged
import pytest
from daemon import of_format
from test_scaling import HASTY, MIB, is_asleep, metric, scaled, weights_model

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
LONG = {"model": "smol", "prompt": "Once upon a time", "max_tokens": 40, "extra_body": {"ignore_eos": True}}


def sleeper():
    """SmolLM2 with `minReplicas: 0`."""
    file = packaged.smollm2()
    return of_format("smol", "gguf", f"file://{file}").replace('"predictor": {', '"predictor": {"minReplicas": 0, ')


def client_of(daemon):
    return openai.OpenAI(base_url=f"http://{daemon.http}/openai/v1", api_key="none", max_retries=0)


def sleeps(daemon, why=None):
    condition = daemon.condition("smol", "Asleep")
    return condition is not None and (why is None or condition["reason"] == why)


def streamed(client):
    """Chunks of a long answer as they come."""
    return client.completions.create(stream=True, stream_options={"include_usage": True}, **LONG)


def assert_whole(chunks):
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == LONG["max_tokens"]


@pytest.mark.timeout(300)
def test_a_chat_wakes_a_sleeping_model_whole_or_streamed_and_many_wake_it_once(daemon):
    daemon.write("smol.yaml", sleeper())
    daemon.start(config=HASTY)
    with client_of(daemon) as client:
        ask = lambda **more: client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=8, **more)
        daemon.wait_for(lambda: sleeps(daemon), 60, "smol sleeps")
        assert [model.id for model in client.models.list()] == ["smol"] and sleeps(daemon), "a list wakes nobody"
        whole = ask().choices[0].message.content
        assert "Tokyo" in whole
        daemon.wait_for(lambda: sleeps(daemon), 60, "smol sleeps again")
        assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True) if chunk.choices) == whole
        daemon.wait_for(lambda: sleeps(daemon), 60, "smol sleeps a third time")
        woken, told = metric(daemon, "kserved_model_wake_seconds_count"), []
        threads = [threading.Thread(target=lambda: told.append(ask().choices[0].message.content)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [whole] * 6
        assert metric(daemon, "kserved_model_wake_seconds_count") == woken + 1


@pytest.mark.timeout(300)
def test_a_model_falls_asleep_only_when_its_answer_is_whole(daemon):
    daemon.write("smol.yaml", sleeper())
    daemon.start(config=HASTY.replace("grace_s: 1", "grace_s: 0"))
    with client_of(daemon) as client:
        chunks = []
        for chunk in streamed(client):
            chunks.append(chunk)
            # What looks at it between two of its tokens finds it awake: the last chunk comes before it may sleep.
            assert chunk.usage or not sleeps(daemon)
        assert_whole(chunks)
    daemon.wait_for(lambda: sleeps(daemon, "ScaledToZero"), 60, "smol sleeps")


@pytest.mark.timeout(300)
def test_another_model_s_want_of_memory_waits_for_a_running_answer(daemon):
    side = weights_model(daemon.models / "big" / "model.onnx", 200, 5)
    daemon.write("big.yaml", scaled("big", "minReplicas: 0", "autoscaling.knative.dev/initial-scale: '0'"))
    daemon.write("smol.yaml", sleeper().replace('"minReplicas": 0, ', ""))
    daemon.start(config=f"memory: {{models_bytes_max: {500 * MIB}}}\ngeneration: {{kv_bytes_max: {64 * MIB}}}\n")
    daemon.wait_ready("smol", within_s=120)
    daemon.wait_for(lambda: is_asleep(daemon, "big"), 60, "big sleeps")
    answers, x = [], np.zeros((1, side), np.float32)
    x[0, 0] = 1

    def ask():
        other = daemon.new_client()
        answers.append(other.infer("binary", "big", {"x": x})["y"][0, 0])
        other.close()

    asking = threading.Thread(target=ask)
    with client_of(daemon) as client:
        chunks = []
        for chunk in streamed(client):
            chunks.append(chunk)
            if len(chunks) == 1:
                asking.start()
        assert_whole(chunks)
    asking.join()
    assert answers == [5]
    assert sleeps(daemon, "MemoryBudget"), daemon.condition("smol", "Asleep")
    with client_of(daemon) as client:
        again = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=8)
    assert "Tokyo" in again.choices[0].message.content, "the memory comes back to who asks"
