"""Tokens per second and time to the first token of servers that speak OpenAI's completions, in turn.

    python3 benches/serving/generation.py kserved=http://127.0.0.1:8080/openai/v1 llama.cpp=http://127.0.0.1:9000/v1

Each server has the same model loaded, named `smol`. Rates are wall-clock: all tokens of all users over the time until the last is done.
"""

import json
import statistics
import sys
import threading
import time
import urllib.request

ROUNDS = 3
WORDS = 330  # 1,211 tokens of SmolLM2


def stream(base, prompt, tokens):
    """Asks once; gives the seconds until the first piece of text."""
    body = {"model": "smol", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(base + "/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    began, first = time.perf_counter(), None
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data:") and first is None:
                first = time.perf_counter() - began
    return first


def rate(base, users, tokens, prompt):
    """Tokens per second of all users together."""
    callers = [threading.Thread(target=stream, args=(base, f"{prompt} {user}", tokens)) for user in range(users)]
    began = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return users * tokens / (time.perf_counter() - began)


def main():
    servers = dict(argument.split("=", 1) for argument in sys.argv[1:])
    long = " ".join(f"word{number}" for number in range(WORDS))
    seen = {name: [] for name in servers}
    for turn in range(ROUNDS):
        for name, base in servers.items():
            one, eight = rate(base, 1, 128, f"Once upon a time {turn}"), rate(base, 8, 64, f"The story number {turn}")
            seen[name].append((one, eight, stream(base, f"{turn} {long}", 2) * 1000))
    print("| server | 1 user, tokens/s | 8 users, tokens/s | long prompt, ms to the first token |\n|---|---|---|---|")
    for name, rows in seen.items():
        one, eight, first = (statistics.median(column) for column in zip(*rows))
        print(f"| {name} | {one:.0f} | {eight:.0f} | {first:.0f} |")


if __name__ == "__main__":
    main()
