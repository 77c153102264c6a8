"""A language model is asked by OpenAI's own Python client, which knows nothing of kserved: whole, streamed, async, with tools and forms."""

import asyncio
import json
import subprocess

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


def address(daemon):
    return f"http://{daemon.http}/openai/v1"


@pytest.fixture
def client(smol):
    with openai.OpenAI(base_url=address(smol), api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_answers_whole_and_streamed_the_same(client):
    whole = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=24)
    assert "Tokyo" in whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model="smol", messages=QUESTION, temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens and not chunks[-1].choices


def test_a_text_goes_on_with_log_probabilities_and_a_stop(client):
    answer = client.completions.create(model="smol", prompt="The capital of France is", temperature=0, max_tokens=4, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith(" Paris")
    assert len(choice.logprobs.token_logprobs) == answer.usage.completion_tokens and choice.logprobs.token_logprobs[0] < 0
    stopped = client.completions.create(model="smol", prompt="The capital of France is", temperature=0, max_tokens=16, stop=["."])
    assert stopped.choices[0].text == " Paris" and stopped.choices[0].finish_reason == "stop"


def test_a_seed_gives_the_same_answer_again(client):
    def ask(seed):
        answer = client.chat.completions.create(model="smol", messages=QUESTION, temperature=1.5, seed=seed, max_tokens=16, n=2)
        return [choice.message.content for choice in answer.choices]

    assert ask(3) == ask(3) and ask(3)[0] != ask(3)[1]


def test_many_ask_at_once_and_each_hears_what_it_hears_alone(smol):
    async def all_of(prompts):
        async with openai.AsyncOpenAI(base_url=address(smol), api_key="none", max_retries=0) as client:

            async def one(prompt):
                stream = await client.completions.create(model="smol", prompt=prompt, temperature=0, max_tokens=8, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(one, prompts))

    prompts = [f"The number after {number} is" for number in range(8)]
    alone = [asyncio.run(all_of([prompt]))[0] for prompt in prompts]
    assert asyncio.run(all_of(prompts)) == alone


def test_a_schema_holds_the_answer_in_its_form(client):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="smol",
        messages=QUESTION,
        temperature=0,
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}},
    )
    place = json.loads(answer.choices[0].message.content)
    assert set(place) == {"city", "large"} and isinstance(place["large"], bool)


def test_a_tool_that_must_be_called_is_called(client):
    parameters = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": parameters}}
    answer = client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "How is the weather in Tokyo?"}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=64,
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and isinstance(json.loads(call.arguments)["city"], str)


def test_mistakes_are_told_in_openais_classes(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=QUESTION)
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.chat.completions.create(model="smol", messages=QUESTION, temperature="hot")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="smol", input="a")


def test_a_client_that_leaves_frees_its_place(smol, client):
    stream = client.completions.create(model="smol", prompt="Once upon a time", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    running = "vllm:num_requests_running"
    smol.wait_for(lambda: any(line.startswith(running) and line.endswith(" 0") for line in smol.client.get("/metrics").body.decode().splitlines()), 20, "forgets the answer")


def test_what_callers_see_is_measured_under_vllms_names_and_those_of_the_conventions(smol, client):
    def page():
        lines = smol.client.get("/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and not line.startswith("#")}

    def count(page, name, **labels):
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(value for line, value in page.items() if line.startswith(name + "{") and all(label in line for label in wanted))

    before = page()
    answer = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=8, extra_body={"ignore_eos": True})
    client.completions.create(model="smol", prompt="Once", temperature=0, max_tokens=3, extra_body={"ignore_eos": True})
    after = page()

    def more(name, **labels):
        return count(after, name, **labels) - count(before, name, **labels)

    assert more("vllm:generation_tokens_total", model_name="smol") == 11
    assert more("vllm:prompt_tokens_total", model_name="smol") > answer.usage.prompt_tokens
    assert more("vllm:request_success_total", model_name="smol", finished_reason="length") == 2
    times = {"time_to_first_token_seconds": 2, "inter_token_latency_seconds": 9, "e2e_request_latency_seconds": 2}
    of_requests = ["queue_time_seconds", "prefill_time_seconds", "decode_time_seconds", "inference_time_seconds",
                   "time_per_output_token_seconds", "prompt_tokens", "generation_tokens"]  # fmt: skip
    for name, count_of in (times | {f"request_{name}": 2 for name in of_requests}).items():
        assert more(f"vllm:{name}_count", model_name="smol") == count_of, name
        assert more(f"vllm:{name}_bucket", model_name="smol", le="+Inf") == count_of, name
    spent = {name: more(f"vllm:request_{name}_time_seconds_sum", model_name="smol") for name in ("prefill", "decode", "inference")}
    assert spent["inference"] == pytest.approx(spent["prefill"] + spent["decode"]) and min(spent.values()) > 0
    assert more("vllm:request_generation_tokens_sum", model_name="smol") == 11
    assert more("vllm:request_generation_tokens_bucket", model_name="smol", le="4") == 1
    assert more("vllm:request_prompt_tokens_sum", model_name="smol") == more("vllm:prompt_tokens_total", model_name="smol")
    of_chat = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "kserved", "gen_ai_request_model": "smol", "gen_ai_response_model": "smol"}
    assert more("gen_ai_server_request_duration_seconds_count", **of_chat) == 1
    assert more("gen_ai_server_time_to_first_token_seconds_count", **of_chat) == 1
    assert more("gen_ai_server_time_per_output_token_seconds_count", **of_chat) == 7
    assert more("gen_ai_client_token_usage_sum", gen_ai_token_type="output", **of_chat) == 8
    assert more("gen_ai_client_token_usage_sum", gen_ai_token_type="input", **of_chat) == answer.usage.prompt_tokens
    assert more("gen_ai_client_token_usage_sum", gen_ai_token_type="output", gen_ai_operation_name="text_completion") == 3


def test_triton_s_generate_answers_whole_and_streamed(smol):
    body = {"text_input": "The capital of France is", "parameters": {"temperature": 0, "max_tokens": 3}}
    whole = smol.client.request("POST", "/v2/models/smol/generate", json.dumps(body))
    assert whole.status == 200 and whole.json()["text_output"].startswith(" Paris"), whole.body
    streamed = smol.client.request("POST", "/v2/models/smol/generate_stream", json.dumps(body)).body.decode()
    pieces = [json.loads(line[5:])["text_output"] for line in streamed.splitlines() if line.startswith("data:")]
    assert "".join(pieces) == whole.json()["text_output"]


def test_the_terminal_s_chat_reads_a_pipe(smol):
    command = [smol.binary, "chat", "smol", "--server", f"http://{smol.http}", "--option", "temperature=0", "--option", "max_tokens=24"]
    talked = subprocess.run(command, input="What is the capital of Japan?\n", capture_output=True, text=True, timeout=60)
    assert talked.returncode == 0 and "Tokyo" in talked.stdout, talked
