"""OpenAI's own client embeds texts, sync and async; documents are reranked; and every mistake is told in OpenAI's form."""

import asyncio
import base64
import json

import numpy as np
import openai
import pytest
import tiny_encoders as tiny
from daemon import Daemon, hugging_face

TEXTS = ["A man is playing a guitar", "the cat sits outside", "dog"]
DOCUMENTS = ["the dog runs in the garden", "Paris is the capital of France", "a book"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One daemon with an embedder, a reranker and a classifier."""
    daemon = Daemon(tmp_path_factory.mktemp("openai"))
    daemon.references = {}
    for name, family, task in [("embed", "bert", "text_embedding"), ("rank", "xlm-roberta", "rerank"), ("label", "bert", "sequence_classification")]:
        weights = tiny.make(daemon.models / name, family, task)
        daemon.references[name] = tiny.Reference(family, task, weights)
        daemon.write(f"{name}.yaml", hugging_face(name, name, "--max_model_len=60"))
    daemon.start()
    for name in daemon.references:
        daemon.wait_ready(name)
    yield daemon
    assert daemon.stop() == 0


def client_of(served, prefix="/openai/v1", kind=openai.OpenAI):
    return kind(base_url=f"http://{served.http}{prefix}", api_key="none", max_retries=0)


def post(served, path, body):
    return served.client.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})


def expected(served, *texts):
    return np.stack([served.references["embed"].answer(text) for text in texts])


@pytest.mark.parametrize("prefix", ["/openai/v1", "/v1"])
@pytest.mark.parametrize("form", ["float", "base64", openai.NOT_GIVEN])
def test_openais_client_embeds_texts(served, prefix, form):
    with client_of(served, prefix) as client:
        answer = client.embeddings.create(model="embed", input=TEXTS, encoding_format=form)
    vectors = [np.frombuffer(base64.b64decode(row.embedding), "<f4") if form == "base64" else row.embedding for row in answer.data]
    np.testing.assert_allclose(vectors, expected(served, *TEXTS), atol=1e-4)
    assert [row.index for row in answer.data] == [0, 1, 2] and answer.model == "embed"
    count = sum(len(served.references["embed"].tokens(text)[0]) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)


def test_a_text_tokens_and_fewer_dimensions_are_taken(served):
    with client_of(served) as client:
        one = np.array(client.embeddings.create(model="embed", input="dog").data[0].embedding)
        ids = served.references["embed"].tokens("dog")[0].tolist()
        for tokens in [ids, [ids]]:
            np.testing.assert_array_equal(client.embeddings.create(model="embed", input=tokens).data[0].embedding, one)
        short = np.array(client.embeddings.create(model="embed", input="dog", dimensions=8).data[0].embedding)
    np.testing.assert_allclose(short, one[:8] / np.linalg.norm(one[:8]), atol=1e-6)


def test_a_long_text_is_cut_where_that_is_asked_for(served):
    reference, long = served.references["embed"], " ".join(TEXTS * 30)
    ids = reference.tokens(long)[0].tolist()
    with client_of(served) as client:
        embed = lambda text, **more: client.embeddings.create(model="embed", input=text, extra_body=more)
        cut, whole = embed([long, "dog"], truncate_prompt_tokens=6), embed(long, truncate_prompt_tokens=-1)
        assert (cut.usage.prompt_tokens, whole.usage.prompt_tokens) == (6 + len(reference.tokens("dog")[0]), 60)
        same = embed([[*ids[:5], ids[-1]]])
        np.testing.assert_allclose(cut.data[0].embedding, same.data[0].embedding, atol=1e-6)
        with pytest.raises(openai.BadRequestError, match="61 tokens are to be kept, and the model takes 60"):
            embed(long, truncate_prompt_tokens=61)


def test_openais_async_client_embeds_many_at_once(served):
    async def many():
        async with client_of(served, kind=openai.AsyncOpenAI) as client:
            calls = [client.embeddings.create(model="embed", input=[text]) for text in TEXTS * 10]
            return [answer.data[0].embedding for answer in await asyncio.gather(*calls)]

    np.testing.assert_allclose(asyncio.run(many()), np.tile(expected(served, *TEXTS), (10, 1)), atol=1e-4)


def test_models_are_listed_that_openais_interface_can_ask(served):
    with client_of(served) as client:
        assert sorted(model.id for model in client.models.list()) == ["embed", "rank"]
        assert client.models.retrieve("embed").id == "embed"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")
    assert served.client.get("/v1/models").json() == {"models": ["embed", "label", "rank"]}


@pytest.mark.parametrize("path", ["/openai/v1/rerank", "/v1/rerank"])
def test_documents_are_ranked_by_the_references_scores(served, path):
    query = "what is the capital of France"
    found = post(served, path, {"model": "rank", "query": query, "documents": DOCUMENTS}).json()
    logits = [served.references["rank"].answer(query, document)[0] for document in DOCUMENTS]
    scores = 1 / (1 + np.exp(-np.array(logits)))
    order = np.argsort(-scores)
    assert [row["index"] for row in found["results"]] == order.tolist()
    np.testing.assert_allclose([row["relevance_score"] for row in found["results"]], scores[order], atol=1e-4)
    assert found["results"][0]["document"] == {"text": DOCUMENTS[order[0]]}
    first = post(served, path, {"model": "rank", "query": query, "documents": DOCUMENTS, "top_n": 1}).json()
    assert first["results"] == found["results"][:1]


def test_a_wrong_request_is_told_in_openais_form(served):
    with client_of(served) as client:
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="nobody", input="x")
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="label", input="x")
        assert refused.value.body["message"] == "Model label does not support Embeddings API"
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="embed", input=[10**6])
        assert "token 1000000 is none of the model's" in refused.value.body["message"]
    answer = post(served, "/openai/v1/embeddings", {"model": "embed", "input": []})
    assert answer.json()["error"]["param"] == "input" and answer.status in (400, 422)
    answer = post(served, "/openai/v1/embeddings", {"model": "embed", "input": "x", "dimensions": 33})
    assert answer.json()["error"]["message"] == "`dimensions`: the model's vectors have 32, found 33"
    assert post(served, "/v1/rerank", {"model": "embed", "query": "x", "documents": ["y"]}).status == 400
