"""Conversations become the prompts that Jinja for Python makes of them, set up as the `transformers` library sets it up.

`cargo test` compares kserved with the committed prompts byte for byte; here they are held against Jinja itself, and a real
model's own template is rendered by both.
"""

import json
import struct
import sys

import pytest
from daemon import ROOT

FOLDER = ROOT / "tests" / "fixtures" / "chat"
sys.path.insert(0, str(FOLDER))

import make_expectations  # noqa: E402

SAYS = lambda role, content: {"role": role, "content": content}
TALKS = [
    [SAYS("user", "What is the capital of Japan?")],
    [SAYS("system", "Be brief."), SAYS("user", "Hi"), SAYS("assistant", "Hello\n"), SAYS("user", " And Zürich? ")],
    [SAYS("user", make_expectations.SCRIPTS)],
    [SAYS("system", ""), SAYS("user", "")],
]


def test_the_committed_prompts_are_those_that_jinja_makes_today():
    committed = json.loads((FOLDER / "expected.json").read_text())
    assert {case["template"] for case in committed} == {"chatml", "gemma", "llama3", "mistral", "phi3", "qwen"}
    assert committed == make_expectations.cases()


def template_of(file):
    """A GGUF file's template: behind its name stand a type and a length."""
    name, data = b"tokenizer.chat_template", file.read_bytes()
    start = data.index(name) + len(name)
    kind, length = struct.unpack_from("<IQ", data, start)
    assert kind == 8, "a text"
    return data[start + 12 : start + 12 + length].decode()


@pytest.mark.parametrize("messages", TALKS)
def test_a_real_model_reads_a_conversation_as_jinja_writes_it(smol, messages):
    tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    written = make_expectations.render(template_of(smol.file), {"messages": messages, "add_generation_prompt": True, **tokens})
    options = {"model": "smol", "temperature": 0, "max_tokens": 4, "logprobs": True, "ignore_eos": True}
    answer = smol.client.request("POST", "/openai/v1/chat/completions", json.dumps({"messages": messages, "top_logprobs": 0} | options))
    assert answer.status == 200, answer.body
    chat = answer.json()
    body = {"prompt": written["prompt"]} | options | {"logprobs": 1}
    plain = smol.client.request("POST", "/openai/v1/completions", json.dumps(body)).json()
    assert chat["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    choice = plain["choices"][0]
    assert chat["choices"][0]["message"]["content"] == choice["text"]
    # The same prompt gives the same numbers to the last bit; one token more or less would not.
    assert [token["logprob"] for token in chat["choices"][0]["logprobs"]["content"]] == choice["logprobs"]["token_logprobs"]
